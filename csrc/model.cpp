#include "model.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "activations.hpp"
#include "backend.hpp"
#include "covariance.hpp"
#include "decoder.hpp"
#include "graph_hooks.hpp"
#include "llama-ext.h"
#include "llama-model.h"
#include "llama.h"

// Upstream's list of a model's tensors (src/llama-model.cpp); it has C++ linkage and no public header.
const std::vector<std::pair<std::string, ggml_tensor*>>& llama_internal_get_tensor_map(
    const llama_model* model);

namespace mqn {
namespace {

constexpr uint64_t load_steps = 1000;
// llama-imatrix's default batch, in tokens.
constexpr int64_t imatrix_batch = 2048;

bool on_load_progress(float progress, void* user_data) {
  auto* monitor = static_cast<Monitor*>(user_data);
  monitor->set_done(static_cast<uint64_t>(progress * static_cast<float>(load_steps)));
  return !monitor->cancelled();
}

}  // namespace

Model::Model(const LoadOptions& options, Monitor& monitor)
    : extra_buffers_(options.extra_buffers),
      on_gpu_(options.n_gpu_layers != 0),
      n_threads_(options.n_threads) {
  ensure_backend();
  const AbortGuard guard;
  clear_recent_errors();
  monitor.set_total(load_steps);
  std::vector<ggml_backend_dev_t> devices = named_devices(options.devices);
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = options.n_gpu_layers;
  params.use_extra_bufts = options.extra_buffers;
  params.progress_callback = on_load_progress;
  params.progress_callback_user_data = &monitor;
  if (!on_gpu_ || !options.devices.empty()) {
    devices.push_back(nullptr);  // the list's end; alone it says: no GPU
    params.devices = devices.data();
  }
  std::vector<const char*> paths;
  for (const std::string& path : options.paths) {
    paths.push_back(path.c_str());
  }
  model_.reset(paths.size() == 1 ? llama_model_load_from_file(paths.front(), params)
                                 : llama_model_load_from_splits(paths.data(), paths.size(), params));
  if (!model_) {
    monitor.check();
    throw Error(ErrorKind::model_load, "llama.cpp could not load the model",
                {{"path", options.paths.front()}, {"log", recent_errors()}});
  }
  for (const auto& entry : llama_internal_get_tensor_map(model_.get())) {
    by_name_.emplace(entry.first, entry.second);
  }
  split_head();
}

Model::~Model() {
  restore({});
  decoder_.reset();
}

std::vector<TensorRecord> Model::tensors() const {
  std::vector<TensorRecord> records;
  for (const auto& entry : by_name_) {
    const ggml_tensor* t = entry.second;
    records.push_back({entry.first,
                       static_cast<int>(t->type),
                       {t->ne, t->ne + std::max(1, ggml_n_dims(t))},
                       t->buffer == nullptr ? "" : ggml_backend_buffer_name(t->buffer)});
  }
  return records;
}

const llama_vocab* Model::vocab() const { return llama_model_get_vocab(model_.get()); }

int64_t Model::n_vocab() const { return llama_vocab_n_tokens(vocab()); }

std::string Model::logits_device() const {
  const ggml_tensor* head = model_->output;
  if (head == nullptr || head->buffer == nullptr || ggml_backend_buffer_is_host(head->buffer)) {
    return "";
  }
  ggml_backend_dev_t device = ggml_backend_buft_get_device(ggml_backend_buffer_get_type(head->buffer));
  return device == nullptr ? "" : ggml_backend_dev_name(device);
}

std::vector<int32_t> Model::tokenize(const std::string& text, bool add_special, bool parse_special) const {
  const AbortGuard guard;
  if (llama_vocab_type(vocab()) == LLAMA_VOCAB_TYPE_NONE) {
    throw Error(ErrorKind::backend, "the model has no tokenizer, so that text cannot be measured with it");
  }
  std::vector<int32_t> tokens(text.size() + 2);
  auto run = [&] {
    return llama_tokenize(vocab(), text.data(), static_cast<int32_t>(text.size()), tokens.data(),
                          static_cast<int32_t>(tokens.size()), add_special, parse_special);
  };
  int32_t n = run();
  if (n < 0) {
    tokens.resize(static_cast<size_t>(-static_cast<int64_t>(n)));
    n = run();
  }
  if (n < 0) {
    throw Error(ErrorKind::backend, "the text is too long for one call of llama.cpp's tokenizer");
  }
  tokens.resize(static_cast<size_t>(n));
  return tokens;
}

std::string Model::piece(int32_t token) const {
  std::string text(64, '\0');
  int32_t n = llama_token_to_piece(vocab(), token, text.data(), static_cast<int32_t>(text.size()), 0, true);
  if (n < 0) {
    text.resize(static_cast<size_t>(-n));
    n = llama_token_to_piece(vocab(), token, text.data(), static_cast<int32_t>(text.size()), 0, true);
  }
  text.resize(static_cast<size_t>(std::max(0, n)));
  return text;
}

Model::Decoder& Model::decoder(int64_t n_tokens) {
  if (!decoder_ || decoder_->n_ctx() != n_tokens) {
    decoder_.reset();
    decoder_ =
        std::make_unique<Decoder>(model_.get(), n_tokens, 1, n_threads_, on_gpu_, cache_, on_node, nullptr);
  }
  decoder_->set_threads(n_threads_);
  return *decoder_;
}

void Model::set_cache(const CacheTypes& types) {
  if (types.k != cache_.k || types.v != cache_.v) {
    decoder_.reset();
    last_logits_ = nullptr;
    cache_ = types;
  }
}

void Model::logits(const int32_t* tokens, int64_t n, int64_t first, int64_t last, float* out,
                   LogitScorer* scorer, Monitor& monitor) {
  const AbortGuard guard;
  last_logits_ = nullptr;
  Decoder& d = decoder(n);
  if (scorer != nullptr) {
    d.score(tokens, first, last, *scorer, monitor);
    return;
  }
  last_logits_ = d.run(tokens, 1, first, last, monitor);
  n_last_logits_ = last - first;
  if (out != nullptr) {
    std::memcpy(out, last_logits_, static_cast<size_t>((last - first) * n_vocab()) * sizeof(float));
  }
}

Trace Model::trace(const int32_t* tokens, int64_t n, int64_t first, int64_t last,
                   const std::vector<int>& layers, float* out, LogitScorer* scorer, Monitor& monitor) {
  Trace trace;
  trace.tokens.assign(tokens, tokens + n);
  trace.first = first;
  trace.last = last;
  const GraphTap tap(trace, layers);
  logits(tokens, n, first, last, out, scorer, monitor);
  return trace;
}

bool Model::resume(const Trace& trace, int layer, bool is_own, float* out, LogitScorer* scorer,
                   Monitor& monitor) {
  std::unordered_set<const ggml_tensor*> changed;
  for (const auto& entry : originals_) {
    if (!is_own) {
      changed.insert(entry.first);
    }
  }
  const GraphTap tap(trace, layer, std::move(changed));
  logits(trace.tokens.data(), static_cast<int64_t>(trace.tokens.size()), trace.first, trace.last, out, scorer,
         monitor);
  return tap.restarted();
}

Trace Model::advance(const Trace& trace, int layer, int until, Monitor& monitor) {
  Trace kept;
  kept.tokens = trace.tokens;
  kept.first = trace.first;
  kept.last = trace.last;
  const GraphTap tap(trace, layer, kept, until);
  for (const int32_t token : trace.tokens) {
    if (token < 0 || token >= n_vocab()) {
      throw Error(ErrorKind::shape, "token " + std::to_string(token) + " is not in the vocabulary");
    }
  }
  const auto n = static_cast<int64_t>(trace.tokens.size());
  logits(trace.tokens.data(), n, trace.first, trace.last, nullptr, nullptr, monitor);
  last_logits_ = nullptr;  // they were not computed
  if ((layer > 0 && !tap.restarted()) || kept.inputs.count(until) == 0) {
    throw Error(ErrorKind::backend, "the model's graph cannot be run from layer " + std::to_string(layer) +
                                        " to " + std::to_string(until));
  }
  return kept;
}

int64_t Model::activations(const int32_t* tokens, int64_t n_chunks, int64_t n_ctx, bool process_output,
                           bool sums_on_device, int64_t first, double seconds,
                           std::map<std::string, Activations>& sums, Monitor& monitor) {
  const AbortGuard guard;
  decoder_.reset();  // two contexts at once would double the memory
  last_logits_ = nullptr;
  // As many chunks together as upstream's tool takes: its sums are float32, and their order decides the
  // digits.
  const int64_t n_seq = std::min(n_chunks, std::max<int64_t>(1, imatrix_batch / n_ctx));
  if (first < 0 || first >= n_chunks || first % n_seq != 0) {
    throw Error(ErrorKind::shape, "the imatrix goes on at a chunk where a batch of " + std::to_string(n_seq) +
                                      " begins, not at " + std::to_string(first));
  }
  using Clock = std::chrono::steady_clock;
  const auto began = Clock::now();
  ActivationCollector collector(process_output, sums_on_device, std::move(sums));
  Decoder d(model_.get(), n_ctx, n_seq, n_threads_, on_gpu_, {}, NodeCollector::on_node,
            static_cast<NodeCollector*>(&collector));
  monitor.set_total(static_cast<uint64_t>(n_chunks));
  monitor.add(static_cast<uint64_t>(first));
  int64_t done = first;
  do {
    const int64_t n = std::min(n_seq, n_chunks - done);
    // Every position is an output, so that the last layer sees every token.
    d.run(tokens + done * n_ctx, n, 0, n_ctx, monitor);
    collector.check();
    monitor.add(static_cast<uint64_t>(n));
    done += n;
  } while (done < n_chunks && std::chrono::duration<double>(Clock::now() - began).count() < seconds);
  sums = collector.take();
  return done;
}

void Model::covariances(const int32_t* tokens, int64_t n_chunks, int64_t n_ctx,
                        CovarianceCollector& collector, Monitor& monitor) {
  const AbortGuard guard;
  decoder_.reset();  // two contexts at once would double the memory
  last_logits_ = nullptr;
  Decoder d(model_.get(), n_ctx, 1, n_threads_, on_gpu_, {}, NodeCollector::on_node,
            static_cast<NodeCollector*>(&collector));
  monitor.set_total(static_cast<uint64_t>(n_chunks));
  for (int64_t chunk = 0; chunk < n_chunks; ++chunk) {
    d.run(tokens + chunk * n_ctx, 1, 0, n_ctx, monitor);
    collector.check();
    monitor.add(1);
  }
}

}  // namespace mqn
