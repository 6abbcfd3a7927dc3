#include "memory.hpp"

#include <algorithm>
#include <map>

#include "backend.hpp"
#include "ggml-cpp.h"
#include "llama-cpp.h"
#include "llama-ext.h"
#include "planned_device.hpp"

// Upstream's list of a model's tensors (src/llama-model.cpp); it has C++ linkage and no public header.
const std::vector<std::pair<std::string, ggml_tensor*>>& llama_internal_get_tensor_map(
    const llama_model* model);

namespace mqn {
namespace {

constexpr uint64_t load_steps = 1000;
// llama.cpp's tools decode prompts in pieces of this many tokens (common_params::n_batch).
constexpr uint32_t batch_tokens = 2048;

bool on_progress(float progress, void* user_data) {
  auto* monitor = static_cast<Monitor*>(user_data);
  monitor->set_done(static_cast<uint64_t>(progress * static_cast<float>(load_steps)));
  return !monitor->cancelled();
}

bool in_main_memory(ggml_backend_buffer_type_t type) {
  ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
  return device == nullptr || ggml_backend_buft_is_host(type) ||
         ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_CPU;
}

uint64_t padded_bytes(ggml_backend_buffer_type_t type, const ggml_tensor* tensor) {
  return GGML_PAD(ggml_backend_buft_get_alloc_size(type, tensor), ggml_backend_buft_get_alignment(type));
}

std::vector<MemoryRow> rows_of(const llama_context* context) {
  std::vector<MemoryRow> rows;
  for (const auto& [type, bytes] : llama_get_memory_breakdown(context)) {
    ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
    rows.push_back({ggml_backend_buft_name(type), device == nullptr ? "CPU" : ggml_backend_dev_name(device),
                    in_main_memory(type), bytes.model, bytes.context, bytes.compute});
  }
  return rows;
}

}  // namespace

PlacedParams::PlacedParams(const PlacementOptions& placement, Monitor& monitor)
    : params(llama_model_default_params()), devices_(named_devices(placement.devices)) {
  params.n_gpu_layers = placement.n_gpu_layers;
  params.use_extra_bufts = placement.extra_buffers;
  params.progress_callback = on_progress;
  params.progress_callback_user_data = &monitor;
  if (placement.n_gpu_layers == 0 || !placement.devices.empty()) {
    devices_.push_back(nullptr);  // the list's end; alone it says: no GPU
    params.devices = devices_.data();
  }
  for (const std::string& pattern : placement.on_cpu) {
    overrides_.push_back({pattern.c_str(), ggml_backend_cpu_buffer_type()});
  }
  if (!overrides_.empty()) {
    overrides_.push_back({nullptr, nullptr});
    params.tensor_buft_overrides = overrides_.data();
  }
  monitor.set_total(load_steps);
}

llama_model* load_placed(const PlacementOptions& placement, const PlacedParams& params, Monitor& monitor) {
  clear_recent_errors();
  std::vector<const char*> paths;
  for (const std::string& path : placement.paths) {
    paths.push_back(path.c_str());
  }
  llama_model* model = paths.size() == 1
                           ? llama_model_load_from_file(paths.front(), params.params)
                           : llama_model_load_from_splits(paths.data(), paths.size(), params.params);
  if (model == nullptr) {
    monitor.check();
    throw Error(ErrorKind::model_load, "llama.cpp could not load the model",
                {{"path", placement.paths.front()}, {"log", recent_errors()}});
  }
  return model;
}

llama_context_params context_params(const ContextOptions& options) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = options.n_ctx;
  params.n_seq_max = options.n_seq;
  params.n_batch = std::max(batch_tokens, options.n_ubatch);
  params.n_ubatch = options.n_ubatch;
  params.type_k = options.type_k;
  params.type_v = options.type_v;
  params.kv_unified = false;
  params.swa_full = false;
  return params;
}

MemoryUse memory_use(const PlacementOptions& placement, const std::vector<ContextOptions>& contexts,
                     bool load, Monitor& monitor) {
  ensure_backend();
  const AbortGuard guard;
  PlacedParams params(placement, monitor);
  params.params.no_alloc = !load;
  // A mapped file counts whole, with the weights that were laid out anew elsewhere.
  params.params.load_mode = LLAMA_LOAD_MODE_NONE;
  const llama_model_ptr model(load_placed(placement, params, monitor));
  MemoryUse found;
  for (const auto& [name, tensor] : llama_internal_get_tensor_map(model.get())) {
    ggml_backend_buffer_type_t type = ggml_backend_buffer_get_type(tensor->buffer);
    found.tensors.push_back({name, in_main_memory(type), padded_bytes(type, tensor)});
  }
  for (const ContextOptions& options : contexts) {
    monitor.check();
    clear_recent_errors();
    const llama_context_ptr context(llama_init_from_model(model.get(), context_params(options)));
    if (!context) {
      throw Error(ErrorKind::backend,
                  "llama.cpp could not make a context of " + std::to_string(options.n_ctx) + " tokens",
                  {{"log", recent_errors()}});
    }
    found.contexts.push_back(rows_of(context.get()));
  }
  monitor.set_done(load_steps);
  return found;
}

std::vector<uint64_t> allocated_bytes(const std::string& device, const std::vector<TensorType>& tensors) {
  ensure_backend();
  const AbortGuard guard;
  ggml_backend_buffer_type_t type = ggml_backend_cpu_buffer_type();
  if (!device.empty()) {
    const auto named = named_devices({device});
    if (!named.empty()) {
      type = ggml_backend_dev_buffer_type(named.front());
    }
  }
  std::vector<uint64_t> sizes;
  for (const TensorType& tensor : tensors) {
    const ggml_init_params params{ggml_tensor_overhead(), nullptr, /*no_alloc=*/true};
    const ggml_context_ptr ctx(ggml_init(params));
    const auto n_dims = static_cast<int>(tensor.shape.size());
    sizes.push_back(padded_bytes(type, ggml_new_tensor(ctx.get(), tensor.type, n_dims, tensor.shape.data())));
  }
  return sizes;
}

}  // namespace mqn
