// One llama.cpp context that evaluates one chunk at a time from an empty cache.
#pragma once

#include <cstdint>

#include "ggml-backend.h"
#include "llama-cpp.h"
#include "model.hpp"
#include "monitor.hpp"

namespace mqn {

// The settings of upstream's perplexity and imatrix tools: 16-bit cache, flash attention where possible,
// micro-batches of up to 512. Graphs are rebuilt for every call, since a swap changes types and addresses
// that a kept graph remembers.
struct Model::Decoder {
 public:
  Decoder(llama_model* model, int64_t n_ctx, int n_threads, bool on_gpu, ggml_backend_sched_eval_callback on_node,
          void* user_data);
  ~Decoder();
  Decoder(const Decoder&) = delete;
  Decoder& operator=(const Decoder&) = delete;

  int64_t n_ctx() const { return n_ctx_; }
  void set_threads(int n) { llama_set_n_threads(context_.get(), n, n); }

  // Logits of positions first..last-1 of n_ctx tokens, contiguous, valid until the next call.
  const float* run(const int32_t* tokens, int64_t first, int64_t last, Monitor& monitor);

 private:
  static bool should_abort(void* user_data);

  int64_t n_ctx_;
  int64_t n_vocab_;
  Monitor* monitor_ = nullptr;  // of the call in progress
  llama_batch batch_;
  llama_context_ptr context_;
};

}  // namespace mqn
