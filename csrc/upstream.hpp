// llama.cpp's own quantizer and its own rules, as functions.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "monitor.hpp"

namespace mqn {

struct QuantizeOptions {
  int ftype = 0;      // llama_ftype
  bool pure = false;  // every tensor to the ftype's type, unless listed in types
  bool allow_requantize = false;
  int n_threads = 1;
  // Exact tensor names and their ggml types.
  std::vector<std::pair<std::string, int>> types;
  // Normalised importances by tensor name.
  std::vector<std::pair<std::string, std::vector<float>>> imatrix;
};

// llama_model_quantize: writes `output` whole. Progress counts tensors; cancelling takes effect at the next
// tensor and leaves a partial file, which is the caller's to remove. Throws quantize, cancelled.
void upstream_quantize(const std::string& input, const std::string& output, const QuantizeOptions& options,
                       Monitor& monitor);

// The type each tensor of `input` would get: llama_model_quantize's dry run, read back from its log.
std::map<std::string, int> upstream_plan(const std::string& input, const QuantizeOptions& options,
                                         Monitor& monitor);

struct TensorShape {
  std::string name;
  int n_dims;  // trailing dimensions of 1 not counted
};
// Whether llama-quantize may change each tensor of a model of this architecture. Throws model_load for an
// architecture that llama.cpp does not know.
std::vector<bool> allows_quantization(const std::string& architecture,
                                      const std::vector<TensorShape>& tensors);

struct Preset {
  int ftype;
  std::string name;  // as llama-quantize spells it: "Q4_K_M"
  int default_type;  // ggml type of most tensors
};
// Every file type that llama_model_quantize accepts.
std::vector<Preset> presets();

}  // namespace mqn
