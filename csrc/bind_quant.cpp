#include "binding.hpp"

#include "row_error.hpp"

namespace mqn {

void bind_quant(py::module_& m) {
  m.def(
      "quantize",
      [](const BlockArray& src, int src_type, const MatrixShape& shape, int dst_type, BlockArray dst,
         const py::object& imatrix, int n_threads, const py::object& progress) {
        const Matrices source = matrices(src, src_type, shape);
        const ggml_type type = checked_type(dst_type);
        const float* weights = optional_floats(imatrix, source.n_slices * source.n_per_row, "imatrix");
        void* out = output_bytes(dst, row_bytes(type, source.n_per_row) * source.total_rows(), "output");

        // The arrays stay referenced by the caller's frame, so that no one frees them without the GIL.
        Monitor monitor;
        run_monitored(monitor, progress, [&] { quantize(source, type, out, weights, n_threads, monitor); });
      },
      py::arg("src"), py::arg("src_type"), py::arg("shape"), py::arg("dst_type"), py::arg("dst"),
      py::arg("imatrix"), py::arg("n_threads"), py::arg("progress"));

  m.def(
      "dequantize",
      [](const BlockArray& src, int src_type, const MatrixShape& shape, py::array dst, int n_threads,
         const py::object& progress) {
        const Matrices source = matrices(src, src_type, shape);
        auto* out = static_cast<float*>(
            output_bytes(dst, sizeof(float) * source.total_rows() * source.n_per_row, "output"));

        Monitor monitor;
        run_monitored(monitor, progress, [&] { dequantize(source, out, n_threads, monitor); });
      },
      py::arg("src"), py::arg("src_type"), py::arg("shape"), py::arg("dst"), py::arg("n_threads"),
      py::arg("progress"));

  m.def(
      "row_errors",
      [](const BlockArray& src, int src_type, const MatrixShape& shape, const IndexArray& rows,
         const std::vector<int>& types, const py::object& imatrix, bool histogram, int n_threads,
         const py::object& progress) {
        const Matrices source = matrices(src, src_type, shape);
        const float* weights = optional_floats(imatrix, source.n_slices * source.n_per_row, "imatrix");
        std::vector<ggml_type> targets;
        for (const int type : types) {
          targets.push_back(checked_type(type));
        }
        const int64_t* row_numbers = rows.data();
        const auto n_rows = static_cast<int64_t>(rows.size());

        const auto n_types = static_cast<py::ssize_t>(targets.size());
        constexpr py::ssize_t n_error_fields = sizeof(RowError) / sizeof(double);
        constexpr py::ssize_t n_norm_fields = sizeof(RowNorm) / sizeof(double);
        py::array_t<double> errors({n_types, static_cast<py::ssize_t>(n_rows), n_error_fields});
        py::array_t<double> norms({static_cast<py::ssize_t>(n_rows), n_norm_fields});
        py::array_t<uint64_t> bins({histogram ? n_types : 0, static_cast<py::ssize_t>(n_error_bins)});
        auto* errors_out = reinterpret_cast<RowError*>(errors.mutable_data());
        auto* norms_out = reinterpret_cast<RowNorm*>(norms.mutable_data());
        uint64_t* bins_out = histogram ? bins.mutable_data() : nullptr;
        std::fill(bins.mutable_data(), bins.mutable_data() + bins.size(), uint64_t{0});

        Monitor monitor;
        run_monitored(monitor, progress, [&] {
          row_errors(source, row_numbers, n_rows, targets, weights, errors_out, norms_out, bins_out,
                     n_threads, monitor);
        });
        return py::make_tuple(errors, norms, bins);
      },
      py::arg("src"), py::arg("src_type"), py::arg("shape"), py::arg("rows"), py::arg("types"),
      py::arg("imatrix"), py::arg("histogram"), py::arg("n_threads"), py::arg("progress"));
  m.attr("error_bin_shift") = error_bin_shift;

  m.def(
      "validate_rows",
      [](const BlockArray& blocks, int type) {
        const ggml_type checked = checked_type(type);
        const auto size = static_cast<size_t>(blocks.nbytes());
        const void* data = input_bytes(blocks, size, "blocks");

        const py::gil_scoped_release no_gil;
        return size % ggml_type_size(checked) == 0 && ggml_validate_row_data(checked, data, size);
      },
      py::arg("blocks"), py::arg("type"));
}

}  // namespace mqn
