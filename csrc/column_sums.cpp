#include "column_sums.hpp"

#include "graph_hooks.hpp"

namespace mqn {

void ColumnSums::take(const ggml_tensor* x) {
  const uint64_t graph_number = graphs_passed();
  if (has_graph_hooks() && x == last_ && graph_number == last_graph_) {
    return;
  }
  ggml_backend_dev_t device = device_of(x);
  SideEngine& engine = engines_.try_emplace(device, device).first->second;
  const ggml_context_ptr context(
      ggml_init({16 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, /*no_alloc=*/true}));
  ggml_context* ctx = context.get();
  ggml_tensor* columns =
      ggml_cont(ctx, ggml_transpose(ctx, window(ctx, GGML_TYPE_F32, x->ne[0], x->ne[1], x, 0)));
  ggml_tensor* sums = ggml_sum_rows(ctx, columns);
  ggml_tensor* squares = ggml_sum_rows(ctx, ggml_sqr(ctx, columns));
  ggml_set_output(sums);
  ggml_set_output(squares);
  ggml_cgraph* graph = ggml_new_graph(ctx);
  ggml_build_forward_expand(graph, sums);
  ggml_build_forward_expand(graph, squares);
  engine.compute(graph, "sum up activations");
  sums_.resize(static_cast<size_t>(x->ne[0]));
  squares_.resize(sums_.size());
  ggml_backend_tensor_get(sums, sums_.data(), 0, sums_.size() * sizeof(float));
  ggml_backend_tensor_get(squares, squares_.data(), 0, squares_.size() * sizeof(float));
  last_ = x;
  last_graph_ = graph_number;
}

}  // namespace mqn
