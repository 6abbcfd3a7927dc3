// ggml and llama.cpp as one process-wide service: start-up, log lines, failed assertions, devices.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"

namespace mqn {

// Starts the back ends, routes upstream's log and failed assertions to us. Idempotent, thread safe.
void ensure_backend();

// While one of these lives on a thread, a failed GGML_ASSERT on that thread throws ErrorKind::backend
// instead of aborting the process. Only for threads that we own and that hold no ggml lock.
class AbortGuard {
 public:
  AbortGuard();
  ~AbortGuard();
  AbortGuard(const AbortGuard&) = delete;
  AbortGuard& operator=(const AbortGuard&) = delete;
};

// Receives upstream's log text of the calling thread while it lives. May throw to stop upstream where
// upstream allows that (llama_model_quantize).
class LogSink {
 public:
  LogSink();
  virtual ~LogSink();
  LogSink(const LogSink&) = delete;
  LogSink& operator=(const LogSink&) = delete;
  virtual void write(ggml_log_level level, const char* text) = 0;

 private:
  LogSink* outer_;
};

// Lines logged since the last call, oldest first, as (ggml level, text); at most the last 1000 are kept.
std::vector<std::pair<int, std::string>> drain_log();

// The last few warnings and errors, one a line: what upstream said before it failed.
std::string recent_errors();
void clear_recent_errors();

// The devices of these names that are not the CPU, planned_device_name among them. Throws backend for a name
// that no device has.
std::vector<ggml_backend_dev_t> named_devices(const std::vector<std::string>& names);

// A library of devices that this build holds, and how many of its devices this machine has.
struct BackendInfo {
  std::string name;  // "CPU", "CUDA", ...
  size_t n_devices;
};
std::vector<BackendInfo> backends();
// What they said was wrong when they started, one a line: why there is no device.
std::string startup_errors();

struct DeviceInfo {
  std::string name;               // "CPU", "CUDA0", ...
  std::string description;        // the vendor's name for it
  std::string kind;               // "cpu", "gpu", "igpu", "accel"
  uint64_t memory_free;           // bytes
  uint64_t memory_total;          // bytes
  std::vector<int> matmul_types;  // ggml types whose rows it multiplies with float32 activations
};
std::vector<DeviceInfo> devices();

}  // namespace mqn
