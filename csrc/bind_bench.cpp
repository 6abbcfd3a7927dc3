#include "binding.hpp"

#include "bench.hpp"
#include "bind_placement.hpp"
#include "matmul_bench.hpp"

namespace mqn {

void bind_bench(py::module_& m) {
  m.def(
      "bench_model",
      [](const std::vector<std::string>& paths, int n_gpu_layers, const std::vector<std::string>& devices,
         const std::vector<std::string>& on_cpu, bool extra_buffers, const ContextNumbers& context,
         int n_prompt, int n_gen, int n_runs, int n_threads, bool fill, const py::object& progress) {
        const PlacementOptions placement = placement_of(paths, n_gpu_layers, devices, on_cpu, extra_buffers);
        const ContextOptions options = context_of(context);
        BenchTimes times;
        Monitor monitor;
        run_monitored(monitor, progress, [&] {
          times = bench_model(placement, options, {n_prompt, n_gen, n_runs, n_threads, fill}, monitor);
        });
        return py::make_tuple(times.prompt, times.generation);
      },
      py::arg("paths"), py::arg("n_gpu_layers"), py::arg("devices"), py::arg("on_cpu"),
      py::arg("extra_buffers"), py::arg("context"), py::arg("n_prompt"), py::arg("n_gen"), py::arg("n_runs"),
      py::arg("n_threads"), py::arg("fill"), py::arg("progress"));
  m.def(
      "time_product",
      [](int type, const std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>& shape,
         const std::string& device, bool extra_buffers, int n_threads, int64_t working_set_bytes,
         double seconds, const py::object& progress) {
        const auto& [n_per_row, n_rows, n_experts, n_used, n_tokens] = shape;
        const bool legal = n_per_row > 0 && n_rows > 0 && n_experts >= 0 && n_tokens > 0 &&
                           (n_experts == 0 || (n_used > 0 && n_used <= n_experts));
        if (!legal) {
          throw Error(ErrorKind::shape, "expected a product of at least one row, weight and token");
        }
        const Product product{checked_type(type), n_per_row, n_rows, n_experts, n_used, n_tokens};
        const ProductOptions options{device, extra_buffers, n_threads, working_set_bytes, seconds};
        std::vector<double> times;
        Monitor monitor;
        run_monitored(monitor, progress, [&] { times = time_product(product, options, monitor); });
        return times;
      },
      py::arg("type"), py::arg("shape"), py::arg("device"), py::arg("extra_buffers"), py::arg("n_threads"),
      py::arg("working_set_bytes"), py::arg("seconds"), py::arg("progress"));
}

}  // namespace mqn
