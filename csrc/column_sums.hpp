// Sums over the tokens of a matrix of activations, on the device that holds it.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

#include "side_engine.hpp"

namespace mqn {

// Not thread safe. One value for every column; float32 sums in the device's order.
class ColumnSums {
 public:
  // Of x, float32, contiguous, shape (tokens, n). Several weights read one input: it is summed up once for
  // every graph. Throws backend.
  void take(const ggml_tensor* x);

  const std::vector<float>& squares() const { return squares_; }
  const std::vector<float>& sums() const { return sums_; }

 private:
  std::map<ggml_backend_dev_t, SideEngine> engines_;
  const ggml_tensor* last_ = nullptr;
  uint64_t last_graph_ = 0;
  std::vector<float> squares_;
  std::vector<float> sums_;
};

}  // namespace mqn
