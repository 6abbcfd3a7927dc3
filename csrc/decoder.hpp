// One llama.cpp context that evaluates sequences of equal length from an empty cache.
#pragma once

#include <cstdint>
#include <memory>

#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "llama-cpp.h"
#include "model.hpp"
#include "monitor.hpp"

namespace mqn {

// The settings of upstream's perplexity and imatrix tools: 16-bit cache unless told otherwise, flash
// attention where possible, micro-batches of up to 512. Graphs are rebuilt for every call, since a swap
// changes types and addresses that a kept graph remembers.
struct Model::Decoder {
 public:
  // n_seq: sequences of n_ctx tokens that one call may evaluate together.
  Decoder(llama_model* model, int64_t n_ctx, int64_t n_seq, int n_threads, bool on_gpu,
          const CacheTypes& cache, ggml_backend_sched_eval_callback on_node, void* user_data);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  int64_t n_ctx() const { return n_ctx_; }
  void set_threads(int n);

  // Evaluates n_seq sequences of n_ctx tokens each, one after the other in `tokens`. Returns the logits of
  // positions first..last-1 of the first sequence, contiguous, valid until the next call.
  const float* run(const int32_t* tokens, int64_t n_seq, int64_t first, int64_t last, Monitor& monitor) {
    evaluate(tokens, n_seq, first, last, monitor);
    return logit_rows(first);
  }
  // The same for one sequence, but its logits go to the scorer and stay where they were computed.
  void score(const int32_t* tokens, int64_t first, int64_t last, LogitScorer& scorer, Monitor& monitor);

 private:
  static bool should_abort(void* user_data);
  void evaluate(const int32_t* tokens, int64_t n_seq, int64_t first, int64_t last, Monitor& monitor);
  const float* logit_rows(int64_t first);

  int64_t n_ctx_;
  Monitor* monitor_ = nullptr;  // of the call in progress
  llama_batch batch_;
  struct ThreadpoolDeleter {
    void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
  };

  int n_threads_ = 0;
  // Threads that stay: ones that are started for every graph often begin on a processor that is busy.
  std::unique_ptr<ggml_threadpool, ThreadpoolDeleter> threads_;
  llama_context_ptr context_;
};

}  // namespace mqn
