// What ggml says about its types. No list is kept by hand.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace mqn {

struct TypeInfo {
  int id;
  std::string name;  // upper case
  int64_t block;
  int64_t block_bytes;
  bool is_quantized;
  bool is_target;          // a tensor can be stored in it (has_encoder)
  bool needs_imatrix;      // its encoder refuses to run without importances
  std::string activation;  // what the CPU's product turns activations into
};

// Every type ggml knows, removed ones left out.
std::vector<TypeInfo> type_table();

std::string type_name(int id);

// Whether ggml_quantize_chunk writes the type. ggml keeps no such list, but it has a decoder for exactly
// these types and F32; a test asks the encoder itself.
bool has_encoder(int id);

// Whether importances change the bytes, found by encoding one row with two opposite sets of them.
bool uses_imatrix(int id);

// Builds the tables that IQ1, IQ2 and IQ3 need, each once per process, several at a time on n_threads.
void prepare_encoders(const std::vector<int>& ids, int n_threads);

}  // namespace mqn
