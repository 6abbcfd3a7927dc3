#include "binding.hpp"

#include "feedback.hpp"

namespace mqn {
namespace {

ColumnGroups groups_of(int64_t n_per_row, int64_t columns) {
  if (n_per_row <= 0 || columns <= 0) {
    throw Error(ErrorKind::shape, "expected rows and groups of at least one column");
  }
  return {n_per_row, columns};
}

}  // namespace

void bind_feedback(py::module_& m) {
  m.def("feedback_types", &feedback_types);

  m.def(
      "feedback_factors",
      [](FloatArray moments, int64_t n_per_row, int64_t columns, double damping, int n_threads,
         const py::object& progress) {
        const ColumnGroups groups = groups_of(n_per_row, columns);
        const auto slice_bytes = static_cast<size_t>(groups.total()) * sizeof(float);
        const auto n_slices = static_cast<int64_t>(static_cast<size_t>(moments.nbytes()) / slice_bytes);
        auto* out = static_cast<float*>(
            output_bytes(moments, static_cast<size_t>(n_slices) * slice_bytes, "second moments"));
        Monitor monitor;
        run_monitored(monitor, progress,
                      [&] { feedback_factors(out, n_slices, groups, damping, n_threads, monitor); });
      },
      py::arg("moments").noconvert(), py::arg("n_per_row"), py::arg("columns"), py::arg("damping"),
      py::arg("n_threads"), py::arg("progress"));

  m.def(
      "round_with_feedback",
      [](const BlockArray& src, int src_type, const MatrixShape& shape, int dst_type, BlockArray blocks,
         const FloatArray& factors, int64_t columns, int n_threads, const py::object& progress) {
        const Matrices source = matrices(src, src_type, shape);
        const ggml_type type = checked_type(dst_type);
        void* out = output_bytes(blocks, row_bytes(type, source.n_per_row) * source.total_rows(), "blocks");
        const ColumnGroups groups = groups_of(source.n_per_row, columns);
        const int64_t n_slices = static_cast<int64_t>(factors.size()) / groups.total();
        if (factors.size() % groups.total() != 0 || (n_slices != 1 && n_slices != source.n_slices)) {
          throw Error(ErrorKind::shape, "the factors are those of rows of another length");
        }
        const float* u = factors.data();
        Monitor monitor;
        run_monitored(monitor, progress, [&] {
          round_with_feedback(source, type, out, u, n_slices, groups, n_threads, monitor);
        });
      },
      py::arg("src"), py::arg("src_type"), py::arg("shape"), py::arg("dst_type"), py::arg("blocks"),
      py::arg("factors").noconvert(), py::arg("columns"), py::arg("n_threads"), py::arg("progress"));
}

}  // namespace mqn
