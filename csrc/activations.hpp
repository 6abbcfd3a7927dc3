// Sums of squared activations at the inputs of a model's weights: the imatrix.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "column_sums.hpp"
#include "ggml.h"
#include "model.hpp"
#include "node_collector.hpp"

namespace mqn {

// Collects what upstream's imatrix tool collects (tools/imatrix/imatrix.cpp, collect_imatrix), with its
// arithmetic: float32 sums, one row after the other. With process_output also the head's input; for a tied
// embedding upstream leaves it out. Activations on a device are summed up there, where the weight is a single
// matrix; those that enter experts are brought over.
class ActivationCollector : public NodeCollector {
 public:
  // sums_on_device: also sum up in the device's order what lies in main memory; for tests.
  // sums: of the rows before, which are added to.
  ActivationCollector(bool process_output, bool sums_on_device, std::map<std::string, Activations> sums)
      : process_output_(process_output), sums_on_device_(sums_on_device), sums_(std::move(sums)) {}

  std::map<std::string, Activations> take() { return std::move(sums_); }

 private:
  bool wants(const ggml_tensor* node) const override;
  void collect(const ggml_tensor* node) override;
  void add_sums(Activations& entry, const ggml_tensor* input);
  void add_row(Activations& entry, int64_t slice, const float* x);

  bool process_output_;
  bool sums_on_device_;
  ColumnSums column_sums_;
  std::map<std::string, Activations> sums_;
};

}  // namespace mqn
