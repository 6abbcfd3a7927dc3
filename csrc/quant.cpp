#include "quant.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "backend.hpp"
#include "parallel.hpp"
#include "types.hpp"

namespace mqn {
namespace {

// Upstream's smallest unit of work (llama-quant.cpp, min_chunk_size); bytes do not depend on it.
constexpr int64_t min_chunk_weights = 32 * 512;

bool all_finite(const float* x, int64_t n) {
  // On the bits, without an early exit: this vectorises, and costs nothing beside any encoder.
  constexpr uint32_t exponent = 0x7f800000U;
  uint32_t bad = 0;
  for (int64_t i = 0; i < n; ++i) {
    uint32_t bits = 0;
    std::memcpy(&bits, x + i, sizeof(bits));
    bad |= static_cast<uint32_t>((bits & exponent) == exponent);
  }
  return bad == 0;
}

void decode_rows(const Matrices& src, int64_t first, int64_t n, float* out) {
  const size_t stride = row_bytes(src.type, src.n_per_row);
  const auto* bytes = static_cast<const uint8_t*>(src.data) + first * stride;
  if (src.type == GGML_TYPE_F32) {
    std::memcpy(out, bytes, n * stride);
  } else {
    // Row by row: a decoder may assume that its input is one row.
    const ggml_to_float_t to_float = ggml_get_type_traits(src.type)->to_float;
    for (int64_t r = 0; r < n; ++r) {
      to_float(bytes + r * stride, out + r * src.n_per_row, src.n_per_row);
    }
  }
}

void require_finite(const Matrices& src, int64_t first, int64_t n, const float* values) {
  if (all_finite(values, n * src.n_per_row)) {
    return;
  }
  for (int64_t r = 0; r < n; ++r) {
    if (!all_finite(values + r * src.n_per_row, src.n_per_row)) {
      const int64_t slice = (first + r) / src.n_rows;
      const int64_t row = (first + r) % src.n_rows;
      throw Error(ErrorKind::non_finite,
                  "row " + std::to_string(row) +
                      (src.n_slices > 1 ? " of slice " + std::to_string(slice) : "") +
                      " holds a NaN or an infinity; the source weights are damaged",
                  {{"row", row}, {"slice", slice}});
    }
  }
}

void check_source(const Matrices& src) {
  row_bytes(src.type, src.n_per_row);
  if (src.type != GGML_TYPE_F32 && ggml_get_type_traits(src.type)->to_float == nullptr) {
    throw Error(ErrorKind::unsupported_type, "ggml cannot read rows of " + type_name(src.type) + " as floats",
                {{"qtype", type_name(src.type)}, {"reason", std::string("no decoder")}});
  }
}

}  // namespace

size_t row_bytes(ggml_type type, int64_t n_per_row) {
  const int64_t block = ggml_blck_size(type);
  if (block <= 0 || n_per_row % block != 0) {
    throw Error(ErrorKind::unsupported_type,
                "rows of " + std::to_string(n_per_row) + " weights do not fill blocks of " +
                    std::to_string(block) + ", which " + type_name(type) + " needs",
                {{"qtype", type_name(type)}, {"reason", std::string("row size")}});
  }
  return ggml_row_size(type, n_per_row);
}

void read_row(const Matrices& src, int64_t row, float* out) {
  decode_rows(src, row, 1, out);
  require_finite(src, row, 1, out);
}

void check_target(const Matrices& src, ggml_type dst_type, const float* imatrix) {
  check_source(src);
  if (!has_encoder(dst_type)) {
    throw Error(ErrorKind::unsupported_type, "ggml has no encoder for " + type_name(dst_type),
                {{"qtype", type_name(dst_type)}, {"reason", std::string("no encoder")}});
  }
  row_bytes(dst_type, src.n_per_row);
  if (imatrix == nullptr) {
    if (ggml_quantize_requires_imatrix(dst_type)) {
      throw Error(
          ErrorKind::imatrix,
          type_name(dst_type) + " needs importances, and there are none; pass an imatrix or another type");
    }
    return;
  }
  for (int64_t i = 0; i < src.n_slices * src.n_per_row; ++i) {
    if (!std::isfinite(imatrix[i]) || imatrix[i] < 0.0F) {
      throw Error(ErrorKind::imatrix, "importance " + std::to_string(i) +
                                          " is NaN, infinite or negative; collect the imatrix again");
    }
  }
}

void quantize(const Matrices& src, ggml_type dst_type, void* dst, const float* imatrix, int n_threads,
              Monitor& monitor) {
  ensure_backend();
  check_target(src, dst_type, imatrix);
  prepare_encoders({dst_type}, n_threads);
  const size_t dst_stride = row_bytes(dst_type, src.n_per_row);
  const int64_t rows_per_chunk =
      std::max<int64_t>(1, (min_chunk_weights + src.n_per_row - 1) / src.n_per_row);
  const int64_t chunks_per_slice = (src.n_rows + rows_per_chunk - 1) / rows_per_chunk;
  monitor.set_total(static_cast<uint64_t>(src.total_rows() * src.n_per_row));

  parallel_for(src.n_slices * chunks_per_slice, n_threads, monitor, [&](int64_t task) {
    thread_local std::vector<float> values;
    const int64_t slice = task / chunks_per_slice;
    const int64_t row_in_slice = task % chunks_per_slice * rows_per_chunk;
    const int64_t n = std::min(rows_per_chunk, src.n_rows - row_in_slice);
    const int64_t first = slice * src.n_rows + row_in_slice;
    values.resize(static_cast<size_t>(n * src.n_per_row));
    decode_rows(src, first, n, values.data());
    require_finite(src, first, n, values.data());
    auto* out = static_cast<uint8_t*>(dst) + first * dst_stride;
    const float* weights = imatrix == nullptr ? nullptr : imatrix + slice * src.n_per_row;
    const size_t size = ggml_quantize_chunk(dst_type, values.data(), out, 0, n, src.n_per_row, weights);
    if (size != n * dst_stride || !ggml_validate_row_data(dst_type, out, size)) {
      throw Error(ErrorKind::quantize,
                  "the " + type_name(dst_type) + " blocks of row " + std::to_string(row_in_slice) +
                      " do not validate; try another type for this tensor",
                  {{"qtype", type_name(dst_type)}});
    }
    monitor.add(static_cast<uint64_t>(n * src.n_per_row));
  });
}

void dequantize(const Matrices& src, float* dst, int n_threads, Monitor& monitor) {
  ensure_backend();
  check_source(src);
  const int64_t rows_per_task =
      std::max<int64_t>(1, (16 * min_chunk_weights + src.n_per_row - 1) / src.n_per_row);
  const int64_t n_tasks = (src.total_rows() + rows_per_task - 1) / rows_per_task;
  monitor.set_total(static_cast<uint64_t>(src.total_rows() * src.n_per_row));
  parallel_for(n_tasks, n_threads, monitor, [&](int64_t task) {
    const int64_t first = task * rows_per_task;
    const int64_t n = std::min(rows_per_task, src.total_rows() - first);
    decode_rows(src, first, n, dst + first * src.n_per_row);
    monitor.add(static_cast<uint64_t>(n * src.n_per_row));
  });
}

}  // namespace mqn
