// Threads that wait for work. A thread that is started for a few milliseconds often begins on the processor
// that is busy already; one that was parked wakes on its own.
#pragma once

#include <functional>

namespace mqn {

// Runs job() on up to n_helpers parked threads besides the calling one, which runs it too; returns when every
// run that began has ended. A helper that has not begun by the time the caller is done is called off, so that
// nothing ever waits for a thread that is not there. job must not throw.
void run_on_workers(int n_helpers, const std::function<void()>& job);

// Runs job() on a parked thread and returns at once; where the system grants no thread, on this one. job
// tells its end itself and must not throw.
void run_in_background(std::function<void()> job);

}  // namespace mqn
