// Scores of logits on the device that computed them: what comes back is a few numbers a token.
//
// One ggml graph, run for blocks of rows by whatever back end holds them. With z = ln p - ln p_ref of every
// token of the vocabulary, D(ref || p) = -sum p_ref z. float32 knows the two normalizers to about 1e-6 nats
// only, which probes do not forgive; but sum p_ref exp(z) must be 1, so that what is found instead,
// 1 + sum p_ref expm1(z), says how far they are off.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "ggml-cpp.h"
#include "side_engine.hpp"

class llm_graph_result;

namespace mqn {

// Rows of logits of one sequence after another, and their scores; double precision where they are added up.
// Not thread safe.
class LogitScorer {
 public:
  // Results of one run; vectors hold one value a row. Those about the reference are empty without one.
  struct Scores {
    std::vector<double> nll;
    std::vector<double> nll_ref;
    std::vector<double> kld;
    std::vector<double> p_diff;
    std::vector<uint8_t> same_top;  // ties: whichever the device's argmax takes
  };

  // keeps: the rows stay on the device, so that others can be scored against them.
  explicit LogitScorer(bool keeps);
  ~LogitScorer();
  LogitScorer(const LogitScorer&) = delete;
  LogitScorer& operator=(const LogitScorer&) = delete;

  // From now on: rows that these tokens follow, scored against the rows that `reference` keeps, if any.
  // compares: also whether the rows are the reference's, bit for bit.
  void begin(std::vector<int32_t> targets, std::shared_ptr<const LogitScorer> reference, bool compares);
  // The next rows: float32, contiguous, shape (rows, n_vocab). Throws shape, backend.
  void add(const ggml_tensor* logits);
  // The same for rows in main memory, copied to the device of this name.
  void add_rows(const float* rows, int64_t n, int64_t n_vocab, const std::string& device);

  int64_t n_rows() const { return static_cast<int64_t>(targets_.size()); }
  int64_t n_done() const { return n_done_; }
  const Scores& scores() const { return scores_; }
  // Whether no row so far differs from the reference's.
  bool is_equal() const { return compares_ && is_equal_; }
  // Memory on the device, scratch included.
  size_t size_bytes() const;

 private:
  struct Block;

  void prepare(const ggml_tensor* logits);
  void run(const ggml_tensor* logits, int64_t first, int64_t n);
  void keep_scores(int64_t first, int64_t n, const float* figures);

  bool keeps_;
  bool compares_ = false;
  bool is_equal_ = true;
  int64_t n_done_ = 0;
  int64_t n_vocab_ = 0;
  int64_t block_rows_ = 0;
  std::vector<int32_t> targets_;
  std::shared_ptr<const LogitScorer> reference_;
  Scores scores_;
  std::vector<int32_t> tops_;
  std::vector<float> norms_;
  std::vector<float> target_logits_;

  std::unique_ptr<SideEngine> engine_;
  ggml_context_ptr context_;
  ggml_backend_buffer_ptr buffer_;
  // In buffer_: the rows kept, their softmax and normalizers; a block's targets and its figures.
  ggml_tensor* kept_logits_ = nullptr;
  ggml_tensor* kept_softmax_ = nullptr;
  ggml_tensor* kept_norms_ = nullptr;
  ggml_tensor* block_targets_ = nullptr;
  ggml_tensor* figures_ = nullptr;
};

// While one of these lives on a thread, llama_decode copies no logits to the host: they go to the scorer.
// Needs a linker that sends llama.cpp's graphs through csrc/graph_hooks.cpp.
class LogitTap {
 public:
  explicit LogitTap(LogitScorer& scorer);
  ~LogitTap();
  LogitTap(const LogitTap&) = delete;
  LogitTap& operator=(const LogitTap&) = delete;

  // Throws what went wrong, or backend where not every row came.
  void check() const;

  static void on_graph(llm_graph_result& result);
  // For the evaluation callback: whether the node holds the logits; takes them once they are computed.
  static bool wants(const ggml_tensor* node);
  static bool take(const ggml_tensor* node);

 private:
  LogitScorer& scorer_;
  const ggml_tensor* logits_ = nullptr;
  std::exception_ptr error_;
};

}  // namespace mqn
