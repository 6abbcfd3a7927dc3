#include "divergence.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fast_exp.hpp"
#include "logit_rows.hpp"

namespace mqn {
namespace {

// Partial sums in a fixed order: the loops vectorise under strict IEEE and depend on n_vocab only.
constexpr int64_t lanes = 8;
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

double fold(const double* lane) {
  return ((lane[0] + lane[1]) + (lane[2] + lane[3])) + ((lane[4] + lane[5]) + (lane[6] + lane[7]));
}

float max_of(const float* x, int64_t n) {
  float lane[lanes];
  std::fill(lane, lane + lanes, -std::numeric_limits<float>::infinity());
  const int64_t whole = n / lanes * lanes;
  for (int64_t i = 0; i < whole; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) {
      lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    }
  }
  float largest = *std::max_element(lane, lane + lanes);
  for (int64_t i = whole; i < n; ++i) {
    largest = std::max(largest, x[i]);
  }
  return largest;
}

int64_t first_index_of(const float* x, int64_t n, float value) { return std::find(x, x + n, value) - x; }

// Sum of exp(x - max) over the row.
double sum_exp(const float* x, int64_t n, double max) {
  double lane[lanes] = {0};
  const int64_t whole = n / lanes * lanes;
  for (int64_t i = 0; i < whole; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) {
      lane[j] += fast_exp(static_cast<double>(x[i + j]) - max);
    }
  }
  double sum = fold(lane);
  for (int64_t i = whole; i < n; ++i) {
    sum += fast_exp(static_cast<double>(x[i]) - max);
  }
  return sum;
}

// Sum over the row of p_ref * (ln p_ref - ln p), with ln p = x - norm.
double sum_kld(const float* ref, double ref_norm, const float* x, double norm, int64_t n) {
  double lane[lanes] = {0};
  const int64_t whole = n / lanes * lanes;
  for (int64_t i = 0; i < whole; i += lanes) {
    for (int64_t j = 0; j < lanes; ++j) {
      const double log_ref = static_cast<double>(ref[i + j]) - ref_norm;
      const double log_p = static_cast<double>(x[i + j]) - norm;
      const double p_ref = fast_exp(log_ref);
      // A token the reference rules out counts nothing, also where both logits are -inf.
      lane[j] += p_ref * (p_ref == 0.0 ? 0.0 : log_ref - log_p);
    }
  }
  double sum = fold(lane);
  for (int64_t i = whole; i < n; ++i) {
    const double log_ref = static_cast<double>(ref[i]) - ref_norm;
    const double p_ref = fast_exp(log_ref);
    sum += p_ref * (p_ref == 0.0 ? 0.0 : log_ref - (static_cast<double>(x[i]) - norm));
  }
  return sum;
}

struct Softmax {
  double norm;  // ln sum exp(logit): ln p = logit - norm
  int64_t top;  // the lowest id among the largest logits
};

// norm is NaN where the row has a NaN or +inf logit, or none above -inf.
Softmax softmax(const float* x, int64_t n) {
  const float max = max_of(x, n);
  if (!std::isfinite(max)) {
    return {nan_value, 0};
  }
  return {static_cast<double>(max) + std::log(sum_exp(x, n, max)), first_index_of(x, n, max)};
}

}  // namespace

void softmax_norms(const float* logits, int64_t n_rows, int64_t n_vocab, double* norms, int64_t* tops,
                   int n_threads, Monitor& monitor) {
  for_rows(n_rows, n_threads, monitor, [&](int64_t r) {
    const Softmax s = softmax(logits + r * n_vocab, n_vocab);
    norms[r] = s.norm;
    tops[r] = s.top;
  });
}

void score_exact(const LogitRows& candidate, const ReferenceRows* reference, const TokenScores& out,
                 int n_threads, Monitor& monitor) {
  const int64_t n = candidate.n_vocab;
  for_rows(candidate.n_rows, n_threads, monitor, [&](int64_t r) {
    const float* x = candidate.logits + r * n;
    const int32_t target = candidate.targets[r];
    const Softmax s = softmax(x, n);
    out.nll[r] = s.norm - static_cast<double>(x[target]);
    if (reference == nullptr) {
      return;
    }
    const float* ref = reference->logits + r * n;
    const Softmax b{reference->norms[r], reference->tops[r]};
    out.kld[r] = sum_kld(ref, b.norm, x, s.norm, n);
    out.nll_ref[r] = b.norm - static_cast<double>(ref[target]);
    out.p_diff[r] = std::exp(-out.nll[r]) - std::exp(-out.nll_ref[r]);
    out.same_top[r] = s.top == b.top ? 1 : 0;
  });
}

}  // namespace mqn
