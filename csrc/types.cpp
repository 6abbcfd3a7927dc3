#include "types.hpp"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <mutex>

#include "backend.hpp"
#include "ggml-cpu.h"
#include "ggml-quants.h"
#include "ggml.h"
#include "parallel.hpp"

namespace mqn {
namespace {

constexpr int64_t n_probe = 256;
using ProbeRow = std::array<float, n_probe>;

std::vector<uint8_t> encode(ggml_type type, const ProbeRow& row, const ProbeRow& imatrix) {
  std::vector<uint8_t> bytes(ggml_row_size(type, n_probe));
  ggml_quantize_chunk(type, row.data(), bytes.data(), 0, 1, n_probe, imatrix.data());
  return bytes;
}

// Types that share a table get the type that stands for it, all others GGML_TYPE_COUNT
// (ggml-quants.c, iq2_data_index and iq3_data_index).
ggml_type table_of(int id) {
  switch (id) {
    case GGML_TYPE_IQ1_S:
    case GGML_TYPE_IQ1_M:
      return GGML_TYPE_IQ1_S;
    case GGML_TYPE_IQ2_XXS:
    case GGML_TYPE_IQ2_XS:
    case GGML_TYPE_IQ2_S:
    case GGML_TYPE_IQ3_XXS:
    case GGML_TYPE_IQ3_S:
      return static_cast<ggml_type>(id);
    default:
      return GGML_TYPE_COUNT;
  }
}

// What ggml_quantize_init does, without its process-wide lock.
void build_table(ggml_type type) {
  if (type == GGML_TYPE_IQ3_XXS || type == GGML_TYPE_IQ3_S) {
    iq3xs_init_impl(type == GGML_TYPE_IQ3_XXS ? 256 : 512);
  } else {
    iq2xs_init_impl(type);
  }
}

}  // namespace

std::vector<TypeInfo> type_table() {
  std::vector<TypeInfo> table;
  for (int id = 0; id < GGML_TYPE_COUNT; ++id) {
    const ggml_type_traits* traits = ggml_get_type_traits(static_cast<ggml_type>(id));
    if (traits->blck_size <= 0 || traits->type_size == 0 || traits->type_name == nullptr) {
      continue;
    }
    const auto type = static_cast<ggml_type>(id);
    table.push_back({id, type_name(id), traits->blck_size, static_cast<int64_t>(traits->type_size),
                     traits->is_quantized, has_encoder(id), ggml_quantize_requires_imatrix(type),
                     type_name(ggml_get_type_traits_cpu(type)->vec_dot_type)});
  }
  return table;
}

std::string type_name(int id) {
  std::string name = ggml_type_name(static_cast<ggml_type>(id));
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return name;
}

bool has_encoder(int id) {
  return id == GGML_TYPE_F32 || ggml_get_type_traits(static_cast<ggml_type>(id))->to_float != nullptr;
}

bool uses_imatrix(int id) {
  ensure_backend();
  const AbortGuard guard;
  const auto type = static_cast<ggml_type>(id);
  prepare_encoders({id}, 1);
  ProbeRow row;
  ProbeRow rising;
  ProbeRow falling;
  for (int64_t i = 0; i < n_probe; ++i) {
    const auto x = static_cast<float>(i);
    const auto rest = static_cast<float>(n_probe - i);
    row[i] = std::sin(1.7F * x) * (1.0F + 0.01F * x);
    rising[i] = 0.01F + x * x;
    falling[i] = 0.01F + rest * rest;
  }
  return encode(type, row, rising) != encode(type, row, falling);
}

void prepare_encoders(const std::vector<int>& ids, int n_threads) {
  // ggml builds a table under a lock of its own, one after the other; each writes only its own data.
  static std::mutex mutex;
  static std::vector<ggml_type> built;
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<ggml_type> missing;
  for (const int id : ids) {
    const ggml_type table = table_of(id);
    const bool known =
        std::count(built.begin(), built.end(), table) + std::count(missing.begin(), missing.end(), table) > 0;
    if (table != GGML_TYPE_COUNT && !known) {
      missing.push_back(table);
    }
  }
  // The largest table first, so that the others fill the time it takes.
  std::stable_partition(missing.begin(), missing.end(), [](ggml_type t) { return t == GGML_TYPE_IQ1_S; });
  const Monitor uncancellable;
  parallel_for(static_cast<int64_t>(missing.size()), n_threads, uncancellable,
               [&](int64_t i) { build_table(missing[i]); });
  built.insert(built.end(), missing.begin(), missing.end());
}

}  // namespace mqn
