#include "planned_device.hpp"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"

namespace mqn {
namespace {

// ggml-cuda.cu: get_alignment, MATRIX_ROW_PADDING, and the batch from which host weights are brought over.
constexpr size_t alignment = 128;
constexpr int64_t row_padding = 512;
constexpr int64_t offload_batch = 32;

ggml_guid_t guid() {
  static ggml_guid id = {0x6d, 0x71, 0x6e, 0x2d, 0x70, 0x6c, 0x61, 0x6e,
                         0x6e, 0x65, 0x64, 0x2d, 0x64, 0x65, 0x76, 0x31};
  return &id;
}

// ---- Memory: plain host memory that does not say so ------------------------------------------------------

void free_buffer(ggml_backend_buffer_t buffer) { std::free(buffer->context); }

void* get_base(ggml_backend_buffer_t buffer) { return buffer->context; }

void memset_tensor(ggml_backend_buffer_t /*buffer*/, ggml_tensor* tensor, uint8_t value, size_t offset,
                   size_t size) {
  std::memset(static_cast<char*>(tensor->data) + offset, value, size);
}

void set_tensor(ggml_backend_buffer_t /*buffer*/, ggml_tensor* tensor, const void* data, size_t offset,
                size_t size) {
  std::memcpy(static_cast<char*>(tensor->data) + offset, data, size);
}

void get_tensor(ggml_backend_buffer_t /*buffer*/, const ggml_tensor* tensor, void* data, size_t offset,
                size_t size) {
  std::memcpy(data, static_cast<const char*>(tensor->data) + offset, size);
}

void clear(ggml_backend_buffer_t buffer, uint8_t value) { std::memset(buffer->context, value, buffer->size); }

ggml_backend_buffer_t alloc_buffer(ggml_backend_buffer_type_t type, size_t size) {
  ggml_backend_buffer_i iface{};
  iface.free_buffer = free_buffer;
  iface.get_base = get_base;
  iface.memset_tensor = memset_tensor;
  iface.set_tensor = set_tensor;
  iface.get_tensor = get_tensor;
  iface.clear = clear;
  void* base = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  return base == nullptr ? nullptr : ggml_backend_buffer_init(type, iface, base, size);
}

size_t alloc_size(ggml_backend_buffer_type_t /*type*/, const ggml_tensor* tensor) {
  const int64_t beyond = tensor->ne[0] % row_padding;
  const bool is_padded = ggml_is_quantized(tensor->type) && beyond != 0;
  return ggml_nbytes(tensor) + (is_padded ? ggml_row_size(tensor->type, row_padding - beyond) : 0);
}

ggml_backend_buffer_type_t buffer_type(ggml_backend_dev_t device) {
  static ggml_backend_buffer_type type = [&] {
    ggml_backend_buffer_type t{};
    t.iface.get_name = [](ggml_backend_buffer_type_t) { return planned_device_name; };
    t.iface.alloc_buffer = alloc_buffer;
    t.iface.get_alignment = [](ggml_backend_buffer_type_t) { return alignment; };
    t.iface.get_alloc_size = alloc_size;
    t.device = device;
    return t;
  }();
  return &type;
}

// Pinned memory, as a GPU's driver gives it out: weights that stay with the host lie there.
ggml_backend_buffer_type_t host_buffer_type(ggml_backend_dev_t device) {
  static ggml_backend_buffer_type type = [&] {
    const ggml_backend_buffer_type_t cpu = ggml_backend_cpu_buffer_type();
    ggml_backend_buffer_type t{};
    t.iface = cpu->iface;
    t.iface.get_name = [](ggml_backend_buffer_type_t) { return "planned_host"; };
    t.iface.alloc_buffer = [](ggml_backend_buffer_type_t self, size_t size) {
      ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
      if (buffer != nullptr) {
        buffer->buft = self;
      }
      return buffer;
    };
    t.device = device;
    return t;
  }();
  return &type;
}

// ---- Computing: left to the CPU backend ------------------------------------------------------------------

ggml_status compute(ggml_backend_t backend, ggml_cgraph* graph) {
  return ggml_backend_graph_compute(static_cast<ggml_backend_t>(backend->context), graph);
}

ggml_backend_t init_backend(ggml_backend_dev_t device, const char* /*params*/) {
  ggml_backend_t cpu = ggml_backend_cpu_init();
  if (cpu == nullptr) {
    return nullptr;
  }
  ggml_backend_cpu_set_n_threads(cpu, 1);  // it plans; speed is not its business
  auto* backend = new ggml_backend{};
  backend->guid = guid();
  backend->iface.get_name = [](ggml_backend_t) { return planned_device_name; };
  backend->iface.free = [](ggml_backend_t self) {
    ggml_backend_free(static_cast<ggml_backend_t>(self->context));
    delete self;
  };
  backend->iface.graph_compute = compute;
  backend->device = device;
  backend->context = cpu;
  return backend;
}

bool offload_op(ggml_backend_dev_t /*device*/, const ggml_tensor* op) {
  switch (op->op) {
    case GGML_OP_GET_ROWS:
      return false;
    case GGML_OP_MUL_MAT:
      return op->ne[1] >= offload_batch;
    case GGML_OP_MUL_MAT_ID:
    case GGML_OP_ROPE:
    case GGML_OP_ROPE_BACK:
      return op->ne[2] >= offload_batch;
    default:
      return ggml_nrows(op) >= offload_batch;
  }
}

ggml_backend_reg_t registry() {
  static ggml_backend_reg reg = [] {
    ggml_backend_reg r{};
    r.api_version = GGML_BACKEND_API_VERSION;
    r.iface.get_name = [](ggml_backend_reg_t) { return planned_device_name; };
    r.iface.get_device_count = [](ggml_backend_reg_t) { return size_t{1}; };
    r.iface.get_device = [](ggml_backend_reg_t, size_t) { return planned_device(); };
    r.iface.get_proc_address = [](ggml_backend_reg_t, const char*) -> void* { return nullptr; };
    return r;
  }();
  return &reg;
}

}  // namespace

ggml_backend_dev_t planned_device() {
  static ggml_backend_device device = [] {
    ggml_backend_device d{};
    d.iface.get_name = [](ggml_backend_dev_t) { return planned_device_name; };
    d.iface.get_description = [](ggml_backend_dev_t) { return "a GPU to plan for"; };
    d.iface.get_memory = [](ggml_backend_dev_t, size_t* free, size_t* total) {
      *free = *total = SIZE_MAX / 2;
    };
    d.iface.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    d.iface.get_props = [](ggml_backend_dev_t self, ggml_backend_dev_props* props) {
      *props = {};
      props->name = planned_device_name;
      props->description = "a GPU to plan for";
      props->type = GGML_BACKEND_DEVICE_TYPE_GPU;
      self->iface.get_memory(self, &props->memory_free, &props->memory_total);
      props->caps.host_buffer = true;
    };
    d.iface.init_backend = init_backend;
    d.iface.get_buffer_type = buffer_type;
    d.iface.get_host_buffer_type = host_buffer_type;
    d.iface.supports_op = [](ggml_backend_dev_t, const ggml_tensor*) { return true; };
    d.iface.supports_buft = [](ggml_backend_dev_t self, ggml_backend_buffer_type_t type) {
      return type == buffer_type(self);
    };
    d.iface.offload_op = offload_op;
    d.reg = registry();
    return d;
  }();
  return &device;
}

}  // namespace mqn
