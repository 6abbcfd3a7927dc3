#include "binding.hpp"

PYBIND11_MODULE(_core, m) {
  m.doc() = "ggml and llama.cpp in-process; use the checked functions of mqnative.core instead.";
  mqn::register_errors(m);
  mqn::bind_info(m);
  mqn::bind_quant(m);
  mqn::bind_feedback(m);
  mqn::bind_model(m);
  mqn::bind_score(m);
  mqn::bind_upstream(m);
  mqn::bind_memory(m);
  mqn::bind_bench(m);
}
