#include "matmul_bench.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>

#include "backend.hpp"
#include "error.hpp"
#include "ggml-backend.h"
#include "ggml-cpp.h"
#include "ggml-cpu.h"
#include "quant.hpp"
#include "types.hpp"

namespace mqn {
namespace {

constexpr size_t max_copies = 256;
constexpr size_t min_rounds = 8;
// Rows that are really encoded; the rest repeats them, since some types take long.
constexpr int64_t distinct_rows = 16;

struct ThreadpoolDeleter {
  void operator()(ggml_threadpool* pool) const { ggml_threadpool_free(pool); }
};

ggml_context_ptr new_context(size_t n_tensors) {
  const ggml_init_params params{
      n_tensors * ggml_tensor_overhead() + ggml_graph_overhead_custom(n_tensors, false), nullptr,
      /*no_alloc=*/true};
  return ggml_context_ptr(ggml_init(params));
}

ggml_tensor* new_weights(ggml_context* ctx, const Product& p) {
  return p.n_experts > 0 ? ggml_new_tensor_3d(ctx, p.type, p.n_per_row, p.n_rows, p.n_experts)
                         : ggml_new_tensor_2d(ctx, p.type, p.n_per_row, p.n_rows);
}

struct Inputs {
  ggml_tensor* x;
  ggml_tensor* experts;  // null for a plain product
};

Inputs new_inputs(ggml_context* ctx, const Product& p) {
  if (p.n_experts == 0) {
    return {ggml_new_tensor_2d(ctx, GGML_TYPE_F32, p.n_per_row, p.n_tokens), nullptr};
  }
  return {ggml_new_tensor_3d(ctx, GGML_TYPE_F32, p.n_per_row, p.n_used, p.n_tokens),
          ggml_new_tensor_2d(ctx, GGML_TYPE_I32, p.n_used, p.n_tokens)};
}

ggml_tensor* multiply(ggml_context* ctx, ggml_tensor* weights, const Inputs& in) {
  return in.experts == nullptr ? ggml_mul_mat(ctx, weights, in.x)
                               : ggml_mul_mat_id(ctx, weights, in.x, in.experts);
}

// As llama.cpp asks (src/llama-model-loader.cpp, weight_buft_supported).
bool supports(ggml_backend_dev_t device, ggml_backend_buffer_type_t type, const Product& p) {
  const ggml_context_ptr ctx = new_context(8);
  ggml_tensor* weights = new_weights(ctx.get(), p);
  const ggml_tensor* product = multiply(ctx.get(), weights, new_inputs(ctx.get(), p));
  const ggml_backend_buffer_ptr empty(ggml_backend_buft_alloc_buffer(type, 0));
  weights->buffer = empty.get();
  return ggml_backend_dev_supports_op(device, product);
}

ggml_backend_buffer_type_t weights_buffer(ggml_backend_dev_t device, const Product& p, bool extra_buffers) {
  ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(device);
  auto extra = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(
      ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts"));
  for (ggml_backend_buffer_type_t* type = extra_buffers && extra != nullptr ? extra(device) : nullptr;
       type != nullptr && *type != nullptr; ++type) {
    if (supports(device, *type, p)) {
      return *type;
    }
  }
  if (!supports(device, ggml_backend_dev_buffer_type(device), p)) {
    throw Error(ErrorKind::unsupported_type,
                std::string(ggml_backend_dev_name(device)) + " cannot multiply with " + type_name(p.type));
  }
  return ggml_backend_dev_buffer_type(device);
}

std::vector<uint8_t> encoded_weights(const Product& p) {
  return any_rows(p.type, p.n_per_row, p.n_rows * std::max<int64_t>(1, p.n_experts));
}

}  // namespace

std::vector<uint8_t> any_rows(ggml_type type, int64_t n_per_row, int64_t n_rows) {
  const int64_t n_encoded = std::min(distinct_rows, n_rows);
  std::vector<float> rows(static_cast<size_t>(n_encoded * n_per_row));
  std::minstd_rand random(1);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::generate(rows.begin(), rows.end(), [&] { return normal(random); });
  const std::vector<float> importances(static_cast<size_t>(n_per_row), 1.0F);
  const size_t row = row_bytes(type, n_per_row);
  std::vector<uint8_t> bytes(static_cast<size_t>(n_rows) * row);
  Monitor unheard;
  quantize({GGML_TYPE_F32, rows.data(), 1, n_encoded, n_per_row}, type, bytes.data(), importances.data(), 1,
           unheard);
  const size_t encoded = static_cast<size_t>(n_encoded) * row;
  for (size_t at = encoded; at < bytes.size(); at += encoded) {
    std::memcpy(bytes.data() + at, bytes.data(), std::min(encoded, bytes.size() - at));
  }
  return bytes;
}

std::vector<double> time_product(const Product& p, const ProductOptions& options, Monitor& monitor) {
  ensure_backend();
  const AbortGuard guard;
  ggml_backend_dev_t device = ggml_backend_dev_by_name(options.device.c_str());
  if (device == nullptr) {
    throw Error(ErrorKind::backend, "there is no device called " + options.device);
  }
  const std::vector<uint8_t> bytes = encoded_weights(p);
  const size_t n_copies =
      std::clamp<size_t>(static_cast<size_t>(options.working_set_bytes) / bytes.size(), 1, max_copies);

  const ggml_context_ptr weights_ctx = new_context(n_copies);
  std::vector<ggml_tensor*> weights;
  for (size_t i = 0; i < n_copies; ++i) {
    weights.push_back(new_weights(weights_ctx.get(), p));
  }
  const ggml_backend_buffer_ptr weights_memory(ggml_backend_alloc_ctx_tensors_from_buft(
      weights_ctx.get(), weights_buffer(device, p, options.extra_buffers)));
  const ggml_context_ptr graph_ctx = new_context(2 * n_copies + 8);
  const Inputs in = new_inputs(graph_ctx.get(), p);
  ggml_cgraph* graph = ggml_new_graph_custom(graph_ctx.get(), 2 * n_copies + 8, false);
  for (ggml_tensor* w : weights) {
    ggml_build_forward_expand(graph, multiply(graph_ctx.get(), w, in));
  }
  const ggml_backend_ptr backend(ggml_backend_dev_init(device, nullptr));
  const ggml_backend_buffer_ptr graph_memory(ggml_backend_alloc_ctx_tensors(graph_ctx.get(), backend.get()));
  if (!weights_memory || !graph_memory) {
    throw Error(ErrorKind::backend, "no memory for " + std::to_string(n_copies * bytes.size()) + " bytes");
  }
  for (ggml_tensor* w : weights) {
    ggml_backend_tensor_set(w, bytes.data(), 0, bytes.size());
    monitor.check();
  }
  std::vector<float> x(static_cast<size_t>(ggml_nelements(in.x)));
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(i % 17) / 17.0F - 0.5F;
  }
  ggml_backend_tensor_set(in.x, x.data(), 0, x.size() * sizeof(float));
  if (in.experts != nullptr) {
    std::vector<int32_t> ids(static_cast<size_t>(ggml_nelements(in.experts)));
    for (size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<int32_t>(static_cast<int64_t>(i) % p.n_experts);
    }
    ggml_backend_tensor_set(in.experts, ids.data(), 0, ids.size() * sizeof(int32_t));
  }

  std::unique_ptr<ggml_threadpool, ThreadpoolDeleter> threads;
  if (ggml_backend_is_cpu(backend.get())) {
    ggml_threadpool_params params = ggml_threadpool_params_default(options.n_threads);
    threads.reset(ggml_threadpool_new(&params));
    ggml_backend_cpu_set_n_threads(backend.get(), options.n_threads);
    ggml_backend_cpu_set_threadpool(backend.get(), threads.get());
  }
  using Clock = std::chrono::steady_clock;
  auto round = [&] {
    const auto begin = Clock::now();
    const bool ok = ggml_backend_graph_compute(backend.get(), graph) == GGML_STATUS_SUCCESS;
    ggml_backend_synchronize(backend.get());
    if (!ok) {
      throw Error(ErrorKind::backend, "ggml could not compute a product", {{"log", recent_errors()}});
    }
    return std::chrono::duration<double>(Clock::now() - begin).count();
  };
  round();  // warms up
  std::vector<double> times;
  double total = 0;
  while (times.size() < min_rounds || total < options.seconds) {
    monitor.check();
    const double elapsed = round();
    total += elapsed;
    times.push_back(elapsed / static_cast<double>(n_copies));
  }
  if (ggml_backend_is_cpu(backend.get())) {
    ggml_backend_cpu_set_threadpool(backend.get(), nullptr);
  }
  return times;
}

}  // namespace mqn
