// How far one row of logits is from another, in double precision ("exact") or in upstream's arithmetic.
#pragma once

#include <cstdint>

#include "monitor.hpp"

namespace mqn {

// Rows of unnormalised float32 logits, contiguous, and the token that came next at each.
struct LogitRows {
  const float* logits;
  const int32_t* targets;
  int64_t n_rows;
  int64_t n_vocab;
};

// Per-token results; each pointer holds n_rows values. A row with a NaN or +inf logit gives NaN throughout.
struct TokenScores {
  double* nll;        // -ln p(target), nats
  double* nll_ref;    // the reference's; null without one, as are the next three
  double* kld;        // D(reference || candidate), nats
  double* p_diff;     // p(target) - p_reference(target)
  uint8_t* same_top;  // whether both put the same token first (ties: the lowest id)
};

// What is needed of a reference's rows again and again.
struct ReferenceRows {
  const float* logits;
  const double* norms;  // ln sum exp(logit) of each row, as softmax_norms gives it
  const int64_t* tops;  // the lowest id among the largest logits of each row
};

// norms and tops of rows of logits. A row with a NaN or +inf logit has a NaN.
void softmax_norms(const float* logits, int64_t n_rows, int64_t n_vocab, double* norms, int64_t* tops,
                   int n_threads, Monitor& monitor);

// Exact mode: log-sum-exp, probabilities and sums in double; exp is good to 2 ulp.
// reference: null for the NLL only. Results do not depend on n_threads.
void score_exact(const LogitRows& candidate, const ReferenceRows* reference, const TokenScores& out,
                 int n_threads, Monitor& monitor);

// Compat mode: the numbers of upstream's perplexity tool, which stores the reference in 16 bits a logit,
// clipped at 16 nats, and computes in float (tools/perplexity/perplexity.cpp, the two log_softmax of the
// KLD run). nll_base is the reference's NLL as that storage gives it.
struct CompatScores {
  float* nll;
  float* nll_base;
  double* kld;
  float* p_diff;
  uint8_t* same_top;
};
void score_compat(const LogitRows& candidate, const float* reference, const CompatScores& out, int n_threads,
                  Monitor& monitor);

// Compat mode without a reference: -ln p(target) as the tool's plain perplexity run computes it.
void score_compat_nll(const LogitRows& candidate, double* nll, int n_threads, Monitor& monitor);

}  // namespace mqn
