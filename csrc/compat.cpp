// Upstream's arithmetic, float for float. Built without ISA flags of our own, as upstream's tool is: a fused
// multiply-add here would change digits.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "divergence.hpp"
#include "logit_rows.hpp"

namespace mqn {
namespace {

// A reference row as upstream's base file keeps it.
struct PackedRow {
  float scale;
  float min_log_prob;
  std::vector<uint16_t> q;

  float log_prob(int64_t i) const { return scale * static_cast<float>(q[i]) + min_log_prob; }
};

// Rounds to nearest, ties to even, for |x| < 2^22; the same trick as upstream's, so the same integers.
int nearest_int(float x) {
  const float shifted = x + 12582912.0F;
  int32_t bits = 0;
  std::memcpy(&bits, &shifted, sizeof(bits));
  return (bits & 0x007fffff) - 0x00400000;
}

struct FloatSoftmax {
  float max;
  float log_sum;
  int64_t top;
};

FloatSoftmax float_softmax(const float* x, int64_t n) {
  const float max = *std::max_element(x, x + n);
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    sum += std::exp(x[i] - max);
  }
  return {max, static_cast<float>(std::log(sum)), std::find(x, x + n, max) - x};
}

void pack(const float* x, int64_t n, PackedRow& row) {
  const FloatSoftmax s = float_softmax(x, n);
  const float min = std::max(*std::min_element(x, x + n), s.max - 16.0F);
  row.min_log_prob = min - s.max - s.log_sum;
  row.scale = (s.max - min) / 65535.0F;
  row.q.assign(static_cast<size_t>(n), 0);
  if (row.scale != 0.0F) {
    const float inverse = 1.0F / row.scale;
    for (int64_t i = 0; i < n; ++i) {
      row.q[i] = x[i] > min ? static_cast<uint16_t>(nearest_int(inverse * (x[i] - min))) : uint16_t{0};
    }
  }
}

}  // namespace

void score_compat(const LogitRows& candidate, const float* reference, const CompatScores& out, int n_threads,
                  Monitor& monitor) {
  const int64_t n = candidate.n_vocab;
  for_rows(candidate.n_rows, n_threads, monitor, [&](int64_t r) {
    thread_local PackedRow base;
    pack(reference + r * n, n, base);
    const float* x = candidate.logits + r * n;
    const int32_t target = candidate.targets[r];
    const FloatSoftmax s = float_softmax(x, n);
    out.nll[r] = s.max + s.log_sum - x[target];
    out.nll_base[r] = -base.log_prob(target);
    const float norm = s.max + s.log_sum;
    double sum = 0.0;
    int64_t top = 0;
    for (int64_t i = 0; i < n; ++i) {
      const float log_base = base.log_prob(i);
      if (log_base > base.log_prob(top)) {
        top = i;
      }
      if (log_base > -16.0F) {
        sum += std::exp(log_base) * (log_base - x[i] + norm);
      }
    }
    out.kld[r] = sum;
    out.p_diff[r] = std::exp(-out.nll[r]) - std::exp(-out.nll_base[r]);
    out.same_top[r] = s.top == top ? 1 : 0;
  });
}

void score_compat_nll(const LogitRows& candidate, double* nll, int n_threads, Monitor& monitor) {
  const int64_t n = candidate.n_vocab;
  for_rows(candidate.n_rows, n_threads, monitor, [&](int64_t r) {
    const float* x = candidate.logits + r * n;
    const float max = *std::max_element(x, x + n);
    double sum = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      sum += std::exp(x[i] - max);
    }
    nll[r] = -(x[candidate.targets[r]] - max - std::log(sum));
  });
}

}  // namespace mqn
