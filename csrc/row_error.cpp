#include "row_error.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <string>

#include "backend.hpp"
#include "parallel.hpp"
#include "types.hpp"

namespace mqn {
namespace {

// A task is a few rows at one type: enough weights to drown the hand-out, few enough to share out evenly.
constexpr int64_t task_weights = 8 * 1024;
constexpr int64_t tasks_per_thread = 4;

// Four partial sums in a fixed order: vectorises under strict IEEE and does not depend on anything but n.
constexpr int64_t lanes = 4;

struct Sums {
  double lane[lanes] = {0, 0, 0, 0};
  void add(int64_t i, double x) { lane[i] += x; }
  double total() const { return (lane[0] + lane[1]) + (lane[2] + lane[3]); }
};

RowError compare(const float* w, const float* q, const float* v, int64_t n) {
  Sums d2;
  Sums vd2;
  Sums wq;
  Sums q2;
  Sums vwq;
  Sums vq2;
  float max_abs[lanes] = {0, 0, 0, 0};
  // Every ggml block is a multiple of four weights, or one; the tail serves the latter.
  const int64_t whole = n / lanes * lanes;
  auto step = [&](int64_t i, int64_t lane) {
    const double wi = w[i];
    const double qi = q[i];
    const double vi = v == nullptr ? 1.0 : static_cast<double>(v[i]);
    const double di = qi - wi;
    d2.add(lane, di * di);
    vd2.add(lane, vi * di * di);
    wq.add(lane, wi * qi);
    q2.add(lane, qi * qi);
    vwq.add(lane, vi * wi * qi);
    vq2.add(lane, vi * qi * qi);
    max_abs[lane] = std::max(max_abs[lane], std::abs(q[i] - w[i]));
  };
  for (int64_t i = 0; i < whole; i += lanes) {
    for (int64_t lane = 0; lane < lanes; ++lane) {
      step(i + lane, lane);
    }
  }
  for (int64_t i = whole; i < n; ++i) {
    step(i, i - whole);
  }
  const float largest = std::max(std::max(max_abs[0], max_abs[1]), std::max(max_abs[2], max_abs[3]));
  return {d2.total(), vd2.total(), largest, wq.total(), q2.total(), vwq.total(), vq2.total()};
}

// The largest square and the importances of a block that is being read.
struct Peak {
  double largest = 0.0;
  double importance = 0.0;

  void add(const Peak& part) {
    largest = std::max(largest, part.largest);
    importance += part.importance;
  }

  // What the block adds to the row's sum; the next block starts from nothing.
  double close() {
    const double product = largest * importance;
    *this = {};
    return product;
  }
};

RowNorm norm(const float* w, const float* v, int64_t n) {
  RowNorm sums = {};
  Peak of32;
  Peak of256;
  for (int64_t first = 0; first < n; first += 16) {
    const int64_t last = std::min(first + 16, n);
    Peak of16;
    for (int64_t i = first; i < last; ++i) {
      const double x2 = static_cast<double>(w[i]) * w[i];
      const double vi = v == nullptr ? 1.0 : static_cast<double>(v[i]);
      sums.w2 += x2;
      sums.vw2 += vi * x2;
      of16.add({x2, vi});
    }
    of32.add(of16);
    of256.add(of16);
    sums.peak16 += of16.close();
    if (last % 32 == 0 || last == n) {
      sums.peak32 += of32.close();
    }
    if (last % 256 == 0 || last == n) {
      sums.peak256 += of256.close();
    }
  }
  return sums;
}

// Counts of one task; only the bins in use are looked at again, since most are empty.
class BinCounts {
 public:
  void add(const float* w, const float* q, int64_t n) {
    counts_.resize(n_error_bins);
    for (int64_t i = 0; i < n; ++i) {
      const float d = std::abs(q[i] - w[i]);
      uint32_t bits = 0;
      std::memcpy(&bits, &d, sizeof(bits));
      const int64_t bin = std::min<int64_t>(bits >> error_bin_shift, n_error_bins - 1);
      first_ = std::min(first_, bin);
      last_ = std::max(last_, bin);
      ++counts_[static_cast<size_t>(bin)];
    }
  }

  void add_to(uint64_t* total) const {
    for (int64_t bin = first_; bin <= last_; ++bin) {
      total[bin] += counts_[static_cast<size_t>(bin)];
    }
  }

  void clear() {
    for (int64_t bin = first_; bin <= last_; ++bin) {
      counts_[static_cast<size_t>(bin)] = 0;
    }
    first_ = n_error_bins;
    last_ = -1;
  }

 private:
  std::vector<uint64_t> counts_;
  int64_t first_ = n_error_bins;
  int64_t last_ = -1;
};

}  // namespace

void row_errors(const Matrices& src, const int64_t* rows, int64_t n_rows, const std::vector<ggml_type>& types,
                const float* imatrix, RowError* errors, RowNorm* norms, uint64_t* histogram, int n_threads,
                Monitor& monitor) {
  ensure_backend();
  for (const ggml_type type : types) {
    check_target(src, type, imatrix);
  }
  prepare_encoders({types.begin(), types.end()}, n_threads);
  for (int64_t i = 0; i < n_rows; ++i) {
    if (rows[i] < 0 || rows[i] >= src.total_rows()) {
      throw Error(ErrorKind::shape,
                  "row " + std::to_string(rows[i]) + " is outside the tensor's " +
                      std::to_string(src.total_rows()) + " rows",
                  {{"expected", "0 <= row < " + std::to_string(src.total_rows())}, {"got", rows[i]}});
    }
  }
  const int64_t n = src.n_per_row;
  const auto n_types = static_cast<int64_t>(types.size());
  // Of little work every thread still gets a share, since types differ in speed by a factor of a hundred.
  const int64_t even_share = n_types * n_rows / (tasks_per_thread * std::max(1, n_threads));
  const int64_t rows_per_task = std::max<int64_t>(1, std::min(task_weights / n, even_share));
  const int64_t tasks_per_type = (n_rows + rows_per_task - 1) / rows_per_task;
  std::mutex histogram_mutex;
  monitor.set_total(static_cast<uint64_t>(n_types * n_rows * n));
  if (types.empty()) {
    parallel_for(tasks_per_type, n_threads, monitor, [&](int64_t task) {
      thread_local std::vector<float> w;
      w.resize(static_cast<size_t>(n));
      for (int64_t i = task * rows_per_task; i < std::min((task + 1) * rows_per_task, n_rows); ++i) {
        read_row(src, rows[i], w.data());
        norms[i] = norm(w.data(), imatrix == nullptr ? nullptr : imatrix + rows[i] / src.n_rows * n, n);
      }
    });
    return;
  }

  parallel_for(n_types * tasks_per_type, n_threads, monitor, [&](int64_t task) {
    thread_local std::vector<float> w;
    thread_local std::vector<float> q;
    thread_local std::vector<uint8_t> blocks;
    const int64_t t = task / tasks_per_type;
    const int64_t first = task % tasks_per_type * rows_per_task;
    const int64_t last = std::min(first + rows_per_task, n_rows);
    const ggml_type type = types[t];
    const ggml_to_float_t to_float = ggml_get_type_traits(type)->to_float;
    w.resize(static_cast<size_t>(n));
    q.resize(static_cast<size_t>(n));
    blocks.resize(row_bytes(type, n));
    thread_local BinCounts bins;
    bins.clear();  // a task that failed may have left some
    for (int64_t i = first; i < last; ++i) {
      const float* v = imatrix == nullptr ? nullptr : imatrix + rows[i] / src.n_rows * n;
      read_row(src, rows[i], w.data());
      const size_t size = ggml_quantize_chunk(type, w.data(), blocks.data(), 0, 1, n, v);
      if (!ggml_validate_row_data(type, blocks.data(), size)) {
        throw Error(ErrorKind::quantize,
                    "the " + type_name(type) + " blocks of row " + std::to_string(rows[i]) +
                        " do not validate; try another type for this tensor",
                    {{"qtype", type_name(type)}});
      }
      if (to_float == nullptr) {
        std::memcpy(q.data(), blocks.data(), blocks.size());  // F32 is its own decoder
      } else {
        to_float(blocks.data(), q.data(), n);
      }
      errors[t * n_rows + i] = compare(w.data(), q.data(), v, n);
      if (t == 0) {
        norms[i] = norm(w.data(), v, n);
      }
      if (histogram != nullptr) {
        bins.add(w.data(), q.data(), n);
      }
    }
    if (histogram != nullptr) {
      const std::lock_guard<std::mutex> lock(histogram_mutex);
      bins.add_to(histogram + t * n_error_bins);
    }
    monitor.add(static_cast<uint64_t>((last - first) * n));
  });
}

}  // namespace mqn
