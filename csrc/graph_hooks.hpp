// Where llama.cpp's graphs pass by on their way to the scheduler.
#pragma once

#include <cstdint>

#include "ggml.h"

namespace mqn {

// Whether this build's linker sends them here. Without it passes are whole ones and logits go to the host.
bool has_graph_hooks();

// Graphs that this thread has begun to compute: a tensor's address says which one only together with it.
uint64_t graphs_passed();

// The evaluation callback of contexts that compute logits.
bool on_node(ggml_tensor* node, bool ask, void* user_data);

}  // namespace mqn
