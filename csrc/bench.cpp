#include "bench.hpp"

#include <algorithm>
#include <chrono>
#include <memory>
#include <random>

#include "backend.hpp"
#include "ggml-cpu.h"
#include "llama-cpp.h"
#include "matmul_bench.hpp"

// Upstream's list of a model's tensors (src/llama-model.cpp); it has C++ linkage and no public header.
const std::vector<std::pair<std::string, ggml_tensor*>>& llama_internal_get_tensor_map(
    const llama_model* model);

namespace mqn {
namespace {

struct ThreadpoolDeleter {
  void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
};

class Session {
 public:
  Session(llama_model* model, ContextOptions options, int n_tokens, int n_threads, Monitor& monitor)
      : monitor_(monitor), vocab_(llama_model_get_vocab(model)) {
    options.n_ctx = static_cast<uint32_t>(n_tokens);
    options.n_seq = 1;
    llama_context_params params = context_params(options);
    params.n_threads = params.n_threads_batch = n_threads;
    params.abort_callback = [](void* data) { return static_cast<Monitor*>(data)->cancelled(); };
    params.abort_callback_data = &monitor;
    clear_recent_errors();
    context_.reset(llama_init_from_model(model, params));
    if (!context_) {
      throw Error(ErrorKind::backend, "llama.cpp could not make a context of " + std::to_string(n_tokens),
                  {{"log", recent_errors()}});
    }
    n_batch_ = static_cast<int>(params.n_batch);
    ggml_threadpool_params threads = ggml_threadpool_params_default(n_threads);
    threads_.reset(ggml_threadpool_new(&threads));
    llama_attach_threadpool(context_.get(), threads_.get(), nullptr);
  }
  ~Session() { llama_detach_threadpool(context_.get()); }
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  void clear() { llama_memory_clear(llama_get_memory(context_.get()), false); }

  void prompt(int n) {
    std::vector<llama_token> tokens;
    for (int done = 0; done < n; done += static_cast<int>(tokens.size())) {
      tokens.resize(static_cast<size_t>(std::min(n - done, n_batch_)));
      std::generate(tokens.begin(), tokens.end(), [&] { return any_token(); });
      decode(tokens);
    }
    llama_synchronize(context_.get());
  }

  void generate(int n) {
    std::vector<llama_token> token(1);
    for (int i = 0; i < n; ++i) {
      token[0] = any_token();
      decode(token);
      llama_synchronize(context_.get());
    }
  }

 private:
  llama_token any_token() {
    return static_cast<llama_token>(random_() % static_cast<unsigned>(llama_vocab_n_tokens(vocab_)));
  }

  void decode(std::vector<llama_token>& tokens) {
    const llama_batch batch = llama_batch_get_one(tokens.data(), static_cast<int32_t>(tokens.size()));
    const int32_t status = llama_decode(context_.get(), batch);
    monitor_.check();
    if (status != 0) {
      throw Error(ErrorKind::backend,
                  "llama.cpp could not evaluate a batch (status " + std::to_string(status) + ")",
                  {{"log", recent_errors()}});
    }
  }

  Monitor& monitor_;
  const llama_vocab* vocab_;
  int n_batch_ = 0;
  std::minstd_rand random_{1};
  std::unique_ptr<ggml_threadpool, ThreadpoolDeleter> threads_;
  llama_context_ptr context_;
};

void fill_weights(const llama_model* model) {
  for (const auto& entry : llama_internal_get_tensor_map(model)) {
    ggml_tensor* t = entry.second;
    const int64_t n_rows = ggml_nrows(t);
    if (n_rows > 1) {
      const std::vector<uint8_t> rows = any_rows(t->type, t->ne[0], n_rows);
      ggml_backend_tensor_set(t, rows.data(), 0, rows.size());
    } else if (t->type == GGML_TYPE_F32) {
      const std::vector<float> ones(static_cast<size_t>(t->ne[0]), 1.0F);
      ggml_backend_tensor_set(t, ones.data(), 0, ones.size() * sizeof(float));
    }
  }
}

template <class Work>
double seconds(Work&& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

}  // namespace

BenchTimes bench_model(const PlacementOptions& placement, const ContextOptions& context,
                       const BenchOptions& options, Monitor& monitor) {
  ensure_backend();
  const AbortGuard guard;
  llama_model_ptr model;
  {
    PlacedParams params(placement, monitor);
    if (options.fill) {
      params.params.load_mode = LLAMA_LOAD_MODE_NONE;
    }
    model.reset(load_placed(placement, params, monitor));
  }
  if (options.fill) {
    fill_weights(model.get());
  }
  monitor.set_total(static_cast<uint64_t>(2 * options.n_runs));
  monitor.set_done(0);
  BenchTimes times;
  if (options.n_prompt > 0) {
    Session session(model.get(), context, options.n_prompt, options.n_threads, monitor);
    session.prompt(options.n_prompt);
    for (int i = 0; i < options.n_runs; ++i) {
      session.clear();
      times.prompt.push_back(seconds([&] { session.prompt(options.n_prompt); }));
      monitor.add(1);
    }
  }
  if (options.n_gen > 0) {
    Session session(model.get(), context, options.n_gen, options.n_threads, monitor);
    session.generate(1);
    for (int i = 0; i < options.n_runs; ++i) {
      session.clear();
      times.generation.push_back(seconds([&] { session.generate(options.n_gen); }));
      monitor.add(1);
    }
  }
  return times;
}

}  // namespace mqn
