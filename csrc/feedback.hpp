// Rounding with error feedback: every weight of a row takes over what those before it lost.
#pragma once

#include <cstdint>
#include <vector>

#include "monitor.hpp"
#include "quant.hpp"

namespace mqn {

// The rows' columns in groups: errors are handed on inside a group. Groups have `columns` columns, the last
// one what is left. Matrices of a group are square, row after row; those of all groups follow each other.
struct ColumnGroups {
  int64_t n_per_row;
  int64_t columns;

  int64_t count() const { return (n_per_row + columns - 1) / columns; }
  int64_t size(int64_t group) const;
  int64_t offset(int64_t group) const { return group * columns * columns; }
  // Floats that the matrices of one slice take.
  int64_t total() const;
};

// From the second moments H of the inputs (H_jk = mean of x_j x_k, its upper triangle) to the weights of the
// feedback, in place: H + damping * mean diagonal = U D U', U with a diagonal of ones, and what is written is
// U. A group that nothing entered gets no feedback. Progress counts groups. Same digits for any n_threads.
//
// The mean square error of a product with the rows is then sum_j D_jj (e_j + sum_{k<j} e_k U_kj)^2, so that
// each weight is best rounded at w_j + sum_{k<j} e_k U_kj (LDLQ: Chee et al., QuIP, 2023; equal to GPTQ,
// Frantar et al. 2022).
void feedback_factors(float* moments, int64_t n_slices, const ColumnGroups& groups, double damping,
                      int n_threads, Monitor& monitor);

// Rounds rows anew that quantize() encoded: scales stay as they are, integers are chosen by feedback.
// blocks: the rows of src as `type`; n_factor_slices: 1, if all slices share one, or src.n_slices. Progress
// counts weights. Same bytes for any n_threads. Throws unsupported_type, non_finite, cancelled.
void round_with_feedback(const Matrices& src, ggml_type type, void* blocks, const float* factors,
                         int64_t n_factor_slices, const ColumnGroups& groups, int n_threads,
                         Monitor& monitor);

// Types that round_with_feedback() takes.
std::vector<int> feedback_types();

}  // namespace mqn
