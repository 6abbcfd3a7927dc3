// The one header through which Python enters. It comes first where it is included: Python.h asks for that.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <string>

#include "backend.hpp"
#include "error.hpp"
#include "monitor.hpp"
#include "quant.hpp"
#include "workers.hpp"

namespace py = pybind11;

namespace mqn {

// Arrays by role. c_style without forcecast: a wrong dtype or layout is refused, never copied.
using BlockArray = py::array;                                 // raw rows of any type
using FloatArray = py::array_t<float, py::array::c_style>;    // logits, importances, decoded weights
using TokenArray = py::array_t<int32_t, py::array::c_style>;  // token ids
using IndexArray = py::array_t<int64_t, py::array::c_style>;  // row numbers
using MatrixShape = std::tuple<int64_t, int64_t, int64_t>;    // slices, rows, weights per row

// Throws shape unless the array is C-contiguous and n_bytes long.
const void* input_bytes(const py::array& array, size_t n_bytes, const char* what);
void* output_bytes(py::array& array, size_t n_bytes, const char* what);

// Checks that the type exists, the shape is positive and the array holds exactly those rows.
Matrices matrices(const py::array& array, int type, const MatrixShape& shape);
ggml_type checked_type(int id);
// The array itself if it has exactly the role's dtype and layout. Throws shape; nothing is converted.
template <class Array>
Array exactly(const py::object& array, const char* what) {
  if (!py::isinstance<Array>(array)) {
    throw Error(ErrorKind::shape, std::string(what) + ": expected a C-contiguous array of " +
                                      std::string(py::str(py::dtype::of<typename Array::value_type>())) +
                                      "; pass numpy.ascontiguousarray(x, dtype)");
  }
  return py::reinterpret_borrow<Array>(array);
}
// None, or n floats.
const float* optional_floats(const py::object& array, int64_t n, const char* what);

// What upstream says, as text: bytes that are no UTF-8 (in file names) become surrogates, as in os.fsdecode.
py::str text(const std::string& bytes);

// Turns Error into the classes of mqnative.errors.
void register_errors(py::module_& m);

// Runs work() on another thread with the GIL released. This thread wakes ten times a second, lets
// signals through and calls progress(done, total) unless it is None. An exception from either cancels the
// monitor, waits for the work to end and is rethrown.
template <class Work>
void run_monitored(Monitor& monitor, const py::object& progress, Work&& work) {
  using namespace std::chrono_literals;
  std::exception_ptr work_error;
  std::exception_ptr python_error;
  {
    const py::gil_scoped_release no_gil;
    std::mutex mutex;
    std::condition_variable finished;
    bool done = false;
    run_in_background([&] {
      try {
        work();
      } catch (...) {
        work_error = std::current_exception();
      }
      const std::lock_guard<std::mutex> lock(mutex);
      done = true;
      finished.notify_one();
    });
    std::unique_lock<std::mutex> lock(mutex);
    while (!finished.wait_for(lock, 100ms, [&] { return done; })) {
      if (python_error) {
        continue;
      }
      lock.unlock();
      {
        const py::gil_scoped_acquire gil;
        try {
          if (PyErr_CheckSignals() != 0) {
            throw py::error_already_set();
          }
          if (!progress.is_none()) {
            progress(monitor.done(), monitor.total());
          }
        } catch (...) {
          python_error = std::current_exception();
          monitor.cancel();
        }
      }
      lock.lock();
    }
  }
  if (python_error) {
    std::rethrow_exception(python_error);
  }
  if (work_error) {
    std::rethrow_exception(work_error);
  }
  if (!progress.is_none()) {
    progress(monitor.done(), monitor.total());
  }
}

// One topic each (bind_*.cpp).
void bind_info(py::module_& m);
void bind_quant(py::module_& m);
void bind_feedback(py::module_& m);
void bind_model(py::module_& m);
void bind_score(py::module_& m);
void bind_upstream(py::module_& m);
void bind_memory(py::module_& m);
void bind_bench(py::module_& m);

}  // namespace mqn
