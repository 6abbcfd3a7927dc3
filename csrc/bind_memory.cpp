#include "binding.hpp"

#include "bind_placement.hpp"
#include "memory.hpp"
#include "planned_device.hpp"

namespace mqn {

PlacementOptions placement_of(const std::vector<std::string>& paths, int n_gpu_layers,
                              const std::vector<std::string>& devices, const std::vector<std::string>& on_cpu,
                              bool extra_buffers) {
  PlacementOptions placement;
  placement.paths = paths;
  placement.n_gpu_layers = n_gpu_layers;
  placement.devices = devices;
  placement.on_cpu = on_cpu;
  placement.extra_buffers = extra_buffers;
  return placement;
}

ContextOptions context_of(const ContextNumbers& numbers) {
  ContextOptions options;
  options.n_ctx = std::get<0>(numbers);
  options.n_seq = std::get<1>(numbers);
  options.n_ubatch = std::get<2>(numbers);
  options.type_k = checked_type(std::get<3>(numbers));
  options.type_v = checked_type(std::get<4>(numbers));
  return options;
}

void bind_memory(py::module_& m) {
  m.attr("planned_device") = planned_device_name;
  m.def(
      "memory_use",
      [](const std::vector<std::string>& paths, int n_gpu_layers, const std::vector<std::string>& devices,
         const std::vector<std::string>& on_cpu, bool extra_buffers,
         const std::vector<ContextNumbers>& contexts, bool load, const py::object& progress) {
        const PlacementOptions placement = placement_of(paths, n_gpu_layers, devices, on_cpu, extra_buffers);
        std::vector<ContextOptions> options;
        for (const ContextNumbers& numbers : contexts) {
          options.push_back(context_of(numbers));
        }
        MemoryUse found;
        Monitor monitor;
        run_monitored(monitor, progress, [&] { found = memory_use(placement, options, load, monitor); });
        py::list tables;
        for (const auto& rows : found.contexts) {
          py::list table;
          for (const MemoryRow& row : rows) {
            table.append(py::dict(py::arg("buffer") = row.buffer, py::arg("device") = row.device,
                                  py::arg("is_host") = row.is_host, py::arg("weights_bytes") = row.model,
                                  py::arg("cache_bytes") = row.context,
                                  py::arg("compute_bytes") = row.compute));
          }
          tables.append(table);
        }
        py::list tensors;
        for (const PlacedTensor& t : found.tensors) {
          tensors.append(py::make_tuple(t.name, t.is_host, t.size_bytes));
        }
        return py::make_tuple(tables, tensors);
      },
      py::arg("paths"), py::arg("n_gpu_layers"), py::arg("devices"), py::arg("on_cpu"),
      py::arg("extra_buffers"), py::arg("contexts"), py::arg("load"), py::arg("progress"));
  m.def(
      "allocated_bytes",
      [](const std::string& device, const std::vector<std::pair<int, std::vector<int64_t>>>& tensors) {
        std::vector<TensorType> typed;
        for (const auto& [type, shape] : tensors) {
          if (shape.empty() || shape.size() > GGML_MAX_DIMS) {
            throw Error(ErrorKind::shape, "expected a tensor of 1 to 4 dimensions");
          }
          const ggml_type checked = checked_type(type);
          row_bytes(checked, shape[0]);  // refuses rows that do not fill blocks
          typed.push_back({checked, shape});
        }
        const py::gil_scoped_release no_gil;
        return allocated_bytes(device, typed);
      },
      py::arg("device"), py::arg("tensors"));
}

}  // namespace mqn
