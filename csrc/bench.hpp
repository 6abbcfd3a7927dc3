// How fast a model answers, measured as llama-bench measures it.
#pragma once

#include <vector>

#include "memory.hpp"
#include "monitor.hpp"

namespace mqn {

struct BenchOptions {
  int n_prompt = 512;  // tokens of a prompt
  int n_gen = 128;     // tokens generated one at a time
  int n_runs = 5;
  int n_threads = 1;
  // Put something like weights in place of what the file holds: a file that is only a header and a hole runs
  // as the whole one would. Zeros would not do: some types decode them to numbers that are slow.
  bool fill = false;
};

// Seconds of each run.
struct BenchTimes {
  std::vector<double> prompt;
  std::vector<double> generation;
};

// Loads the model as users do and times it: a run to warm up, then n_runs from an empty cache, of random
// tokens, prompts and generation in contexts of their own. The context's n_ctx and n_seq are chosen here.
// Throws model_load, backend, cancelled.
BenchTimes bench_model(const PlacementOptions& placement, const ContextOptions& context,
                       const BenchOptions& options, Monitor& monitor);

}  // namespace mqn
