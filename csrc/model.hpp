// A loaded llama.cpp model that can be evaluated chunk by chunk and whose tensors can be exchanged.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "ggml-cpp.h"
#include "llama-cpp.h"
#include "monitor.hpp"
#include "quant.hpp"
#include "restart.hpp"

namespace mqn {

struct LoadOptions {
  std::vector<std::string> paths;    // one GGUF, or all parts of a split one in order
  int n_gpu_layers = 0;              // layers on GPU devices; negative: all
  std::vector<std::string> devices;  // names of the GPU devices to use; empty: all
  bool extra_buffers = false;        // repack weights as stock llama.cpp does; such tensors cannot be swapped
  int n_threads = 1;
};

// Types of the keys and values that a context keeps.
struct CacheTypes {
  ggml_type k = GGML_TYPE_F16;
  ggml_type v = GGML_TYPE_F16;
};

struct TensorRecord {
  std::string name;
  int type;
  std::vector<int64_t> shape;  // GGUF order, row length first
  std::string buffer;          // the buffer type that holds it
};

// One tensor's weights in another type, in memory of the device that computes with it.
class Variant {
 public:
  // places: every tensor of that name in the model; a tied embedding may have a copy on the device.
  Variant(std::string name, ggml_type type, const std::vector<ggml_tensor*>& places);

  const std::string& name() const { return name_; }
  ggml_type type() const { return type_; }
  size_t size_bytes() const { return size_bytes_; }
  // One tensor for each place, in the same order.
  const std::vector<ggml_tensor*>& tensors() const { return tensors_; }
  // Host memory to encode into, or null where there are several places or none that can be addressed.
  void* host_data() const;
  void upload(const void* bytes);

 private:
  std::string name_;
  ggml_type type_;
  size_t size_bytes_ = 0;
  std::vector<ggml_context_ptr> contexts_;
  std::vector<ggml_backend_buffer_ptr> buffers_;
  std::vector<ggml_tensor*> tensors_;
};

// Sums over the activations that entered one weight: one slice per expert (or per matrix of a 3-D weight).
struct Activations {
  int64_t n_slices = 0;
  int64_t n_per_row = 0;
  std::vector<float> sum_squares;  // n_slices * n_per_row; float32 as upstream's, so that they are equal
  std::vector<double> sums;        // n_slices * n_per_row, signed
  std::vector<int64_t> counts;     // n_slices: tokens seen
};

class CovarianceCollector;
class LogitScorer;

// Not thread safe: one call at a time.
class Model {
 public:
  // Throws model_load (with upstream's last words), cancelled. Progress counts per mille of the weights.
  Model(const LoadOptions& options, Monitor& monitor);
  ~Model();

  std::vector<TensorRecord> tensors() const;
  const llama_vocab* vocab() const;
  const llama_model* handle() const { return model_.get(); }
  int64_t n_vocab() const;
  // The device whose memory holds the weights that logits are computed with; empty for the host's.
  std::string logits_device() const;

  // Token ids of UTF-8 text, as upstream's common_tokenize.
  std::vector<int32_t> tokenize(const std::string& text, bool add_special, bool parse_special) const;
  std::string piece(int32_t token) const;

  // Runs one sequence of n tokens from an empty cache and writes the logits of positions first..last-1
  // (last - first rows of n_vocab floats) to out, unless that is null. n must not exceed n_ctx of the largest
  // call so far or a new context is made. With a scorer, they go there and nowhere else. Throws backend,
  // cancelled.
  void logits(const int32_t* tokens, int64_t n, int64_t first, int64_t last, float* out, LogitScorer* scorer,
              Monitor& monitor);
  // The rows of the last evaluation where llama.cpp keeps them, until the next one; null if there are none.
  const float* last_logits() const { return last_logits_; }
  int64_t n_last_logits() const { return n_last_logits_; }

  // The same, keeping the hidden states that enter these layers, so that resume() can start there.
  Trace trace(const int32_t* tokens, int64_t n, int64_t first, int64_t last, const std::vector<int>& layers,
              float* out, LogitScorer* scorer, Monitor& monitor);
  // Logits of the trace's tokens with what is swapped in now, computed from `layer` on: the bits of a whole
  // pass, as long as no layer reads what an earlier one left elsewhere than in its output. Where the graph
  // cannot be cut there, or a swapped tensor is read before, the whole pass is made. Returns whether it was
  // cut.
  // is_own: the trace was computed with what is swapped in now, so that this may also be read before.
  bool resume(const Trace& trace, int layer, bool is_own, float* out, LogitScorer* scorer, Monitor& monitor);

  // The states that enter layer `until` with what is swapped in now, computed from `layer` on (0: from the
  // tokens) and no further, so that one layer's weights after the other are needed in memory. Throws backend
  // where the graph cannot be cut there.
  Trace advance(const Trace& trace, int layer, int until, Monitor& monitor);

  // Runs chunks of n_ctx tokens each and sums the squared activations entering every weight that upstream's
  // imatrix tool collects (blk.*, experts), and with process_output the head's, also where it is tied.
  // Sums of what lies on a device are taken there, in its order; sums_on_device: wherever it lies.
  // Begins at chunk ``first``, where a batch must begin, adds to ``sums``, and ends at the first batch after
  // ``seconds``: however the work is cut, the sums are those of a single run. Returns the chunk it has come
  // to.
  int64_t activations(const int32_t* tokens, int64_t n_chunks, int64_t n_ctx, bool process_output,
                      bool sums_on_device, int64_t first, double seconds,
                      std::map<std::string, Activations>& sums, Monitor& monitor);

  // Runs chunks as activations() does, for a collector.
  void covariances(const int32_t* tokens, int64_t n_chunks, int64_t n_ctx, CovarianceCollector& collector,
                   Monitor& monitor);

  // Encodes the tensor's original weights as type. Throws as quantize() does.
  std::shared_ptr<Variant> encode(const std::string& name, ggml_type type, const float* imatrix,
                                  Monitor& monitor);
  // The same from blocks that were encoded before.
  std::shared_ptr<Variant> variant(const std::string& name, ggml_type type, const void* bytes, size_t size);

  // From now on the model computes with the variants; tensors not listed keep what they have. Where the head
  // of a model is its embedding, a variant of token_embd.weight serves both, unless one of output.weight, a
  // name that such a model's file does not have, is swapped in as well.
  void swap(const std::vector<std::shared_ptr<Variant>>& variants);
  // Back to the original weights, bit for bit. An empty list restores everything.
  void restore(const std::vector<std::string>& names);
  std::vector<std::string> swapped() const;

  // The original weights of a tensor as they lie in memory; device memory is copied into `copy` first.
  Matrices original(const std::string& name, std::vector<uint8_t>& copy) const;

  void set_threads(int n) { n_threads_ = n; }
  // From the next evaluation on. Quantized values need flash attention; a model that cannot throws then.
  void set_cache(const CacheTypes& types);
  int threads() const { return n_threads_; }

 private:
  struct Decoder;
  // The part of a ggml_tensor that a swap replaces.
  struct Storage {
    ggml_type type;
    size_t nb[GGML_MAX_DIMS];
    void* data;
    ggml_backend_buffer* buffer;
    void* extra;
  };
  static Storage storage_of(const ggml_tensor* tensor);
  static void set_storage(ggml_tensor* tensor, const Storage& storage);

  void split_head();
  std::vector<ggml_tensor*> places(const std::string& name) const;
  std::shared_ptr<Variant> new_variant(const std::string& name, ggml_type type) const;
  Decoder& decoder(int64_t n_tokens);

  llama_model_ptr model_;
  std::unique_ptr<Decoder> decoder_;
  const float* last_logits_ = nullptr;  // of decoder_
  int64_t n_last_logits_ = 0;
  std::multimap<std::string, ggml_tensor*> by_name_;
  ggml_context_ptr head_context_;
  ggml_tensor* head_ = nullptr;                // of a model whose head is its embedding; else null
  std::map<ggml_tensor*, Storage> originals_;  // of the tensors swapped now
  std::map<std::string, std::shared_ptr<Variant>> active_;
  bool extra_buffers_;
  bool on_gpu_;
  CacheTypes cache_;
  int n_threads_;
};

}  // namespace mqn
