// The variants of a model's tensors: made, swapped in, restored.
#include <cstring>

#include "backend.hpp"
#include "llama-ext.h"
#include "llama-model.h"
#include "model.hpp"
#include "quant.hpp"
#include "types.hpp"

namespace mqn {
namespace {

constexpr char embedding_name[] = "token_embd.weight";
constexpr char head_name[] = "output.weight";

// Upstream's own rule for what llama-quantize may touch: norms, routers and small tensors are used by
// operations that have no quantized form.
bool allows_quantization(const llama_model* model, const ggml_tensor* tensor) {
  const llama_model_quantize_params params = llama_model_quantize_default_params();
  quantize_state_impl* state = llama_quant_init(model, &params);
  const bool allowed = llama_quant_tensor_allows_quantization(state, tensor);
  llama_quant_free(state);
  return allowed;
}

bool device_multiplies(ggml_backend_buffer_type_t buft, const ggml_tensor* like, ggml_type type) {
  ggml_backend_dev_t device = ggml_backend_buft_get_device(buft);
  if (device == nullptr) {
    return true;  // plain host memory: the CPU multiplies every type
  }
  ggml_init_params params{4 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true};
  const ggml_context_ptr ctx(ggml_init(params));
  ggml_tensor* w = ggml_new_tensor_2d(ctx.get(), type, like->ne[0], like->ne[1]);
  ggml_tensor* x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, like->ne[0], 32);
  return ggml_backend_dev_supports_op(device, ggml_mul_mat(ctx.get(), w, x));
}

}  // namespace

Variant::Variant(std::string name, ggml_type type, const std::vector<ggml_tensor*>& places)
    : name_(std::move(name)), type_(type) {
  for (const ggml_tensor* place : places) {
    if (!tensors_.empty() && place->buffer == places.front()->buffer) {
      tensors_.push_back(tensors_.front());  // two readers of the same memory
      continue;
    }
    ggml_init_params params{2 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true};
    ggml_context_ptr context(ggml_init(params));
    ggml_tensor* tensor = ggml_new_tensor(context.get(), type, GGML_MAX_DIMS, place->ne);
    ggml_set_name(tensor, name_.c_str());
    size_bytes_ = ggml_nbytes(tensor);
    // The same kind of memory as the original: it pads rows and places operations as a real load would.
    ggml_backend_buffer_type_t buft = ggml_backend_buffer_get_type(place->buffer);
    if (!device_multiplies(buft, place, type)) {
      throw Error(ErrorKind::unsupported_type,
                  std::string(ggml_backend_buft_name(buft)) + " cannot multiply with " + type_name(type),
                  {{"tensor", name_}, {"qtype", type_name(type)}, {"reason", std::string("device")}});
    }
    ggml_backend_buffer_ptr buffer(ggml_backend_alloc_ctx_tensors_from_buft(context.get(), buft));
    if (!buffer) {
      throw Error(ErrorKind::backend, "no memory for " + std::to_string(size_bytes_) + " bytes of " + name_ +
                                          " as " + type_name(type) + " in " + ggml_backend_buft_name(buft));
    }
    ggml_backend_buffer_set_usage(buffer.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    contexts_.push_back(std::move(context));
    buffers_.push_back(std::move(buffer));
    tensors_.push_back(tensor);
  }
}

void* Variant::host_data() const {
  const bool addressable = buffers_.size() == 1 && ggml_backend_buffer_is_host(buffers_.front().get());
  return addressable ? tensors_.front()->data : nullptr;
}

void Variant::upload(const void* bytes) {
  for (ggml_tensor* tensor : tensors_) {
    ggml_backend_tensor_set(tensor, bytes, 0, size_bytes_);
  }
}

Model::Storage Model::storage_of(const ggml_tensor* t) {
  Storage s{t->type, {}, t->data, t->buffer, t->extra};
  std::memcpy(s.nb, t->nb, sizeof(s.nb));
  return s;
}

void Model::set_storage(ggml_tensor* t, const Storage& s) {
  t->type = s.type;
  std::memcpy(t->nb, s.nb, sizeof(s.nb));
  t->data = s.data;
  t->buffer = s.buffer;
  t->extra = s.extra;
}

// A tied head is the embedding's own tensor, or a second copy of it on a device. A tensor of its own that
// reads the same memory makes it possible to exchange one and not the other.
void Model::split_head() {
  llama_model* model = model_.get();
  if (extra_buffers_ || by_name_.count(head_name) != 0 || model->tok_embd == nullptr ||
      model->output == nullptr || std::strcmp(model->output->name, embedding_name) != 0) {
    return;
  }
  if (model->output != model->tok_embd) {
    head_ = model->output;
    return;
  }
  ggml_init_params params{2 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true};
  head_context_.reset(ggml_init(params));
  head_ = ggml_dup_tensor(head_context_.get(), model->tok_embd);
  set_storage(head_, storage_of(model->tok_embd));
  ggml_set_name(head_, embedding_name);  // what an imatrix calls it
  for (auto* precisions : {&model->prec_policy.prec_acc, &model->prec_policy.prec_src1}) {
    if (const auto known = precisions->find(model->tok_embd); known != precisions->end()) {
      precisions->emplace(head_, known->second);
    }
  }
  model->output = head_;
}

std::vector<ggml_tensor*> Model::places(const std::string& name) const {
  if (head_ != nullptr && name == head_name) {
    return {head_};
  }
  std::vector<ggml_tensor*> found;
  const auto range = by_name_.equal_range(name);
  for (auto it = range.first; it != range.second; ++it) {
    found.push_back(it->second);
  }
  if (head_context_ != nullptr && name == embedding_name) {
    found.push_back(head_);
  }
  if (found.empty()) {
    throw Error(ErrorKind::unsupported_type, "the model has no tensor called " + name,
                {{"tensor", name}, {"reason", std::string("absent")}});
  }
  return found;
}

Matrices Model::original(const std::string& name, std::vector<uint8_t>& copy) const {
  ggml_tensor* tensor = places(name).front();
  const auto saved = originals_.find(tensor);
  ggml_tensor source = *tensor;
  if (saved != originals_.end()) {
    set_storage(&source, saved->second);
  }
  const void* data = source.data;
  if (!ggml_backend_buffer_is_host(source.buffer)) {
    copy.resize(ggml_nbytes(&source));
    ggml_backend_tensor_get(&source, copy.data(), 0, copy.size());
    data = copy.data();
  }
  return {source.type, data, source.ne[2] * source.ne[3], source.ne[1], source.ne[0]};
}

std::shared_ptr<Variant> Model::new_variant(const std::string& name, ggml_type type) const {
  const std::vector<ggml_tensor*> where = places(name);
  if (extra_buffers_) {
    throw Error(ErrorKind::unsupported_type,
                "the model was loaded with repacked weights, which cannot be exchanged; load it without",
                {{"tensor", name}, {"reason", std::string("repacked")}});
  }
  if (!allows_quantization(model_.get(), where.front())) {
    throw Error(
        ErrorKind::unsupported_type,
        name + " is a tensor that llama.cpp never quantizes; leave it at " + type_name(where.front()->type),
        {{"tensor", name}, {"qtype", type_name(type)}, {"reason", std::string("never quantized")}});
  }
  if (!has_encoder(type)) {
    throw Error(ErrorKind::unsupported_type, "ggml has no encoder for " + type_name(type),
                {{"tensor", name}, {"qtype", type_name(type)}, {"reason", std::string("no encoder")}});
  }
  row_bytes(type, where.front()->ne[0]);
  return std::make_shared<Variant>(name, type, where);
}

std::shared_ptr<Variant> Model::encode(const std::string& name, ggml_type type, const float* imatrix,
                                       Monitor& monitor) {
  const AbortGuard guard;
  // Memory comes first: of a repacked tensor not even the original can be read.
  std::shared_ptr<Variant> variant = new_variant(name, type);
  std::vector<uint8_t> copy;
  const Matrices source = original(name, copy);
  check_target(source, type, imatrix);
  if (void* data = variant->host_data()) {
    quantize(source, type, data, imatrix, n_threads_, monitor);
  } else {
    std::vector<uint8_t> blocks(variant->size_bytes());
    quantize(source, type, blocks.data(), imatrix, n_threads_, monitor);
    variant->upload(blocks.data());
  }
  return variant;
}

std::shared_ptr<Variant> Model::variant(const std::string& name, ggml_type type, const void* bytes,
                                        size_t size) {
  const AbortGuard guard;
  std::shared_ptr<Variant> variant = new_variant(name, type);
  if (size != variant->size_bytes()) {
    throw Error(
        ErrorKind::shape,
        name + " as " + type_name(type) + " takes " + std::to_string(variant->size_bytes()) + " bytes, but " +
            std::to_string(size) + " were given",
        {{"expected", static_cast<int64_t>(variant->size_bytes())}, {"got", static_cast<int64_t>(size)}});
  }
  if (!ggml_validate_row_data(type, bytes, size)) {
    throw Error(ErrorKind::quantize, "the blocks given for " + name + " are not valid " + type_name(type),
                {{"tensor", name}, {"qtype", type_name(type)}});
  }
  variant->upload(bytes);
  return variant;
}

void Model::swap(const std::vector<std::shared_ptr<Variant>>& variants) {
  for (const std::shared_ptr<Variant>& variant : variants) {
    const std::vector<ggml_tensor*> where = places(variant->name());
    if (where.size() != variant->tensors().size() ||
        !ggml_are_same_shape(where.front(), variant->tensors().front())) {
      throw Error(ErrorKind::shape, "the variant of " + variant->name() + " was made for another model");
    }
  }
  for (const bool is_head : {false, true}) {
    for (const std::shared_ptr<Variant>& variant : variants) {
      if ((variant->name() == head_name) != is_head) {
        continue;
      }
      const std::vector<ggml_tensor*> where = places(variant->name());
      for (size_t i = 0; i < where.size(); ++i) {
        originals_.emplace(where[i], storage_of(where[i]));
        set_storage(where[i], storage_of(variant->tensors()[i]));
      }
      active_[variant->name()] = variant;
    }
  }
}

void Model::restore(const std::vector<std::string>& names) {
  const std::vector<std::string> all = names.empty() ? swapped() : names;
  for (const std::string& name : all) {
    for (ggml_tensor* tensor : places(name)) {
      const auto saved = originals_.find(tensor);
      if (saved != originals_.end()) {
        set_storage(tensor, saved->second);
        originals_.erase(saved);
      }
    }
    active_.erase(name);
  }
}

std::vector<std::string> Model::swapped() const {
  std::vector<std::string> names;
  names.reserve(active_.size());
  for (const auto& entry : active_) {
    names.push_back(entry.first);
  }
  return names;
}

}  // namespace mqn
