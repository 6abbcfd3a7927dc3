// Evaluating a sequence again from some layer on, from hidden states kept of a whole pass.
//
// A swapped tensor of layer L leaves everything before it as it was. The graph that llama.cpp builds is cut
// at the output of layer L - 1: that node becomes an input, filled with what a whole pass computed, and only
// the nodes that the rest needs are kept. What is computed is computed by the same nodes in the same order,
// so that the logits are the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <unordered_set>
#include <vector>

#include "ggml-backend.h"
#include "ggml.h"

struct ggml_cgraph;

namespace mqn {

// What one evaluated sequence leaves behind so that it can be run again from a layer.
struct Trace {
  std::vector<int32_t> tokens;
  int64_t first = 0;  // positions whose logits are wanted: first .. last-1
  int64_t last = 0;
  // By the layer that reads them: the hidden states that enter it, one array for each micro-batch.
  std::map<int, std::vector<std::vector<uint8_t>>> inputs;

  size_t size_bytes() const;
};

// Watches or cuts the graphs of one llama_decode call. Active on the thread that holds it.
class GraphTap {
 public:
  // Keeps the states that enter these layers in `trace`.
  GraphTap(Trace& trace, const std::vector<int>& layers);
  // Starts at `layer`. A graph stays whole where the cut would leave out a node that reads one of `changed`,
  // where the trace has no such layer, or where the model's graph does not name its layers' outputs.
  GraphTap(const Trace& trace, int layer, std::unordered_set<const ggml_tensor*> changed);
  // The same from `layer` on, or from the start where it is 0, keeping in `kept` the states that enter
  // `until` and computing nothing after them.
  GraphTap(const Trace& trace, int layer, Trace& kept, int until);
  // Notes which layers' inputs the graphs name.
  explicit GraphTap(std::set<int>& named);
  ~GraphTap();
  GraphTap(const GraphTap&) = delete;
  GraphTap& operator=(const GraphTap&) = delete;

  // Whether every graph so far was cut.
  bool restarted() const { return n_cut_ > 0 && n_cut_ == n_graphs_; }

  // For the evaluation callback: asks for the outputs of layers while a tap keeps states.
  static bool on_node(ggml_tensor* node, bool ask);
  // Called around the model's graph: after it is built, and after its inputs are set.
  static void on_graph(ggml_cgraph* graph);
  static void on_inputs();

 private:
  bool cut(ggml_cgraph* graph);

  std::set<int>* named_ = nullptr;  // layers go there
  Trace* kept_ = nullptr;           // states go there
  const Trace* from_ = nullptr;     // states come from there
  std::unordered_set<int> wanted_;
  int layer_ = 0;
  bool stops_ = false;  // once the wanted states are kept
  std::unordered_set<const ggml_tensor*> changed_;
  ggml_tensor* entry_ = nullptr;  // the cut graph's new input
  size_t n_graphs_ = 0;           // micro-batches whose inputs are set
  size_t n_cut_ = 0;
};

// The layers that a pass over a model can start at, from its files' headers alone: the graph is built,
// nothing is computed. Throws model_load, backend.
std::set<int> restart_layers(const std::vector<std::string>& paths);

}  // namespace mqn
