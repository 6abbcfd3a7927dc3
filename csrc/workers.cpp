#include "workers.hpp"

#include <unistd.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

namespace mqn {
namespace {

// One call of run_on_workers: what to run, and how many helpers are at it.
struct Call {
  explicit Call(const std::function<void()>& what) : job(&what) {}

  const std::function<void()>* job;
  int running = 0;
  std::condition_variable ended;
};

class Workers {
 public:
  // One for the process, never destroyed: its threads end with the process. After a fork the child has none
  // of them and gets its own.
  static Workers& instance() {
    static std::mutex mutex;
    static Workers* workers = nullptr;
    static pid_t owner = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    if (workers == nullptr || owner != getpid()) {
      workers = new Workers;
      owner = getpid();
    }
    return *workers;
  }

  void start(std::function<void()> job) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      background_.push_back(std::move(job));
      if (ensure_threads()) {
        wake_.notify_all();
        return;
      }
      job = std::move(background_.back());
      background_.pop_back();
    }
    job();  // no thread is to be had: here, then, without progress
  }

  void run(int n_helpers, const std::function<void()>& job) {
    Call call(job);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      for (int i = 0; i < n_helpers; ++i) {
        waiting_.push_back(&call);
      }
      ensure_threads();
    }
    wake_.notify_all();
    job();
    std::unique_lock<std::mutex> lock(mutex_);
    for (auto it = waiting_.begin(); it != waiting_.end();) {
      it = *it == &call ? waiting_.erase(it) : it + 1;
    }
    call.ended.wait(lock, [&] { return call.running == 0; });
  }

 private:
  // Calls may overlap; every one of them gets its threads. Returns whether the system granted them.
  bool ensure_threads() {
    while (n_threads_ < busy_ + static_cast<int>(waiting_.size() + background_.size())) {
      try {
        std::thread([this] { work(); }).detach();
      } catch (const std::system_error&) {
        return false;
      }
      ++n_threads_;
    }
    return true;
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [this] { return !waiting_.empty() || !background_.empty(); });
      if (!background_.empty()) {
        const std::function<void()> job = std::move(background_.front());
        background_.pop_front();
        ++busy_;
        lock.unlock();
        job();
        lock.lock();
        --busy_;
        continue;
      }
      Call* call = waiting_.front();
      waiting_.pop_front();
      ++call->running;
      ++busy_;
      lock.unlock();
      (*call->job)();
      lock.lock();
      --busy_;
      if (--call->running == 0) {
        call->ended.notify_all();
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Call*> waiting_;
  std::deque<std::function<void()>> background_;
  int n_threads_ = 0;
  int busy_ = 0;
};

}  // namespace

void run_on_workers(int n_helpers, const std::function<void()>& job) {
  if (n_helpers <= 0) {
    job();
    return;
  }
  Workers::instance().run(n_helpers, job);
}

void run_in_background(std::function<void()> job) { Workers::instance().start(std::move(job)); }

}  // namespace mqn
