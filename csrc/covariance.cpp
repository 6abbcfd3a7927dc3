#include "covariance.hpp"

#include <algorithm>
#include <cmath>

#include "error.hpp"
#include "parallel.hpp"

namespace mqn {
namespace {

// Rows of a matrix of moments that one task adds to.
constexpr int64_t rows_per_task = 8;

}  // namespace

bool CovarianceCollector::wants(const ggml_tensor* node) const {
  if (node->op != GGML_OP_MUL_MAT && node->op != GGML_OP_MUL_MAT_ID) {
    return false;
  }
  // Of a weight that is one matrix for each head, no input is the tensor's.
  const bool is_matrix = node->op == GGML_OP_MUL_MAT_ID || ggml_is_matrix(node->src[0]);
  return is_matrix && node->src[1]->type == GGML_TYPE_F32 && names_.count(weight_name(node)) > 0;
}

void CovarianceCollector::collect(const ggml_tensor* node) {
  const ggml_tensor* input = node->src[1];
  const std::string name = weight_name(node);
  const auto known = owners_.find(name);
  if (known == owners_.end() && input == last_input_) {
    owners_[name] = last_name_;
    return;
  }
  if (known != owners_.end() && known->second != name) {
    return;
  }
  // Experts that see the same tokens share one matrix; what enters the last of their products is their own.
  const int64_t n = input->ne[0];
  const bool own = node->op == GGML_OP_MUL_MAT_ID && input->ne[1] > 1;
  const ColumnGroups groups = {n, std::min(columns_, n)};
  const int64_t n_slices = own ? node->src[0]->ne[2] : 1;
  if (own && n_slices * groups.total() * static_cast<int64_t>(sizeof(float)) > max_own_bytes_) {
    owners_[name] = {};
    return;
  }
  owners_[name] = name;
  last_input_ = input;
  last_name_ = name;
  const char* data = host_bytes(input);
  Moments& moments = moments_[name];
  if (moments.n_slices == 0) {
    moments.groups = groups;
    moments.n_slices = n_slices;
    moments.sums.resize(static_cast<size_t>(moments.n_slices * moments.groups.total()));
    moments.counts.resize(static_cast<size_t>(moments.n_slices));
  }
  auto append = [&](int64_t i1, int64_t i2, int64_t i3) {
    const auto* x =
        reinterpret_cast<const float*>(data + i1 * input->nb[1] + i2 * input->nb[2] + i3 * input->nb[3]);
    rows_.insert(rows_.end(), x, x + n);
  };
  if (!own) {
    rows_.clear();
    for (int64_t i3 = 0; i3 < input->ne[3]; ++i3) {
      for (int64_t i2 = 0; i2 < input->ne[2]; ++i2) {
        for (int64_t i1 = 0; i1 < input->ne[1]; ++i1) {
          append(i1, i2, i3);
        }
      }
    }
    add(moments, 0);
    return;
  }
  // ids: [experts used, tokens]; input: [n, experts used, tokens]
  const ggml_tensor* ids = node->src[2];
  read_ids(ids);
  for (int64_t slice = 0; slice < moments.n_slices; ++slice) {
    rows_.clear();
    for (int64_t token = 0; token < input->ne[2]; ++token) {
      for (int64_t used = 0; used < ids->ne[0]; ++used) {
        if (expert(ids, used, token) == slice) {
          append(used % input->ne[1], token, 0);
        }
      }
    }
    add(moments, slice);
  }
}

void CovarianceCollector::add(Moments& moments, int64_t slice) {
  const int64_t n = moments.groups.n_per_row;
  const auto n_rows = static_cast<int64_t>(rows_.size()) / n;
  for (const float x : rows_) {
    if (!std::isfinite(x)) {
      throw Error(ErrorKind::non_finite, "the activations entering " + last_name_ + " are NaN or infinite",
                  {{"tensor", last_name_}});
    }
  }
  moments.counts[static_cast<size_t>(slice)] += n_rows;
  const int64_t columns = moments.groups.columns;
  const int64_t tasks_per_group = (columns + rows_per_task - 1) / rows_per_task;
  const Monitor unwatched;
  parallel_for(moments.groups.count() * tasks_per_group, n_threads_, unwatched, [&](int64_t task) {
    const int64_t group = task / tasks_per_group;
    const int64_t width = moments.groups.size(group);
    const int64_t first = task % tasks_per_group * rows_per_task;
    const int64_t last = std::min(first + rows_per_task, width);
    float* sums = moments.sums.data() + slice * moments.groups.total() + moments.groups.offset(group);
    // Four tokens at a time: a quarter of the reading and writing of the sums, which stay in the cache.
    int64_t row = 0;
    const float* x = rows_.data() + group * columns;
    for (; row + 4 <= n_rows; row += 4, x += 4 * n) {
      for (int64_t i = first; i < last; ++i) {
        const float a = x[i];
        const float b = x[n + i];
        const float c = x[2 * n + i];
        const float d = x[3 * n + i];
        float* to = sums + i * width;
        for (int64_t j = i; j < width; ++j) {
          to[j] += (a * x[j] + b * x[n + j]) + (c * x[2 * n + j] + d * x[3 * n + j]);
        }
      }
    }
    for (; row < n_rows; ++row, x += n) {
      for (int64_t i = first; i < last; ++i) {
        for (int64_t j = i; j < width; ++j) {
          sums[i * width + j] += x[i] * x[j];
        }
      }
    }
  });
}

}  // namespace mqn
