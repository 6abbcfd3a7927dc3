#include "binding.hpp"

namespace mqn {
namespace {

const char* class_name(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::shape:
      return "ShapeError";
    case ErrorKind::non_finite:
      return "NonFiniteError";
    case ErrorKind::unsupported_type:
      return "UnsupportedTypeError";
    case ErrorKind::imatrix:
      return "ImatrixError";
    case ErrorKind::quantize:
      return "QuantizeError";
    case ErrorKind::model_load:
      return "ModelLoadError";
    case ErrorKind::backend:
      return "BackendError";
    case ErrorKind::cancelled:
      return "OperationCancelled";
  }
  return "MQNativeError";
}

void set_python_error(const Error& error) {
  const py::object cls = py::module_::import("mqnative.errors").attr(class_name(error.kind()));
  py::dict fields;
  for (const auto& [name, value] : error.fields()) {
    if (std::holds_alternative<int64_t>(value)) {
      fields[name.c_str()] = std::get<int64_t>(value);
    } else {
      fields[name.c_str()] = text(std::get<std::string>(value));
    }
  }
  const py::object instance = cls(text(error.what()), **fields);
  PyErr_SetObject(cls.ptr(), instance.ptr());
}

[[noreturn]] void refuse(const char* what, const std::string& expected, const std::string& got) {
  throw Error(ErrorKind::shape, std::string(what) + ": expected " + expected + ", got " + got,
              {{"expected", expected}, {"got", got}});
}

void check_bytes(const py::array& array, size_t n_bytes, const char* what) {
  if ((array.flags() & py::array::c_style) == 0) {
    refuse(what, "a C-contiguous array", "one that is not; pass numpy.ascontiguousarray(x)");
  }
  if (static_cast<size_t>(array.nbytes()) != n_bytes) {
    refuse(what, std::to_string(n_bytes) + " bytes", std::to_string(array.nbytes()));
  }
}

}  // namespace

py::str text(const std::string& bytes) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "surrogateescape"));
}

void register_errors(py::module_& /*m*/) {
  py::register_local_exception_translator([](std::exception_ptr p) {
    try {
      if (p) {
        std::rethrow_exception(p);
      }
    } catch (const Error& error) {
      try {
        set_python_error(error);
      } catch (py::error_already_set& nested) {
        nested.restore();
      }
    }
  });
}

const void* input_bytes(const py::array& array, size_t n_bytes, const char* what) {
  check_bytes(array, n_bytes, what);
  return array.data();
}

void* output_bytes(py::array& array, size_t n_bytes, const char* what) {
  check_bytes(array, n_bytes, what);
  if (!array.writeable()) {
    refuse(what, "a writable array", "a read-only one");
  }
  return array.mutable_data();
}

ggml_type checked_type(int id) {
  const bool known = id >= 0 && id < GGML_TYPE_COUNT && ggml_blck_size(static_cast<ggml_type>(id)) > 0;
  if (!known) {
    throw Error(ErrorKind::unsupported_type, "ggml has no type number " + std::to_string(id),
                {{"reason", std::string("unknown type")}});
  }
  return static_cast<ggml_type>(id);
}

Matrices matrices(const py::array& array, int type, const MatrixShape& shape) {
  const auto [n_slices, n_rows, n_per_row] = shape;
  if (n_slices < 1 || n_rows < 1 || n_per_row < 1) {
    refuse("tensor", "at least one weight",
           std::to_string(n_slices) + " x " + std::to_string(n_rows) + " x " + std::to_string(n_per_row));
  }
  const ggml_type checked = checked_type(type);
  const size_t n_bytes = row_bytes(checked, n_per_row) * static_cast<size_t>(n_slices * n_rows);
  return {checked, input_bytes(array, n_bytes, "tensor"), n_slices, n_rows, n_per_row};
}

const float* optional_floats(const py::object& array, int64_t n, const char* what) {
  if (array.is_none()) {
    return nullptr;
  }
  const auto floats = exactly<FloatArray>(array, what);
  if (floats.size() != n) {
    refuse(what, std::to_string(n) + " values", std::to_string(floats.size()));
  }
  return floats.data();
}

}  // namespace mqn
