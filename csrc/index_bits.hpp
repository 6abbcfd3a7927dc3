// Where ggml's blocks keep the integer of each weight, for the types whose weights are rounded one by one.
#pragma once

#include <cstdint>
#include <vector>

#include "ggml.h"

namespace mqn {

// A few bits of one byte.
struct BitField {
  int byte;
  int shift;
  int width;
};

// The integers of one block, 0 to n_levels - 1: low.width bits and, above these, high.width bits, maybe none.
// Types with codebooks for several weights have no layout.
struct IndexLayout {
  int n_levels = 0;
  bool is_affine = true;  // values go up in equal steps; else they come from a table
  std::vector<BitField> low;
  std::vector<BitField> high;

  bool empty() const { return low.empty(); }
  void set(uint8_t* block, int64_t i, int index) const {
    const auto at = static_cast<size_t>(i);
    put(block, low[at], index);
    put(block, high[at], index >> low[at].width);
  }

 private:
  static void put(uint8_t* block, const BitField& field, int bits) {
    const int mask = ((1 << field.width) - 1) << field.shift;
    uint8_t& byte = block[field.byte];
    byte = static_cast<uint8_t>((byte & ~mask) | ((bits << field.shift) & mask));
  }
};

// The layout of a type's blocks (ggml-common.h, as ggml-quants.c reads them); empty for types that have none.
const IndexLayout& index_layout(ggml_type type);

}  // namespace mqn
