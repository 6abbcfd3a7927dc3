// The loop over rows of logits that both ways of scoring share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "monitor.hpp"
#include "parallel.hpp"

namespace mqn {

// Calls score_row(r) for every row, on up to n_threads threads; rows are independent.
template <class ScoreRow>
void for_rows(int64_t n_rows, int n_threads, const Monitor& monitor, ScoreRow&& score_row) {
  constexpr int64_t rows_per_task = 4;
  const int64_t n_tasks = (n_rows + rows_per_task - 1) / rows_per_task;
  parallel_for(n_tasks, n_threads, monitor, [&](int64_t task) {
    for (int64_t r = task * rows_per_task; r < std::min((task + 1) * rows_per_task, n_rows); ++r) {
      score_row(r);
    }
  });
}

}  // namespace mqn
