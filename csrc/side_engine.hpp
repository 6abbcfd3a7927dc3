// Small graphs of our own, computed where llama.cpp left their inputs.
#pragma once

#include <cstddef>
#include <string>

#include "ggml-cpp.h"

namespace mqn {

// The device whose memory holds the tensor; the CPU for main memory.
ggml_backend_dev_t device_of(const ggml_tensor* tensor);

// A tensor over memory that lies elsewhere; unlike a view it drags no other graph along.
ggml_tensor* window(ggml_context* ctx, ggml_type type, int64_t n0, int64_t n1, const ggml_tensor* of,
                    size_t offset);

// One back end with scratch memory of its own. Whoever computed the inputs must have finished.
class SideEngine {
 public:
  // Throws backend.
  explicit SideEngine(ggml_backend_dev_t device);

  ggml_backend_dev_t device() const { return device_; }
  ggml_backend_buffer_type_t memory() const { return memory_; }
  size_t scratch_bytes() const { return ggml_gallocr_get_buffer_size(scratch_.get(), 0); }
  // Tensors with data of their own keep it. Throws backend; `what` ends the sentence "could not ...".
  void compute(ggml_cgraph* graph, const std::string& what);

 private:
  ggml_backend_dev_t device_;
  ggml_backend_buffer_type_t memory_;
  ggml_backend_ptr backend_;
  ggml_gallocr_ptr scratch_;
};

}  // namespace mqn
