// What looks at a model's products while they are computed.
#pragma once

#include <exception>
#include <string>
#include <vector>

#include "ggml.h"

namespace mqn {

// The weight that a product reads. The scheduler's copies carry device and number:
// "CUDA0#blk.0.attn_k.weight#0" -> "blk.0.attn_k.weight".
std::string weight_name(const ggml_tensor* node);

// Is asked for every node of a graph whether it wants it, and shown those once they are computed.
class NodeCollector {
 public:
  NodeCollector() = default;
  virtual ~NodeCollector() = default;
  NodeCollector(const NodeCollector&) = delete;
  NodeCollector& operator=(const NodeCollector&) = delete;

  // ggml_backend_sched_eval_callback; user_data is a NodeCollector.
  static bool on_node(ggml_tensor* node, bool ask, void* user_data);

  // Throws what went wrong inside the callback, which must not throw through upstream's frames.
  void check() const;

 protected:
  // A tensor's bytes in main memory, until the next call.
  const char* host_bytes(const ggml_tensor* tensor);
  // The ids of the experts used: [experts used, tokens].
  void read_ids(const ggml_tensor* ids);
  int32_t expert(const ggml_tensor* ids, int64_t used, int64_t token) const;

 private:
  virtual bool wants(const ggml_tensor* node) const = 0;
  virtual void collect(const ggml_tensor* node) = 0;

  std::vector<char> copy_;
  std::vector<char> ids_;
  std::exception_ptr error_;
};

}  // namespace mqn
