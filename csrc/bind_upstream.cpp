#include "binding.hpp"

#include <filesystem>

#include "upstream.hpp"

namespace mqn {
namespace {

using TypeList = std::vector<std::pair<std::string, int>>;

QuantizeOptions options(int ftype, bool pure, bool allow_requantize, const TypeList& types,
                        const py::dict& imatrix, int n_threads) {
  QuantizeOptions o;
  o.ftype = ftype;
  o.pure = pure;
  o.allow_requantize = allow_requantize;
  o.n_threads = n_threads;
  for (const auto& [name, type] : types) {
    o.types.emplace_back(name, static_cast<int>(checked_type(type)));
  }
  for (const auto& [name, values] : imatrix) {
    const auto floats = py::cast<FloatArray>(values);
    o.imatrix.emplace_back(py::cast<std::string>(name),
                           std::vector<float>(floats.data(), floats.data() + floats.size()));
  }
  return o;
}

}  // namespace

void bind_upstream(py::module_& m) {
  m.def(
      "upstream_quantize",
      [](const std::string& input, const std::string& output, int ftype, bool pure, bool allow_requantize,
         const TypeList& types, const py::dict& imatrix, int n_threads, const py::object& progress) {
        const QuantizeOptions o = options(ftype, pure, allow_requantize, types, imatrix, n_threads);

        Monitor monitor;
        run_monitored(monitor, progress, [&] { upstream_quantize(input, output, o, monitor); });
      },
      py::arg("input"), py::arg("output"), py::arg("ftype"), py::arg("pure"), py::arg("allow_requantize"),
      py::arg("types"), py::arg("imatrix"), py::arg("n_threads"), py::arg("progress"));

  m.def(
      "upstream_plan",
      [](const std::string& input, int ftype, bool pure, const TypeList& types, const py::dict& imatrix) {
        const QuantizeOptions o = options(ftype, pure, /*allow_requantize=*/true, types, imatrix, 1);

        std::map<std::string, int> plan;
        Monitor monitor;
        run_monitored(monitor, py::none(), [&] { plan = upstream_plan(input, o, monitor); });
        return plan;
      },
      py::arg("input"), py::arg("ftype"), py::arg("pure"), py::arg("types"), py::arg("imatrix"));

  m.def(
      "allows_quantization",
      [](const std::string& architecture, const std::vector<std::pair<std::string, int>>& tensors) {
        std::vector<TensorShape> shapes;
        for (const auto& [name, n_dims] : tensors) {
          shapes.push_back({name, n_dims});
        }
        return allows_quantization(architecture, shapes);
      },
      py::arg("architecture"), py::arg("tensors"));

  m.def("presets", [] {
    py::list list;
    for (const Preset& p : presets()) {
      list.append(py::dict(py::arg("ftype") = p.ftype, py::arg("name") = p.name,
                           py::arg("default_type") = p.default_type));
    }
    return list;
  });
}

}  // namespace mqn
