#include "side_engine.hpp"

#include "backend.hpp"
#include "error.hpp"
#include "ggml-alloc.h"
#include "ggml-cpu.h"

namespace mqn {

ggml_backend_dev_t device_of(const ggml_tensor* tensor) {
  ggml_backend_buffer_type_t memory = ggml_backend_buffer_get_type(tensor->buffer);
  ggml_backend_dev_t device = ggml_backend_buft_get_device(memory);
  const bool is_main_memory = device == nullptr || ggml_backend_buft_is_host(memory);
  return is_main_memory ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) : device;
}

ggml_tensor* window(ggml_context* ctx, ggml_type type, int64_t n0, int64_t n1, const ggml_tensor* of,
                    size_t offset) {
  ggml_tensor* t = ggml_new_tensor_2d(ctx, type, n0, n1);
  t->data = static_cast<char*>(of->data) + offset;
  t->buffer = of->buffer;
  return t;
}

SideEngine::SideEngine(ggml_backend_dev_t device)
    : device_(device),
      memory_(ggml_backend_dev_buffer_type(device)),
      backend_(ggml_backend_dev_init(device, nullptr)) {
  if (!backend_) {
    throw Error(ErrorKind::backend, std::string(ggml_backend_dev_name(device)) + " cannot be used",
                {{"log", recent_errors()}});
  }
  if (ggml_backend_is_cpu(backend_.get())) {
    ggml_backend_cpu_set_n_threads(backend_.get(), 1);  // only tests come here
  }
  scratch_.reset(ggml_gallocr_new(memory_));
}

void SideEngine::compute(ggml_cgraph* graph, const std::string& what) {
  const std::string name = ggml_backend_dev_name(device_);
  if (!ggml_gallocr_alloc_graph(scratch_.get(), graph)) {
    throw Error(ErrorKind::backend, name + " has no memory left to " + what, {{"log", recent_errors()}});
  }
  if (ggml_backend_graph_compute(backend_.get(), graph) != GGML_STATUS_SUCCESS) {
    throw Error(ErrorKind::backend, name + " could not " + what, {{"log", recent_errors()}});
  }
}

}  // namespace mqn
