#include "decoder.hpp"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <string>

#include "backend.hpp"
#include "graph_hooks.hpp"
#include "logit_scorer.hpp"

namespace mqn {
namespace {

constexpr int64_t max_ubatch = 512;

// llama.cpp takes this choice from the environment only, at the moment a context is made.
llama_context* init_without_graph_reuse(llama_model* model, const llama_context_params& params) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  const char* name = "LLAMA_GRAPH_REUSE_DISABLE";
  const bool was_set = std::getenv(name) != nullptr;
  if (!was_set) {
    setenv(name, "1", 1);
  }
  llama_context* context = llama_init_from_model(model, params);
  if (!was_set) {
    unsetenv(name);
  }
  return context;
}

}  // namespace

Model::Decoder::Decoder(llama_model* model, int64_t n_ctx, int64_t n_seq, int n_threads, bool on_gpu,
                        const CacheTypes& cache, ggml_backend_sched_eval_callback on_node, void* user_data)
    : n_ctx_(n_ctx) {
  if (!llama_model_has_decoder(model) || llama_model_has_encoder(model)) {
    throw Error(ErrorKind::backend, "only decoder models are evaluated; this one has an encoder");
  }
  clear_recent_errors();
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<uint32_t>(n_ctx * n_seq);
  params.n_batch = static_cast<uint32_t>(n_ctx * n_seq);
  params.n_ubatch = static_cast<uint32_t>(std::min(n_ctx * n_seq, max_ubatch));
  params.n_seq_max = static_cast<uint32_t>(n_seq);
  params.kv_unified = false;
  params.n_threads = n_threads;
  params.n_threads_batch = n_threads;
  params.type_k = cache.k;
  params.type_v = cache.v;
  params.no_perf = true;
  params.swa_full = false;
  params.offload_kqv = on_gpu;
  params.op_offload = on_gpu;
  params.cb_eval = on_node;
  params.cb_eval_user_data = user_data;
  params.abort_callback = should_abort;
  params.abort_callback_data = this;
  context_.reset(init_without_graph_reuse(model, params));
  if (!context_) {
    throw Error(ErrorKind::backend,
                "llama.cpp could not make a context of " + std::to_string(n_ctx * n_seq) + " tokens",
                {{"log", recent_errors()}});
  }
  batch_ = llama_batch_init(static_cast<int32_t>(n_ctx * n_seq), 0, 1);
  set_threads(n_threads);
}

void Model::Decoder::set_threads(int n) {
  if (n == n_threads_) {
    return;
  }
  llama_detach_threadpool(context_.get());
  ggml_threadpool_params params = ggml_threadpool_params_default(n);
  params.poll = 0;  // between graphs the processor is wanted by others
  threads_.reset(ggml_threadpool_new(&params));
  llama_attach_threadpool(context_.get(), threads_.get(), threads_.get());
  llama_set_n_threads(context_.get(), n, n);
  n_threads_ = n;
}

Model::Decoder::~Decoder() { llama_batch_free(batch_); }

bool Model::Decoder::should_abort(void* user_data) {
  const Monitor* monitor = static_cast<Decoder*>(user_data)->monitor_;
  return monitor != nullptr && monitor->cancelled();
}

void Model::Decoder::evaluate(const int32_t* tokens, int64_t n_seq, int64_t first, int64_t last,
                              Monitor& monitor) {
  batch_.n_tokens = static_cast<int32_t>(n_seq * n_ctx_);
  for (int64_t i = 0; i < n_seq * n_ctx_; ++i) {
    const int64_t position = i % n_ctx_;
    batch_.token[i] = tokens[i];
    batch_.pos[i] = static_cast<llama_pos>(position);
    batch_.n_seq_id[i] = 1;
    batch_.seq_id[i][0] = static_cast<llama_seq_id>(i / n_ctx_);
    batch_.logits[i] = position >= first && position < last ? 1 : 0;
  }
  monitor.check();
  clear_recent_errors();
  llama_memory_clear(llama_get_memory(context_.get()), true);
  monitor_ = &monitor;
  const int32_t status = llama_decode(context_.get(), batch_);
  llama_synchronize(context_.get());
  monitor_ = nullptr;
  monitor.check();
  if (status != 0) {
    throw Error(ErrorKind::backend,
                "llama.cpp could not evaluate a chunk (status " + std::to_string(status) + ")",
                {{"log", recent_errors()}});
  }
}

void Model::Decoder::score(const int32_t* tokens, int64_t first, int64_t last, LogitScorer& scorer,
                           Monitor& monitor) {
  if (!has_graph_hooks()) {
    throw Error(ErrorKind::backend, "this build's linker cannot keep logits on a device (--wrap)");
  }
  const LogitTap tap(scorer);
  evaluate(tokens, 1, first, last, monitor);
  tap.check();
}

const float* Model::Decoder::logit_rows(int64_t first) {
  // Outputs of one sequence keep their order, so that the rows follow the first one.
  const float* rows = llama_get_logits_ith(context_.get(), static_cast<int32_t>(first));
  if (rows == nullptr) {
    throw Error(ErrorKind::backend, "the model gives no logits", {{"log", recent_errors()}});
  }
  return rows;
}

}  // namespace mqn
