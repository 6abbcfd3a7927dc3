#include "logit_scorer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "backend.hpp"
#include "error.hpp"
#include "llama-graph.h"

namespace mqn {
namespace {

// Logits of one block of rows: large enough to occupy a device, small beside a model.
constexpr int64_t block_bytes = 64 << 20;
// Stands for every infinite logit, so that the difference of two is 0.
constexpr float most = 1e30F;
// Beyond this, sum p_ref exp(z) misses tokens that the reference all but rules out; the two normalizers are
// then the better source. They are off by about 1e-6.
constexpr double largest_correction = 1e-4;
constexpr int64_t figure_stride = 32;  // rows of figures start at multiples of 128 bytes
constexpr size_t n_tensors = 48;
constexpr double nan_value = std::numeric_limits<double>::quiet_NaN();

enum Figure { figure_top, figure_norm, figure_target, figure_shift, figure_mean, figure_excess, figure_gap };
constexpr int64_t n_figures = 7;

thread_local LogitTap* active_tap = nullptr;

}  // namespace

// The graph of one block of rows. Results are computed straight into the scorer's buffer.
struct LogitScorer::Block {
  Block(const LogitScorer& owner, int64_t n_rows) : self(owner), n(n_rows) {
    const size_t size = n_tensors * ggml_tensor_overhead() + ggml_graph_overhead();
    context.reset(ggml_init({size, nullptr, /*no_alloc=*/true}));
    ctx = context.get();
    graph = ggml_new_graph(ctx);
  }

  void into(ggml_tensor* node, const ggml_tensor* place, size_t offset) {
    node->data = static_cast<char*>(place->data) + offset;
    node->buffer = place->buffer;
    ggml_set_output(node);  // no back end may fuse it away
  }
  ggml_tensor* figure(ggml_tensor* node, Figure which) {
    into(node, self.figures_, static_cast<size_t>(which) * self.figures_->nb[1]);
    ggml_build_forward_expand(graph, node);
    return node;
  }
  // One entry of every row: x[index[r], r].
  ggml_tensor* pick(ggml_tensor* x, ggml_tensor* index) {
    return ggml_get_rows(ctx, ggml_reshape_3d(ctx, x, 1, x->ne[0], n), ggml_reshape_2d(ctx, index, 1, n));
  }
  ggml_tensor* one_a_row(ggml_tensor* x) { return ggml_reshape_2d(ctx, x, 1, n); }

  const LogitScorer& self;
  int64_t n;
  ggml_context_ptr context;
  ggml_context* ctx = nullptr;
  ggml_cgraph* graph = nullptr;
};

LogitScorer::LogitScorer(bool keeps) : keeps_(keeps) {}

LogitScorer::~LogitScorer() = default;

void LogitScorer::begin(std::vector<int32_t> targets, std::shared_ptr<const LogitScorer> reference,
                        bool compares) {
  if (reference != nullptr &&
      (!reference->keeps_ || reference->n_done_ != static_cast<int64_t>(targets.size()))) {
    throw Error(ErrorKind::shape, "the reference keeps " + std::to_string(reference->n_done_) +
                                      " rows of logits, but " + std::to_string(targets.size()) +
                                      " are to be scored against them");
  }
  if (targets.size() != targets_.size()) {
    buffer_.reset();
  }
  targets_ = std::move(targets);
  reference_ = std::move(reference);
  compares_ = compares;
  is_equal_ = true;
  n_done_ = 0;
  const size_t n = targets_.size();
  const size_t n_compared = reference_ == nullptr ? 0 : n;
  scores_ = {std::vector<double>(n), std::vector<double>(n_compared), std::vector<double>(n_compared),
             std::vector<double>(n_compared), std::vector<uint8_t>(n_compared)};
  tops_.resize(n);
  norms_.resize(n);
  target_logits_.resize(n);
}

size_t LogitScorer::size_bytes() const {
  const size_t kept = buffer_ ? ggml_backend_buffer_get_size(buffer_.get()) : 0;
  return kept + (engine_ ? engine_->scratch_bytes() : 0);
}

void LogitScorer::prepare(const ggml_tensor* logits) {
  ggml_backend_dev_t device = device_of(logits);
  if (reference_ != nullptr && reference_->engine_->device() != device) {
    throw Error(ErrorKind::backend, "the two models compute their logits on different devices, " +
                                        std::string(ggml_backend_dev_name(reference_->engine_->device())) +
                                        " and " + ggml_backend_dev_name(device) +
                                        "; place both on the same one");
  }
  if (reference_ != nullptr && reference_->n_vocab_ != logits->ne[0]) {
    throw Error(ErrorKind::shape, "the reference has a vocabulary of " +
                                      std::to_string(reference_->n_vocab_) + ", the model one of " +
                                      std::to_string(logits->ne[0]));
  }
  for (const int32_t target : targets_) {
    if (target < 0 || target >= logits->ne[0]) {
      throw Error(ErrorKind::shape, "target " + std::to_string(target) +
                                        " is not a token of a vocabulary of " +
                                        std::to_string(logits->ne[0]));
    }
  }
  if (engine_ == nullptr || engine_->device() != device) {
    buffer_.reset();
    engine_ = std::make_unique<SideEngine>(device);
  }
  if (buffer_ && n_vocab_ == logits->ne[0]) {
    return;
  }
  buffer_.reset();
  n_vocab_ = logits->ne[0];
  const int64_t row_bytes = n_vocab_ * static_cast<int64_t>(sizeof(float));
  block_rows_ = std::clamp<int64_t>(block_bytes / row_bytes, 1, n_rows());
  context_.reset(ggml_init({8 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  ggml_context* ctx = context_.get();
  if (keeps_) {
    kept_logits_ = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_vocab_, n_rows());
    kept_softmax_ = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, n_vocab_, n_rows());
    kept_norms_ = ggml_new_tensor_1d(ctx, GGML_TYPE_F32, n_rows());
  }
  block_targets_ = ggml_new_tensor_1d(ctx, GGML_TYPE_I32, block_rows_);
  const int64_t stride = (block_rows_ + figure_stride - 1) / figure_stride * figure_stride;
  figures_ = ggml_new_tensor_2d(ctx, GGML_TYPE_F32, stride, n_figures);
  buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx, engine_->memory()));
  if (!buffer_) {
    throw Error(ErrorKind::backend,
                std::string("no memory on ") + ggml_backend_dev_name(device) + " to score " +
                    std::to_string(n_rows()) + " tokens of a vocabulary of " + std::to_string(n_vocab_),
                {{"log", recent_errors()}});
  }
}

void LogitScorer::add(const ggml_tensor* logits) {
  const int64_t n = logits->ne[1];
  if (logits->type != GGML_TYPE_F32 || !ggml_is_contiguous(logits) || ggml_nrows(logits) != n ||
      n_done_ + n > n_rows()) {
    throw Error(ErrorKind::backend,
                "the model's logits are not rows of float32, or more than were asked for");
  }
  prepare(logits);
  for (int64_t first = 0; first < n; first += block_rows_) {
    run(logits, first, std::min(block_rows_, n - first));
  }
}

void LogitScorer::add_rows(const float* rows, int64_t n, int64_t n_vocab, const std::string& device) {
  ensure_backend();
  const AbortGuard guard;
  const std::vector<ggml_backend_dev_t> found = named_devices({device});
  ggml_backend_dev_t where =
      found.empty() ? ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU) : found.front();
  const ggml_context_ptr context(ggml_init({2 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true}));
  ggml_tensor* logits = ggml_new_tensor_2d(context.get(), GGML_TYPE_F32, n_vocab, n);
  const ggml_backend_buffer_ptr buffer(
      ggml_backend_alloc_ctx_tensors_from_buft(context.get(), ggml_backend_dev_buffer_type(where)));
  if (!buffer) {
    throw Error(ErrorKind::backend, "no memory on " + device + " for " + std::to_string(n) +
                                        " rows of logits of a vocabulary of " + std::to_string(n_vocab));
  }
  ggml_backend_tensor_set(logits, rows, 0, ggml_nbytes(logits));
  add(logits);
}

void LogitScorer::run(const ggml_tensor* logits, int64_t first, int64_t n) {
  Block block(*this, n);
  ggml_context* ctx = block.ctx;
  const size_t row_bytes = static_cast<size_t>(n_vocab_) * sizeof(float);
  const auto at = static_cast<size_t>(n_done_);
  ggml_tensor* given =
      window(ctx, GGML_TYPE_F32, n_vocab_, n, logits, static_cast<size_t>(first) * row_bytes);
  ggml_tensor* targets = window(ctx, GGML_TYPE_I32, n, 1, block_targets_, 0);
  ggml_backend_tensor_set(block_targets_, targets_.data() + at, 0, static_cast<size_t>(n) * sizeof(int32_t));

  // Of a row with a NaN this is NaN. It comes before the rows are clamped, which is done in place.
  ggml_tensor* softmax = ggml_soft_max(ctx, given);
  if (keeps_) {
    block.into(softmax, kept_softmax_, at * row_bytes);
  }
  ggml_build_forward_expand(block.graph, softmax);
  ggml_tensor* rows = given;
  if (keeps_) {
    rows = ggml_cpy(ctx, given, window(ctx, GGML_TYPE_F32, n_vocab_, n, kept_logits_, at * row_bytes));
  }
  // A device's argmax may find no largest entry among NaNs, and the index is used.
  rows = ggml_clamp_inplace(ctx, rows, -most, most);
  ggml_build_forward_expand(block.graph, rows);
  ggml_tensor* top = block.figure(ggml_argmax(ctx, rows), figure_top);
  block.figure(block.pick(rows, targets), figure_target);
  ggml_tensor* norm = ggml_sub(ctx, block.pick(rows, top), ggml_log(ctx, block.pick(softmax, top)));
  block.figure(norm, figure_norm);
  if (keeps_) {
    ggml_build_forward_expand(
        block.graph, ggml_cpy(ctx, norm, window(ctx, GGML_TYPE_F32, n, 1, kept_norms_, at * sizeof(float))));
  }
  if (reference_ != nullptr) {
    const LogitScorer& ref = *reference_;
    ggml_tensor* ref_rows = window(ctx, GGML_TYPE_F32, n_vocab_, n, ref.kept_logits_, at * row_bytes);
    ggml_tensor* p_ref = window(ctx, GGML_TYPE_F32, n_vocab_, n, ref.kept_softmax_, at * row_bytes);
    ggml_tensor* ref_norm = window(ctx, GGML_TYPE_F32, 1, n, ref.kept_norms_, at * sizeof(float));
    ggml_tensor* gap = ggml_sub(ctx, rows, ref_rows);
    if (compares_) {
      block.figure(ggml_sum_rows(ctx, ggml_abs(ctx, gap)), figure_gap);
    }
    ggml_tensor* shift = block.figure(ggml_sub(ctx, ref_norm, block.one_a_row(norm)), figure_shift);
    ggml_tensor* z = ggml_add(ctx, gap, shift);
    block.figure(ggml_sum_rows(ctx, ggml_mul(ctx, p_ref, z)), figure_mean);
    block.figure(ggml_sum_rows(ctx, ggml_mul(ctx, p_ref, ggml_expm1(ctx, z))), figure_excess);
  }
  engine_->compute(block.graph,
                   "score " + std::to_string(n) + " tokens of a vocabulary of " + std::to_string(n_vocab_));
  std::vector<float> figures(static_cast<size_t>(ggml_nelements(figures_)));
  ggml_backend_tensor_get(figures_, figures.data(), 0, figures.size() * sizeof(float));
  keep_scores(n_done_, n, figures.data());
  n_done_ += n;
}

void LogitScorer::keep_scores(int64_t first, int64_t n, const float* figures) {
  const int64_t stride = figures_->ne[0];
  for (int64_t i = 0; i < n; ++i) {
    const auto r = static_cast<size_t>(first + i);
    auto figure = [&](Figure which) { return figures[which * stride + i]; };
    std::memcpy(&tops_[r], figures + figure_top * stride + i, sizeof(int32_t));
    norms_[r] = figure(figure_norm);
    target_logits_[r] = figure(figure_target);
    const double norm = norms_[r];
    const double target = target_logits_[r];
    scores_.nll[r] = norm - target;
    if (reference_ == nullptr) {
      continue;
    }
    const double nll_ref = static_cast<double>(reference_->norms_[r]) - reference_->target_logits_[r];
    scores_.nll_ref[r] = nll_ref;
    scores_.same_top[r] = tops_[r] == reference_->tops_[r] ? 1 : 0;
    if (compares_ && figure(figure_gap) != 0.0F) {
      is_equal_ = false;
    }
    if (!std::isfinite(norm) || !std::isfinite(nll_ref)) {
      scores_.kld[r] = scores_.p_diff[r] = nan_value;
      is_equal_ = false;
      continue;
    }
    const double excess = figure(figure_excess);
    double correction = std::isfinite(excess) && excess > -1.0 ? std::log1p(excess) : 0.0;
    if (std::abs(correction) > largest_correction) {
      correction = 0.0;
    }
    const double kld = correction - figure(figure_mean);
    scores_.kld[r] = kld > most / 2 ? std::numeric_limits<double>::infinity() : kld;
    const double growth = correction - static_cast<double>(figure(figure_shift));
    scores_.nll[r] = nll_ref + growth - (target - static_cast<double>(reference_->target_logits_[r]));
    scores_.p_diff[r] = std::exp(-scores_.nll[r]) - std::exp(-nll_ref);
  }
}

LogitTap::LogitTap(LogitScorer& scorer) : scorer_(scorer) { active_tap = this; }

LogitTap::~LogitTap() { active_tap = nullptr; }

void LogitTap::check() const {
  if (error_) {
    std::rethrow_exception(error_);
  }
  if (scorer_.n_done() != scorer_.n_rows()) {
    throw Error(ErrorKind::backend, "the model gave logits of " + std::to_string(scorer_.n_done()) +
                                        " positions where " + std::to_string(scorer_.n_rows()) +
                                        " were asked for");
  }
}

void LogitTap::on_graph(llm_graph_result& result) {
  if (active_tap != nullptr) {
    active_tap->logits_ = result.t_logits;
    result.t_logits = nullptr;  // what llama_decode copies to the host
  }
}

bool LogitTap::wants(const ggml_tensor* node) { return active_tap != nullptr && active_tap->logits_ == node; }

bool LogitTap::take(const ggml_tensor* node) {
  try {
    active_tap->scorer_.add(node);
  } catch (...) {  // not through upstream's frames
    active_tap->error_ = std::current_exception();
    return false;
  }
  return true;
}

}  // namespace mqn
