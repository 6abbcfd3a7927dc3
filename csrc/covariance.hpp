// Second moments of the activations that enter weights: what rounding errors of different columns do
// together.
#pragma once

#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "feedback.hpp"
#include "ggml.h"
#include "node_collector.hpp"

namespace mqn {

// Sums of x_j x_k over the tokens, upper triangles of ColumnGroups' matrices; float32.
struct Moments {
  ColumnGroups groups = {0, 0};
  int64_t n_slices = 0;         // 1, or the experts, where each has inputs of its own
  std::vector<float> sums;      // n_slices * groups.total()
  std::vector<int64_t> counts;  // n_slices: tokens seen
};

// Collects them while a model runs. Weights with the same input (attn_q, attn_k, attn_v) share what the first
// of them has. Sums are added up in the order of the tokens, so that they are the same for any n_threads.
class CovarianceCollector : public NodeCollector {
 public:
  // names: the weights wanted; of experts' own inputs those whose moments take at most max_own_bytes a
  // weight.
  CovarianceCollector(std::set<std::string> names, int64_t columns, int64_t max_own_bytes, int n_threads)
      : names_(std::move(names)), columns_(columns), max_own_bytes_(max_own_bytes), n_threads_(n_threads) {}

  std::map<std::string, Moments> take() { return std::move(moments_); }
  // Weight -> the one whose input it shares; its own name, if it has moments itself; empty, if it is left
  // out.
  const std::map<std::string, std::string>& owners() const { return owners_; }

 private:
  bool wants(const ggml_tensor* node) const override;
  void collect(const ggml_tensor* node) override;
  void add(Moments& moments, int64_t slice);

  std::set<std::string> names_;
  int64_t columns_;
  int64_t max_own_bytes_;
  int n_threads_;
  std::map<std::string, Moments> moments_;
  std::map<std::string, std::string> owners_;
  const ggml_tensor* last_input_ = nullptr;
  std::string last_name_;
  std::vector<float> rows_;  // of one slice, one after the other
};

}  // namespace mqn
