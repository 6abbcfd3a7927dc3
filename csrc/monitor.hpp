// Progress and cancellation of one long call, shared between the caller and its workers.
#pragma once

#include <atomic>
#include <cstdint>

#include "error.hpp"

namespace mqn {

// Workers only add to a counter and read a flag; the thread that waits for them decides what to show
// and whether to stop. Thread safe.
class Monitor {
 public:
  void set_total(uint64_t total) { total_.store(total, std::memory_order_relaxed); }
  void add(uint64_t n) { done_.fetch_add(n, std::memory_order_relaxed); }
  void set_done(uint64_t n) { done_.store(n, std::memory_order_relaxed); }
  void cancel() { cancelled_.store(true, std::memory_order_relaxed); }

  uint64_t done() const { return done_.load(std::memory_order_relaxed); }
  uint64_t total() const { return total_.load(std::memory_order_relaxed); }
  bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }

  // Throws ErrorKind::cancelled once cancel() was called.
  void check() const {
    if (cancelled()) {
      throw Error(ErrorKind::cancelled, "cancelled",
                  {{"done", static_cast<int64_t>(done())}, {"total", static_cast<int64_t>(total())}});
    }
  }

 private:
  std::atomic<uint64_t> done_{0};
  std::atomic<uint64_t> total_{0};
  std::atomic<bool> cancelled_{false};
};

}  // namespace mqn
