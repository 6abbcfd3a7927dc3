#include "activations.hpp"

#include <cmath>

#include "error.hpp"
#include "ggml-backend.h"

namespace mqn {
namespace {

// Upstream ignores smaller batches.
constexpr int64_t min_tokens = 16;

Activations& entry_for(std::map<std::string, Activations>& sums, const std::string& name, int64_t n_slices,
                       int64_t n_per_row) {
  Activations& entry = sums[name];
  if (entry.n_slices == 0) {
    const auto n = static_cast<size_t>(n_slices * n_per_row);
    entry = {n_slices, n_per_row, std::vector<float>(n), std::vector<double>(n),
             std::vector<int64_t>(static_cast<size_t>(n_slices))};
  }
  if (entry.n_slices != n_slices || entry.n_per_row != n_per_row) {
    throw Error(ErrorKind::imatrix, name + " is used with activations of two shapes");
  }
  return entry;
}

void check_finite(const std::string& name, const Activations& entry) {
  for (const float sum : entry.sum_squares) {
    if (!std::isfinite(sum)) {
      throw Error(ErrorKind::non_finite, "the activations entering " + name + " are NaN or infinite",
                  {{"tensor", name}});
    }
  }
}

}  // namespace

bool ActivationCollector::wants(const ggml_tensor* node) const {
  if (node->op == GGML_OP_MUL_MAT_ID) {
    return true;
  }
  if (node->op != GGML_OP_MUL_MAT || node->src[1]->ne[1] < min_tokens ||
      node->src[1]->type != GGML_TYPE_F32) {
    return false;
  }
  const std::string name = weight_name(node);
  const bool is_head = name == "output.weight" || name == "token_embd.weight";
  return name.compare(0, 4, "blk.") == 0 || (process_output_ && is_head);
}

void ActivationCollector::add_row(Activations& entry, int64_t slice, const float* x) {
  float* squares = entry.sum_squares.data() + slice * entry.n_per_row;
  double* sums = entry.sums.data() + slice * entry.n_per_row;
  for (int64_t j = 0; j < entry.n_per_row; ++j) {
    squares[j] += x[j] * x[j];
    sums[j] += x[j];
  }
}

void ActivationCollector::add_sums(Activations& entry, const ggml_tensor* input) {
  column_sums_.take(input);
  for (size_t j = 0; j < entry.sums.size(); ++j) {
    entry.sum_squares[j] += column_sums_.squares()[j];
    entry.sums[j] += static_cast<double>(column_sums_.sums()[j]);
  }
  entry.counts.front() += input->ne[1];
}

void ActivationCollector::collect(const ggml_tensor* node) {
  const ggml_tensor* weight = node->src[0];
  const ggml_tensor* input = node->src[1];
  const std::string name = weight_name(node);
  const bool is_single = node->op == GGML_OP_MUL_MAT && ggml_is_matrix(weight) && ggml_is_matrix(input);
  const bool is_away = sums_on_device_ || !ggml_backend_buffer_is_host(input->buffer);
  if (is_single && is_away && ggml_is_contiguous(input)) {
    Activations& single = entry_for(sums_, name, 1, input->ne[0]);
    add_sums(single, input);
    check_finite(name, single);
    return;
  }
  const char* data = host_bytes(input);
  const int64_t n = input->ne[0];
  auto row = [&](int64_t i1, int64_t i2, int64_t i3) {
    return reinterpret_cast<const float*>(data + i1 * input->nb[1] + i2 * input->nb[2] + i3 * input->nb[3]);
  };
  Activations* entry = nullptr;
  if (node->op == GGML_OP_MUL_MAT_ID) {
    // ids: [experts used, tokens]; input: [n, experts used or 1, tokens]
    const ggml_tensor* ids = node->src[2];
    read_ids(ids);
    entry = &entry_for(sums_, name, weight->ne[2], n);
    for (int64_t used = 0; used < ids->ne[0]; ++used) {
      for (int64_t token = 0; token < input->ne[2]; ++token) {
        const int32_t number = expert(ids, used, token);
        if (number < 0 || number >= entry->n_slices) {
          throw Error(ErrorKind::imatrix, name + " was asked for expert " + std::to_string(number));
        }
        add_row(*entry, number, row(used % input->ne[1], token, 0));
        ++entry->counts[static_cast<size_t>(number)];
      }
    }
  } else {
    // A 3-D weight keeps one slice per matrix; a 2-D one is shared by all matrices of the input.
    const int64_t n_slices = weight->ne[2] * weight->ne[3];
    entry = &entry_for(sums_, name, n_slices, n);
    for (int64_t i3 = 0; i3 < input->ne[3]; ++i3) {
      for (int64_t i2 = 0; i2 < input->ne[2]; ++i2) {
        const int64_t slice = (i3 % weight->ne[3]) * weight->ne[2] + i2 % weight->ne[2];
        for (int64_t i1 = 0; i1 < input->ne[1]; ++i1) {
          add_row(*entry, slice, row(i1, i2, i3));
        }
      }
    }
    for (int64_t& count : entry->counts) {
      count += ggml_nrows(input) / n_slices;
    }
  }
  check_finite(name, *entry);
}

}  // namespace mqn
