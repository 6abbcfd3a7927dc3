#include "binding.hpp"

#include "ggml-cpu.h"
#include "llama.h"
#include "types.hpp"

namespace mqn {

void bind_info(py::module_& m) {
  m.def("type_table", [] {
    py::list table;
    for (const TypeInfo& t : type_table()) {
      table.append(py::dict(py::arg("id") = t.id, py::arg("name") = t.name, py::arg("block") = t.block,
                            py::arg("block_bytes") = t.block_bytes, py::arg("is_quantized") = t.is_quantized,
                            py::arg("is_target") = t.is_target, py::arg("needs_imatrix") = t.needs_imatrix,
                            py::arg("activation") = t.activation));
    }
    return table;
  });
  m.def(
      "uses_imatrix",
      [](int id) {
        const ggml_type type = checked_type(id);
        const py::gil_scoped_release no_gil;
        return has_encoder(type) && uses_imatrix(type);
      },
      py::arg("id"));
  m.def("build_info", [] {
    return py::dict(py::arg("version") = MQNATIVE_VERSION,
                    py::arg("upstream_commit") = MQNATIVE_UPSTREAM_COMMIT,
                    py::arg("llama_cpp_version") = llama_version(), py::arg("ggml_version") = ggml_version(),
                    py::arg("compiler") = MQNATIVE_COMPILER, py::arg("build_type") = MQNATIVE_BUILD_TYPE,
                    py::arg("isa") = MQNATIVE_ISA, py::arg("cuda") = MQNATIVE_CUDA);
  });
  m.def("system_info", [] {
    ensure_backend();
    return std::string(llama_print_system_info());
  });
  m.def("backends", [] {
    py::list list;
    for (const BackendInfo& b : backends()) {
      list.append(py::make_tuple(b.name, b.n_devices));
    }
    return list;
  });
  m.def("startup_errors", [] { return text(startup_errors()); });
  m.def("devices", [] {
    py::list list;
    for (const DeviceInfo& d : devices()) {
      list.append(py::dict(py::arg("name") = d.name, py::arg("description") = d.description,
                           py::arg("kind") = d.kind, py::arg("memory_free_bytes") = d.memory_free,
                           py::arg("memory_total_bytes") = d.memory_total,
                           py::arg("matmul_types") = d.matmul_types));
    }
    return list;
  });
  m.def("drain_log", [] {
    py::list lines;
    for (const auto& [level, line] : drain_log()) {
      lines.append(py::make_tuple(level, text(line)));
    }
    return lines;
  });
}

}  // namespace mqn
