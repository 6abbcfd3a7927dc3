// Tasks over threads that are ours, with exceptions (ggml's aborts included) carried back to the caller.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>

#include "backend.hpp"
#include "monitor.hpp"
#include "workers.hpp"

namespace mqn {

// Runs task(i) for every i in [0, n_tasks) on up to n_threads threads, the caller's among them.
// Tasks are handed out in order and must not depend on each other. The first exception stops the rest
// and is rethrown; so does cancellation of the monitor.
template <class Task>
void parallel_for(int64_t n_tasks, int n_threads, const Monitor& monitor, Task&& task) {
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::exception_ptr error;
  std::mutex mutex;
  auto work = [&] {
    const AbortGuard guard;
    try {
      while (!failed.load(std::memory_order_relaxed)) {
        const int64_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= n_tasks) {
          return;
        }
        monitor.check();
        task(i);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) {
        error = std::current_exception();
      }
      failed.store(true, std::memory_order_relaxed);
    }
  };
  const int64_t n_workers = std::min<int64_t>(std::max(1, n_threads), n_tasks);
  run_on_workers(static_cast<int>(n_workers) - 1, work);
  if (error) {
    std::rethrow_exception(error);
  }
}

}  // namespace mqn
