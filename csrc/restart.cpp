#include "restart.hpp"

#include <cctype>
#include <cstdlib>
#include <cstring>

#include "backend.hpp"
#include "error.hpp"
#include "ggml-impl.h"
#include "llama-cpp.h"
#include "llama.h"

namespace mqn {
namespace {

thread_local GraphTap* active_tap = nullptr;

// The layer that reads this node, if the node is a layer's output; else -1. llama.cpp names it
// `l_out-<layer>`.
int layer_after(const ggml_tensor* node) {
  constexpr char prefix[] = "l_out-";
  constexpr size_t length = sizeof(prefix) - 1;
  if (std::strncmp(node->name, prefix, length) != 0) {
    return -1;
  }
  const char* digit = node->name + length;
  for (const char* c = digit; *c != '\0'; ++c) {
    if (std::isdigit(static_cast<unsigned char>(*c)) == 0) {
      return -1;  // a view or a copy of it
    }
  }
  return *digit == '\0' ? -1 : std::atoi(digit) + 1;
}

// All that the nodes from `begin` on need, without going past `entry`.
std::unordered_set<const ggml_tensor*> needed_after(const ggml_cgraph* graph, int begin,
                                                    const ggml_tensor* entry) {
  std::unordered_set<const ggml_tensor*> needed;
  std::vector<const ggml_tensor*> open(graph->nodes + begin, graph->nodes + graph->n_nodes);
  auto visit = [&](const ggml_tensor* t) {
    if (t != nullptr && t != entry && needed.insert(t).second) {
      open.push_back(t);
    }
  };
  while (!open.empty()) {
    const ggml_tensor* t = open.back();
    open.pop_back();
    visit(t->view_src);
    for (const ggml_tensor* source : t->src) {
      visit(source);
    }
  }
  return needed;
}

bool reads_any(const ggml_tensor* node, const std::unordered_set<const ggml_tensor*>& tensors) {
  for (const ggml_tensor* source : node->src) {
    if (source != nullptr && (tensors.count(source) != 0 || tensors.count(source->view_src) != 0)) {
      return true;
    }
  }
  return false;
}

}  // namespace

size_t Trace::size_bytes() const {
  size_t size = tokens.size() * sizeof(int32_t);
  for (const auto& layer : inputs) {
    for (const auto& states : layer.second) {
      size += states.size();
    }
  }
  return size;
}

GraphTap::GraphTap(Trace& trace, const std::vector<int>& layers)
    : kept_(&trace), wanted_(layers.begin(), layers.end()) {
  active_tap = this;
}

GraphTap::GraphTap(const Trace& trace, int layer, std::unordered_set<const ggml_tensor*> changed)
    : from_(&trace), layer_(layer), changed_(std::move(changed)) {
  active_tap = this;
}

GraphTap::GraphTap(const Trace& trace, int layer, Trace& kept, int until)
    : kept_(&kept), from_(layer > 0 ? &trace : nullptr), wanted_{until}, layer_(layer), stops_(true) {
  active_tap = this;
}

GraphTap::GraphTap(std::set<int>& named) : named_(&named) { active_tap = this; }

GraphTap::~GraphTap() { active_tap = nullptr; }

bool GraphTap::on_node(ggml_tensor* node, bool ask) {
  GraphTap* tap = active_tap;
  if (tap == nullptr || tap->kept_ == nullptr) {
    return !ask;
  }
  const int layer = layer_after(node);
  const bool wanted = layer >= 0 && tap->wanted_.count(layer) != 0 && ggml_is_contiguous(node);
  if (ask || !wanted) {
    return ask ? wanted : true;
  }
  auto& batches = tap->kept_->inputs[layer];
  batches.resize(tap->n_graphs_);
  std::vector<uint8_t>& states = batches.back();
  states.resize(ggml_nbytes(node));
  ggml_backend_tensor_get(node, states.data(), 0, states.size());
  return !tap->stops_;  // false: the scheduler computes no more of this graph
}

void GraphTap::on_graph(ggml_cgraph* graph) {
  GraphTap* tap = active_tap;
  if (tap == nullptr || graph == nullptr) {
    return;
  }
  if (tap->named_ != nullptr) {
    for (int i = 0; i < graph->n_nodes; ++i) {
      if (const int layer = layer_after(graph->nodes[i]); layer > 0) {
        tap->named_->insert(layer);
      }
    }
  }
  if (tap->from_ != nullptr) {
    tap->entry_ = nullptr;
    tap->cut(graph);
  }
}

void GraphTap::on_inputs() {
  GraphTap* tap = active_tap;
  if (tap == nullptr) {
    return;
  }
  if (tap->entry_ != nullptr) {
    const std::vector<uint8_t>& states = tap->from_->inputs.at(tap->layer_)[tap->n_graphs_];
    ggml_backend_tensor_set(tap->entry_, states.data(), 0, states.size());
    tap->entry_ = nullptr;
    ++tap->n_cut_;
  }
  ++tap->n_graphs_;
}

bool GraphTap::cut(ggml_cgraph* graph) {
  const auto states = from_->inputs.find(layer_);
  if (states == from_->inputs.end() || n_graphs_ >= states->second.size()) {
    return false;
  }
  int at = -1;
  for (int i = 0; i < graph->n_nodes; ++i) {
    if (layer_after(graph->nodes[i]) == layer_) {
      at = i;
    }
  }
  if (at < 0 || graph->n_leafs >= graph->size ||
      ggml_nbytes(graph->nodes[at]) != states->second[n_graphs_].size()) {
    return false;
  }
  ggml_tensor* entry = graph->nodes[at];
  const auto needed = needed_after(graph, at + 1, entry);
  for (int i = 0; i <= at; ++i) {
    if (needed.count(graph->nodes[i]) == 0 && reads_any(graph->nodes[i], changed_)) {
      return false;
    }
  }
  int n_kept = 0;
  for (int i = 0; i < graph->n_nodes; ++i) {
    if (i > at || needed.count(graph->nodes[i]) != 0) {
      graph->nodes[n_kept++] = graph->nodes[i];
    }
  }
  graph->n_nodes = n_kept;
  entry->op = GGML_OP_NONE;
  std::memset(entry->src, 0, sizeof(entry->src));
  entry->view_src = nullptr;
  entry->view_offs = 0;
  entry->flags |= GGML_TENSOR_FLAG_INPUT;
  graph->leafs[graph->n_leafs++] = entry;
  entry_ = entry;
  return true;
}

std::set<int> restart_layers(const std::vector<std::string>& paths) {
  ensure_backend();
  const AbortGuard guard;
  clear_recent_errors();
  llama_model_params params = llama_model_default_params();
  ggml_backend_dev_t no_gpu[] = {nullptr};
  params.devices = no_gpu;
  params.n_gpu_layers = 0;
  params.use_extra_bufts = false;
  params.no_alloc = true;
  params.load_mode = LLAMA_LOAD_MODE_NONE;
  std::vector<const char*> files;
  for (const std::string& path : paths) {
    files.push_back(path.c_str());
  }
  const llama_model_ptr model(files.size() == 1
                                  ? llama_model_load_from_file(files.front(), params)
                                  : llama_model_load_from_splits(files.data(), files.size(), params));
  if (!model) {
    throw Error(ErrorKind::model_load, "llama.cpp could not read the model",
                {{"path", paths.front()}, {"log", recent_errors()}});
  }
  std::set<int> named;
  if (!llama_model_has_decoder(model.get()) || llama_model_has_encoder(model.get())) {
    return named;
  }
  const GraphTap tap(named);
  llama_context_params context = llama_context_default_params();
  context.n_ctx = context.n_batch = context.n_ubatch = 64;
  const llama_context_ptr made(llama_init_from_model(model.get(), context));
  if (!made) {
    throw Error(ErrorKind::backend, "llama.cpp could not plan an evaluation of the model",
                {{"log", recent_errors()}});
  }
  return named;
}

}  // namespace mqn
