#include "node_collector.hpp"

#include <cstring>

#include "ggml-backend.h"

namespace mqn {

std::string weight_name(const ggml_tensor* node) {
  const std::string name = node->src[0]->name;
  const size_t start = name.find('#');
  if (start == std::string::npos) {
    return name;
  }
  return name.substr(start + 1, name.find('#', start + 1) - start - 1);
}

bool NodeCollector::on_node(ggml_tensor* node, bool ask, void* user_data) {
  auto* self = static_cast<NodeCollector*>(user_data);
  if (ask) {
    return self->wants(node);
  }
  try {
    self->collect(node);
  } catch (...) {
    self->error_ = std::current_exception();
    return false;  // ends this evaluation
  }
  return true;
}

void NodeCollector::check() const {
  if (error_) {
    std::rethrow_exception(error_);
  }
}

const char* NodeCollector::host_bytes(const ggml_tensor* tensor) {
  if (ggml_backend_buffer_is_host(tensor->buffer)) {
    return static_cast<const char*>(tensor->data);
  }
  copy_.resize(ggml_nbytes(tensor));
  ggml_backend_tensor_get(tensor, copy_.data(), 0, copy_.size());
  return copy_.data();
}

void NodeCollector::read_ids(const ggml_tensor* ids) {
  ids_.resize(ggml_nbytes(ids));
  ggml_backend_tensor_get(ids, ids_.data(), 0, ids_.size());
}

int32_t NodeCollector::expert(const ggml_tensor* ids, int64_t used, int64_t token) const {
  int32_t number = 0;
  std::memcpy(&number, ids_.data() + token * ids->nb[1] + used * ids->nb[0], sizeof(number));
  return number;
}

}  // namespace mqn
