#include "graph_hooks.hpp"

#include "ggml-impl.h"
#include "llama-graph.h"
#include "logit_scorer.hpp"
#include "restart.hpp"

namespace mqn {
namespace {

thread_local uint64_t n_graphs = 0;

}  // namespace

bool has_graph_hooks() {
#ifdef MQNATIVE_HAS_GRAPH_HOOKS
  return true;
#else
  return false;
#endif
}

uint64_t graphs_passed() { return n_graphs; }

bool on_node(ggml_tensor* node, bool ask, void* /*user_data*/) {
  if (LogitTap::wants(node)) {
    return ask || LogitTap::take(node);
  }
  return GraphTap::on_node(node, ask);
}

}  // namespace mqn

#ifdef MQNATIVE_HAS_GRAPH_HOOKS
namespace {

// The CUDA back end replays a captured graph while its nodes, and the addresses and strides of what they
// read, stay the same; it does not look at types. Two variants of as many bytes, one made where the other
// was, would be taken for each other (Q3_K and IQ3_S, Q4_0 and IQ4_NL). What is compared includes the
// padding.
void stamp_types(ggml_cgraph* graph) {
  for (int i = 0; i < graph->n_nodes; ++i) {
    ggml_tensor* node = graph->nodes[i];
    for (int j = 0; j < 2; ++j) {
      node->padding[j] = node->src[j] == nullptr ? char{0} : static_cast<char>(node->src[j]->type);
    }
  }
}

}  // namespace

// The linker sends llama.cpp's own calls of these two methods here (--wrap); both have C++ linkage names, and
// an object pointer is passed like a first argument.
extern "C" {
// llama_model::build_graph(const llm_graph_params&) const
ggml_cgraph* __real__ZNK11llama_model11build_graphERK16llm_graph_params(const llama_model*,
                                                                        const llm_graph_params*);
ggml_cgraph* __wrap__ZNK11llama_model11build_graphERK16llm_graph_params(const llama_model* model,
                                                                        const llm_graph_params* params) {
  ggml_cgraph* graph = __real__ZNK11llama_model11build_graphERK16llm_graph_params(model, params);
  if (graph != nullptr) {
    stamp_types(graph);
    mqn::GraphTap::on_graph(graph);
    mqn::LogitTap::on_graph(*params->res);
  }
  return graph;
}

// llm_graph_result::set_inputs(const llama_ubatch*)
void __real__ZN16llm_graph_result10set_inputsEPK12llama_ubatch(llm_graph_result*, const llama_ubatch*);
void __wrap__ZN16llm_graph_result10set_inputsEPK12llama_ubatch(llm_graph_result* result,
                                                               const llama_ubatch* ubatch) {
  __real__ZN16llm_graph_result10set_inputsEPK12llama_ubatch(result, ubatch);
  ++mqn::n_graphs;
  mqn::GraphTap::on_inputs();
}
}
#endif
