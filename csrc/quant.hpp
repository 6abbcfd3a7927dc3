// Rows of one type into rows of another, threaded over ggml's own kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "ggml.h"
#include "monitor.hpp"

namespace mqn {

// A tensor in memory: n_slices matrices (experts) of n_rows rows, each of n_per_row weights, contiguous.
struct Matrices {
  ggml_type type;
  const void* data;
  int64_t n_slices;
  int64_t n_rows;
  int64_t n_per_row;

  int64_t total_rows() const { return n_slices * n_rows; }
};

// Bytes of one row of `n_per_row` weights. Throws unsupported_type where the row does not fill blocks.
size_t row_bytes(ggml_type type, int64_t n_per_row);

// Row `row` (counted over all slices) as float32. Throws non_finite, naming slice and row.
void read_row(const Matrices& src, int64_t row, float* out);

// Encodes all rows of src as dst_type into dst (total_rows * row_bytes(dst_type) bytes).
// imatrix: null, or n_slices * n_per_row importances, finite and >= 0; slice e uses its own n_per_row.
// Bytes equal llama_model_quantize's and do not depend on n_threads. Progress counts weights.
// Throws unsupported_type, imatrix, non_finite, quantize (blocks that fail ggml_validate_row_data),
// cancelled.
void quantize(const Matrices& src, ggml_type dst_type, void* dst, const float* imatrix, int n_threads,
              Monitor& monitor);

// Decodes all rows of src to float32. Infinities and NaN pass through.
void dequantize(const Matrices& src, float* dst, int n_threads, Monitor& monitor);

// Checks what quantize() would throw for before any work: legality of the type and the importances.
void check_target(const Matrices& src, ggml_type dst_type, const float* imatrix);

}  // namespace mqn
