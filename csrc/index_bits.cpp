#include "index_bits.hpp"

#include <functional>
#include <map>

namespace mqn {
namespace {

using Place = std::function<BitField(int)>;

IndexLayout layout(int n, int n_levels, const Place& low, const Place& high = nullptr) {
  IndexLayout found;
  found.n_levels = n_levels;
  for (int i = 0; i < n; ++i) {
    found.low.push_back(low(i));
    found.high.push_back(high ? high(i) : BitField{0, 0, 0});
  }
  return found;
}

IndexLayout from_table(IndexLayout found) {
  found.is_affine = false;
  return found;
}

// Blocks of 32: the first half in the low nibbles, the second in the high ones.
Place halves(int start) {
  return [=](int i) { return BitField{start + i % 16, i < 16 ? 0 : 4, 4}; };
}

// Super-blocks of 256 in pieces of 64: 32 low nibbles, then 32 high ones.
Place nibbles_of_64(int start) {
  return [=](int i) { return BitField{start + i / 64 * 32 + i % 32, i % 64 < 32 ? 0 : 4, 4}; };
}

// Super-blocks of 256 in pieces of 128: four times 32 in two bits each.
Place pairs_of_128(int start) {
  return [=](int i) { return BitField{start + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2}; };
}

// One bit a weight, the eight pieces of 32 one bit above the other.
Place bits_of_32(int start) {
  return [=](int i) { return BitField{start + i % 32, i / 32, 1}; };
}

std::map<ggml_type, IndexLayout> all_layouts() {
  std::map<ggml_type, IndexLayout> all;
  const Place fifth = [](int i) { return BitField{2 + i / 8, i % 8, 1}; };
  const Place fifth_of_1 = [](int i) { return BitField{4 + i / 8, i % 8, 1}; };
  all[GGML_TYPE_Q4_0] = layout(32, 16, halves(2));
  all[GGML_TYPE_Q4_1] = layout(32, 16, halves(4));
  all[GGML_TYPE_Q5_0] = layout(32, 32, halves(6), fifth);
  all[GGML_TYPE_Q5_1] = layout(32, 32, halves(8), fifth_of_1);
  all[GGML_TYPE_IQ4_NL] = from_table(layout(32, 16, halves(2)));
  // d, scales_h, scales_l[4], then blocks of 32 as above.
  all[GGML_TYPE_IQ4_XS] = from_table(
      layout(256, 16, [](int i) { return BitField{8 + i / 32 * 16 + i % 16, i % 32 < 16 ? 0 : 4, 4}; }));
  all[GGML_TYPE_Q2_K] = layout(256, 4, pairs_of_128(16));
  all[GGML_TYPE_Q3_K] = layout(256, 8, pairs_of_128(32), bits_of_32(0));
  all[GGML_TYPE_Q4_K] = layout(256, 16, nibbles_of_64(16));
  all[GGML_TYPE_Q5_K] = layout(256, 32, nibbles_of_64(48), bits_of_32(16));
  // Pieces of 128: two times 32 low nibbles, then their high ones.
  all[GGML_TYPE_Q6_K] = layout(
      256, 64, [](int i) { return BitField{i / 128 * 64 + i % 64, i % 128 < 64 ? 0 : 4, 4}; },
      [](int i) { return BitField{128 + i / 128 * 32 + i % 32, i % 128 / 32 * 2, 2}; });
  return all;
}

}  // namespace

const IndexLayout& index_layout(ggml_type type) {
  static const std::map<ggml_type, IndexLayout> all = all_layouts();
  static const IndexLayout none;
  const auto found = all.find(type);
  return found == all.end() ? none : found->second;
}

}  // namespace mqn
