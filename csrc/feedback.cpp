#include "feedback.hpp"

#include <algorithm>
#include <cmath>
#include <string>

#include "backend.hpp"
#include "index_bits.hpp"
#include "parallel.hpp"
#include "types.hpp"

namespace mqn {
namespace {

// Rows that go through a group together, so that its factors are read once for all of them.
constexpr int64_t rows_per_task = 16;
// Columns that are rounded before what they lost is handed on to all columns behind them.
constexpr int64_t panel = 32;

// The flipped matrix' L D L' in float64, column by column: H = U D U' from the last row up.
void factor(float* h, int64_t n, double damping) {
  double trace = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    trace += static_cast<double>(h[i * n + i]);
  }
  const double added = damping * trace / static_cast<double>(n);
  std::vector<double> a(static_cast<size_t>(n * n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      a[i * n + j] = static_cast<double>(h[i * n + j]) + (i == j ? added : 0.0);
    }
  }
  std::fill(h, h + n * n, 0.0F);
  std::vector<double> column(static_cast<size_t>(n));
  for (int64_t k = n - 1; k >= 0; --k) {
    const double pivot = a[k * n + k];
    h[k * n + k] = 1.0F;
    if (pivot <= 0.0) {
      continue;
    }
    for (int64_t i = 0; i < k; ++i) {
      column[i] = a[i * n + k];
    }
    for (int64_t i = 0; i < k; ++i) {
      const double u = column[i] / pivot;
      h[i * n + k] = static_cast<float>(u);
      double* row = a.data() + i * n;
      for (int64_t j = i; j < k; ++j) {
        row[j] -= u * column[j];
      }
    }
  }
}

// The values that each weight of a row can take under the scales of its blocks.
class Grid {
 public:
  Grid(const IndexLayout& layout, ggml_type type, int64_t n) : layout_(layout), type_(type), n_(n) {
    levels_.resize(static_cast<size_t>(layout.is_affine ? 2 : layout.n_levels) * n);
  }

  // blocks: one row, whose integers are overwritten.
  void read(uint8_t* blocks) {
    if (layout_.is_affine) {
      const int last = layout_.n_levels - 1;
      fill(blocks, 0, levels_.data());
      fill(blocks, last, levels_.data() + n_);
      for (int64_t j = 0; j < n_; ++j) {
        levels_[n_ + j] = (levels_[n_ + j] - levels_[j]) / static_cast<float>(last);
      }
      return;
    }
    for (int k = 0; k < layout_.n_levels; ++k) {
      fill(blocks, k, levels_.data() + k * n_);
    }
  }

  // The integer whose value is nearest to x, and that value.
  int nearest(int64_t j, float x, float& value) const {
    if (layout_.is_affine) {
      const float first = levels_[j];
      const float step = levels_[n_ + j];
      const auto last = static_cast<float>(layout_.n_levels - 1);
      // A block whose scale is 0 has one value.
      const float at = step == 0.0F ? 0.0F : std::min(std::max((x - first) / step, 0.0F), last);
      const float k = std::nearbyint(at);
      value = first + k * step;
      return static_cast<int>(k);
    }
    int best = 0;
    float least = INFINITY;
    for (int k = 0; k < layout_.n_levels; ++k) {
      const float v = levels_[k * n_ + j];
      const float distance = std::abs(v - x);
      if (distance < least) {
        least = distance;
        best = k;
        value = v;
      }
    }
    return best;
  }

 private:
  // The row decoded with one integer everywhere.
  void fill(uint8_t* blocks, int index, float* out) const {
    const int64_t block = ggml_blck_size(type_);
    const auto block_bytes = static_cast<int64_t>(ggml_type_size(type_));
    for (int64_t b = 0; b < n_ / block; ++b) {
      for (int64_t i = 0; i < block; ++i) {
        layout_.set(blocks + b * block_bytes, i, index);
      }
    }
    ggml_get_type_traits(type_)->to_float(blocks, out, n_);
  }

  const IndexLayout& layout_;
  ggml_type type_;
  int64_t n_;
  std::vector<float> levels_;  // by level, then by column; affine: the first, and the step
};

// What one group's columns of a few rows are to be rounded at, and what they lost.
struct Target {
  float* values;       // the row's, moved by the feedback so far
  const float* exact;  // the row's
  float* lost;
};

// values[from..n) += sum over the panel's columns k of lost[k] * U[k][..], four columns at a time.
void hand_on(const Target& row, const float* u, int64_t n, int64_t first, int64_t last, int64_t from) {
  float* t = row.values;
  int64_t k = first;
  for (; k + 4 <= last; k += 4) {
    const float e0 = row.lost[k];
    const float e1 = row.lost[k + 1];
    const float e2 = row.lost[k + 2];
    const float e3 = row.lost[k + 3];
    const float* u0 = u + k * n;
    const float* u1 = u0 + n;
    const float* u2 = u1 + n;
    const float* u3 = u2 + n;
    for (int64_t j = from; j < n; ++j) {
      t[j] += (e0 * u0[j] + e1 * u1[j]) + (e2 * u2[j] + e3 * u3[j]);
    }
  }
  for (; k < last; ++k) {
    for (int64_t j = from; j < n; ++j) {
      t[j] += row.lost[k] * u[k * n + j];
    }
  }
}

}  // namespace

int64_t ColumnGroups::size(int64_t group) const { return std::min(columns, n_per_row - group * columns); }

int64_t ColumnGroups::total() const {
  const int64_t last = count() - 1;
  return offset(last) + size(last) * size(last);
}

void feedback_factors(float* moments, int64_t n_slices, const ColumnGroups& groups, double damping,
                      int n_threads, Monitor& monitor) {
  const int64_t n_groups = groups.count();
  monitor.set_total(static_cast<uint64_t>(n_slices * n_groups));
  parallel_for(n_slices * n_groups, n_threads, monitor, [&](int64_t task) {
    const int64_t group = task % n_groups;
    factor(moments + task / n_groups * groups.total() + groups.offset(group), groups.size(group), damping);
    monitor.add(1);
  });
}

void round_with_feedback(const Matrices& src, ggml_type type, void* blocks, const float* factors,
                         int64_t n_factor_slices, const ColumnGroups& groups, int n_threads,
                         Monitor& monitor) {
  ensure_backend();
  const IndexLayout& layout = index_layout(type);
  if (layout.empty()) {
    throw Error(ErrorKind::unsupported_type,
                type_name(type) + " rounds several weights together and takes no feedback",
                {{"qtype", type_name(type)}, {"reason", std::string("codebook")}});
  }
  const int64_t n = src.n_per_row;
  const size_t stride = row_bytes(type, n);
  const int64_t block = ggml_blck_size(type);
  const auto block_bytes = static_cast<int64_t>(ggml_type_size(type));
  const int64_t tasks_per_slice = (src.n_rows + rows_per_task - 1) / rows_per_task;
  monitor.set_total(static_cast<uint64_t>(src.total_rows() * n));
  parallel_for(src.n_slices * tasks_per_slice, n_threads, monitor, [&](int64_t task) {
    const int64_t slice = task / tasks_per_slice;
    const int64_t first = slice * src.n_rows + task % tasks_per_slice * rows_per_task;
    const int64_t n_rows = std::min(rows_per_task, (slice + 1) * src.n_rows - first);
    const float* of_slice = factors + (n_factor_slices == 1 ? 0 : slice * groups.total());
    auto* out = static_cast<uint8_t*>(blocks) + first * stride;
    const auto size = static_cast<size_t>(n_rows * n);
    std::vector<float> exact(size);
    std::vector<float> lost(size);
    std::vector<Grid> grids(static_cast<size_t>(n_rows), Grid(layout, type, n));
    for (int64_t r = 0; r < n_rows; ++r) {
      read_row(src, first + r, exact.data() + r * n);
      grids[r].read(out + r * stride);
    }
    std::vector<float> values = exact;
    for (int64_t group = 0; group < groups.count(); ++group) {
      const int64_t start = group * groups.columns;
      const int64_t width = groups.size(group);
      const float* u = of_slice + groups.offset(group);
      for (int64_t from = 0; from < width; from += panel) {
        const int64_t until = std::min(from + panel, width);
        for (int64_t r = 0; r < n_rows; ++r) {
          const int64_t at = r * n + start;
          const Target row = {values.data() + at, exact.data() + at, lost.data() + at};
          for (int64_t j = from; j < until; ++j) {
            float value = 0.0F;
            const int index = grids[r].nearest(start + j, row.values[j], value);
            layout.set(out + r * stride + (start + j) / block * block_bytes, (start + j) % block, index);
            row.lost[j] = row.exact[j] - value;
            for (int64_t k = j + 1; k < until; ++k) {
              row.values[k] += row.lost[j] * u[j * width + k];
            }
          }
          hand_on(row, u, width, from, until, until);
        }
      }
    }
    monitor.add(static_cast<uint64_t>(n_rows * n));
  });
}

std::vector<int> feedback_types() {
  std::vector<int> types;
  for (int id = 0; id < GGML_TYPE_COUNT; ++id) {
    if (!index_layout(static_cast<ggml_type>(id)).empty()) {
      types.push_back(id);
    }
  }
  return types;
}

}  // namespace mqn
