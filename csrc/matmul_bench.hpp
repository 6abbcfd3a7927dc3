// How long one matrix product takes, by the type and shape of its weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "ggml.h"
#include "monitor.hpp"

namespace mqn {

struct Product {
  ggml_type type;
  int64_t n_per_row;  // weights per row: length of an activation
  int64_t n_rows;     // outputs
  int64_t n_experts;  // 0: a plain product; otherwise the weights of so many experts,
  int64_t n_used;     // of which every token uses so many
  int64_t n_tokens;   // activations at once: 1 as in generation
};

struct ProductOptions {
  std::string device = "CPU";
  bool extra_buffers = true;  // repacked where llama.cpp would
  int n_threads = 1;
  // Different weights are multiplied in turn until they are this many bytes, so that none are still in the
  // processor's cache that would not be in a model of that size.
  int64_t working_set_bytes = 0;
  double seconds = 0.05;  // measure for so long, at least eight times
};

// Rows that look like weights, the first few of them repeated.
std::vector<uint8_t> any_rows(ggml_type type, int64_t n_per_row, int64_t n_rows);

// Seconds of one product, once per round. Throws unsupported_type where the device has no such product.
std::vector<double> time_product(const Product& product, const ProductOptions& options, Monitor& monitor);

}  // namespace mqn
