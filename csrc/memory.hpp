// What a model and a context take on each device, by llama.cpp's own accounting.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ggml.h"
#include "llama.h"
#include "monitor.hpp"

namespace mqn {

// Where weights go; the names of devices as in LoadOptions, or planned_device_name.
struct PlacementOptions {
  std::vector<std::string> paths;  // one GGUF, or all parts of a split one in order
  int n_gpu_layers = 0;
  std::vector<std::string> devices;
  // Regular expressions of tensors that stay with the CPU, as llama.cpp's -ot PATTERN=CPU.
  std::vector<std::string> on_cpu;
  bool extra_buffers = true;
};

struct ContextOptions {
  uint32_t n_ctx = 0;  // of all sequences together
  uint32_t n_seq = 1;
  uint32_t n_ubatch = 512;
  ggml_type type_k = GGML_TYPE_F16;
  ggml_type type_v = GGML_TYPE_F16;
};

struct MemoryRow {
  std::string buffer;  // the buffer type's name
  std::string device;  // whose memory it is
  bool is_host;        // main memory, whoever uses it
  uint64_t model;      // bytes of weights
  uint64_t context;    // of KV cache and recurrent states
  uint64_t compute;    // of the buffers for graphs
};

// Where a tensor lies; one that is used in two places is there twice.
struct PlacedTensor {
  std::string name;
  bool is_host;
  uint64_t size_bytes;  // with what alignment and padding add
};

struct MemoryUse {
  std::vector<std::vector<MemoryRow>> contexts;  // one list for every context
  std::vector<PlacedTensor> tensors;
};

// With load, everything is allocated in earnest and then counted; without, no weight is read and nothing
// large is allocated. Throws model_load, backend, cancelled.
MemoryUse memory_use(const PlacementOptions& placement, const std::vector<ContextOptions>& contexts,
                     bool load, Monitor& monitor);

struct TensorType {
  ggml_type type;
  std::vector<int64_t> shape;  // GGUF order, row length first
};
// What tensors take in a device's own memory, alignment and padding included. An empty name is the CPU.
std::vector<uint64_t> allocated_bytes(const std::string& device, const std::vector<TensorType>& tensors);

// llama_model_params for a placement, with everything they point to.
class PlacedParams {
 public:
  PlacedParams(const PlacementOptions& placement, Monitor& monitor);
  PlacedParams(const PlacedParams&) = delete;
  PlacedParams& operator=(const PlacedParams&) = delete;

  llama_model_params params;

 private:
  std::vector<ggml_backend_dev_t> devices_;
  std::vector<llama_model_tensor_buft_override> overrides_;
};

// The model at these paths. Throws model_load, cancelled.
llama_model* load_placed(const PlacementOptions& placement, const PlacedParams& params, Monitor& monitor);

// llama_context_params as llama.cpp's tools make them from -c, -np, -ub, -ctk and -ctv.
llama_context_params context_params(const ContextOptions& options);

}  // namespace mqn
