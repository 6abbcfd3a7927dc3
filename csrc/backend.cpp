#include "backend.hpp"

#include <cstdio>
#include <deque>
#include <memory>
#include <mutex>

#include "error.hpp"
#include "ggml-cpp.h"
#include "llama.h"
#include "planned_device.hpp"

namespace mqn {
namespace {

constexpr size_t kept_log_lines = 1000;
constexpr size_t kept_error_lines = 8;

thread_local int abort_guards = 0;
thread_local LogSink* sink = nullptr;

struct Log {
  std::mutex mutex;
  std::string partial;  // upstream writes some lines in pieces
  std::deque<std::pair<int, std::string>> lines;
  std::deque<std::string> errors;
};
Log& log() {
  static Log instance;
  return instance;
}

std::string& at_startup() {
  static std::string text;
  return text;
}

void on_log(ggml_log_level level, const char* text, void* /*user_data*/) {
  if (sink != nullptr) {
    sink->write(level, text);
  }
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  l.partial += text;
  size_t end = 0;
  while ((end = l.partial.find('\n')) != std::string::npos) {
    std::string line = l.partial.substr(0, end);
    l.partial.erase(0, end + 1);
    if (line.empty()) {
      continue;
    }
    if (level == GGML_LOG_LEVEL_ERROR || level == GGML_LOG_LEVEL_WARN) {
      l.errors.push_back(line);
      if (l.errors.size() > kept_error_lines) {
        l.errors.pop_front();
      }
    }
    l.lines.emplace_back(level, std::move(line));
    if (l.lines.size() > kept_log_lines) {
      l.lines.pop_front();
    }
  }
}

void on_abort(const char* message) {
  if (abort_guards > 0) {
    throw Error(ErrorKind::backend, std::string("ggml stopped at an internal check: ") + message,
                {{"log", recent_errors()}});
  }
  std::fprintf(stderr, "%s\n", message);
}

bool multiplies(ggml_backend_dev_t device, ggml_type type) {
  const int64_t n = 8 * ggml_blck_size(type) * 32;
  ggml_init_params params{4 * ggml_tensor_overhead(), nullptr, /*no_alloc=*/true};
  const ggml_context_ptr ctx(ggml_init(params));
  ggml_tensor* w = ggml_new_tensor_2d(ctx.get(), type, n, 64);
  ggml_tensor* x = ggml_new_tensor_2d(ctx.get(), GGML_TYPE_F32, n, 32);
  return ggml_backend_dev_supports_op(device, ggml_mul_mat(ctx.get(), w, x));
}

const char* kind_name(enum ggml_backend_dev_type type) {
  switch (type) {
    case GGML_BACKEND_DEVICE_TYPE_CPU:
      return "cpu";
    case GGML_BACKEND_DEVICE_TYPE_GPU:
      return "gpu";
    case GGML_BACKEND_DEVICE_TYPE_IGPU:
      return "igpu";
    default:
      return "accel";
  }
}

}  // namespace

AbortGuard::AbortGuard() { ++abort_guards; }
AbortGuard::~AbortGuard() { --abort_guards; }

LogSink::LogSink() : outer_(sink) { sink = this; }
LogSink::~LogSink() { sink = outer_; }

void ensure_backend() {
  static std::once_flag once;
  std::call_once(once, [] {
    llama_log_set(on_log, nullptr);
    ggml_set_abort_callback(on_abort);
    llama_backend_init();
    ggml_backend_dev_count();  // looks for devices
    at_startup() = recent_errors();
  });
}

std::string startup_errors() {
  ensure_backend();
  return at_startup();
}

std::vector<BackendInfo> backends() {
  ensure_backend();
  std::vector<BackendInfo> found;
  for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
    ggml_backend_reg_t library = ggml_backend_reg_get(i);
    found.push_back({ggml_backend_reg_name(library), ggml_backend_reg_dev_count(library)});
  }
  return found;
}

std::vector<std::pair<int, std::string>> drain_log() {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  std::vector<std::pair<int, std::string>> lines(l.lines.begin(), l.lines.end());
  l.lines.clear();
  return lines;
}

std::string recent_errors() {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  std::string text;
  for (const std::string& line : l.errors) {
    text += (text.empty() ? "" : "\n") + line;
  }
  return text;
}

void clear_recent_errors() {
  Log& l = log();
  const std::lock_guard<std::mutex> lock(l.mutex);
  l.errors.clear();
}

std::vector<ggml_backend_dev_t> named_devices(const std::vector<std::string>& names) {
  std::vector<ggml_backend_dev_t> found;
  for (const std::string& name : names) {
    ggml_backend_dev_t device =
        name == planned_device_name ? planned_device() : ggml_backend_dev_by_name(name.c_str());
    if (device == nullptr) {
      std::string known;
      for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        known += std::string(i == 0 ? "" : ", ") + ggml_backend_dev_name(ggml_backend_dev_get(i));
      }
      throw Error(ErrorKind::backend,
                  "there is no device called " + name + "; there is " + known +
                      (at_startup().empty() ? "" : " (" + at_startup() + ")"),
                  {{"log", at_startup()}});
    }
    if (ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU) {
      found.push_back(device);
    }
  }
  return found;
}

std::vector<DeviceInfo> devices() {
  ensure_backend();
  std::vector<DeviceInfo> found;
  for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
    ggml_backend_dev_t device = ggml_backend_dev_get(i);
    size_t free = 0;
    size_t total = 0;
    ggml_backend_dev_memory(device, &free, &total);
    DeviceInfo info{ggml_backend_dev_name(device),
                    ggml_backend_dev_description(device),
                    kind_name(ggml_backend_dev_type(device)),
                    free,
                    total,
                    {}};
    for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
      const auto type = static_cast<ggml_type>(t);
      const ggml_type_traits* traits = ggml_get_type_traits(type);
      const bool has_rows = traits->blck_size > 0 && (type == GGML_TYPE_F32 || traits->to_float);
      if (has_rows && multiplies(device, type)) {
        info.matmul_types.push_back(t);
      }
    }
    found.push_back(std::move(info));
  }
  return found;
}

}  // namespace mqn
