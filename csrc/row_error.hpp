// What a row loses when it is written as another type: one pass over rows for many types.
#pragma once

#include <cstdint>
#include <vector>

#include "ggml.h"
#include "monitor.hpp"
#include "quant.hpp"

namespace mqn {

// Sums over one row w, its decoded copy q, the error d = q - w and the importances v (1 without imatrix).
// All in double; max_abs is exact.
struct RowError {
  double d2;       // sum d^2
  double vd2;      // sum v d^2
  double max_abs;  // max |d|
  double wq;       // sum w q
  double q2;       // sum q^2
  double vwq;      // sum v w q
  double vq2;      // sum v q^2
};
// What is known of a row without encoding it. A peak is the sum over blocks of (max w^2 in the block) times
// (sum v in the block): types scale their blocks by the largest weight, so that their errors go with it.
struct RowNorm {
  double w2;       // sum w^2
  double vw2;      // sum v w^2
  double peak16;   // of blocks of 16 weights
  double peak32;   // of 32
  double peak256;  // of 256
};

// Errors |d| are counted in bins: 64 to the octave, equally wide within it, so that the geometric middle of a
// bin is within 0.8 % of anything in it. Bin b holds the floats whose bits, shifted right by 17, equal b.
constexpr int error_bin_shift = 17;
constexpr int64_t n_error_bins = (0x7f800000 >> error_bin_shift) + 1;

// Encodes the listed rows (counted over all slices) of src as each of types and measures the loss.
// errors: types.size() * n_rows, type-major; norms: n_rows; histogram: null, or types.size() * n_error_bins
// counts, added to. Results do not depend on n_threads. Progress counts weights times types.
// Throws as quantize() does, for every type before any work.
void row_errors(const Matrices& src, const int64_t* rows, int64_t n_rows, const std::vector<ggml_type>& types,
                const float* imatrix, RowError* errors, RowNorm* norms, uint64_t* histogram, int n_threads,
                Monitor& monitor);

}  // namespace mqn
