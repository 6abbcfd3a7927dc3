#include "upstream.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>

#include "backend.hpp"
#include "llama-cpp.h"
#include "llama-ext.h"
#include "llama.h"
#include "types.hpp"

namespace mqn {
namespace {

// llama_model_quantize has neither progress nor cancel: its log lines serve for both. A line that starts a
// tensor looks like "[   3/  99] blk.0.attn_k.weight - [...], type = bf16, ".
class QuantizeLog : public LogSink {
 public:
  explicit QuantizeLog(Monitor& monitor) : monitor_(monitor) {}

  void write(ggml_log_level /*level*/, const char* text) override {
    int i = 0;
    int n = 0;
    if (std::sscanf(text, "[%d/%d]", &i, &n) == 2) {
      monitor_.set_total(static_cast<uint64_t>(n));
      monitor_.set_done(static_cast<uint64_t>(i - 1));
      monitor_.check();  // upstream's own handler catches this and gives up
    }
    on_text(text);
  }

 protected:
  virtual void on_text(const char* /*text*/) {}

 private:
  Monitor& monitor_;
};

// In a dry run a tensor's two messages are the line above and "size = a MiB -> b MiB (q4_K)", or
// "size = a MiB" where it keeps its type.
class DryRunLog : public QuantizeLog {
 public:
  using QuantizeLog::QuantizeLog;
  std::map<std::string, int> types;

 protected:
  void on_text(const char* text) override {
    const std::string line = text;
    const size_t type_at = line.find("], type = ");
    const size_t name_at = line.find("] ");
    if (line[0] == '[' && type_at != std::string::npos) {
      const size_t name_end = line.find(" - [", name_at);
      name_ = line.substr(name_at + 2, name_end - name_at - 2);
      name_.erase(name_.find_last_not_of(' ') + 1);
      const size_t start = line.find_first_not_of(' ', type_at + std::strlen("], type = "));
      types[name_] = type_called(line.substr(start, line.find(',', start) - start));
    } else if (line.compare(0, 7, "size = ") == 0 && line.find("->") != std::string::npos) {
      const size_t open = line.rfind('(');
      types[name_] = type_called(line.substr(open + 1, line.rfind(')') - open - 1));
    }
  }

 private:
  static int type_called(const std::string& name) {
    for (const TypeInfo& info : type_table()) {
      if (name == ggml_type_name(static_cast<ggml_type>(info.id))) {
        return info.id;
      }
    }
    throw Error(ErrorKind::backend, "llama.cpp's dry run printed the unknown type " + name);
  }

  std::string name_;
};

// The patterns are regular expressions that upstream searches for: escape and anchor exact names.
std::string exact_pattern(const std::string& name) {
  std::string pattern = "^";
  for (const char c : name) {
    if (std::strchr(R"(\^$.|?*+()[]{})", c) != nullptr) {
      pattern += '\\';
    }
    pattern += c;
  }
  return pattern + "$";
}

// llama_model_quantize_params with everything it points to.
class Params {
 public:
  Params(const QuantizeOptions& options, bool dry_run) {
    for (const auto& [name, type] : options.types) {
      patterns_.push_back(exact_pattern(name));
    }
    for (size_t i = 0; i < patterns_.size(); ++i) {
      overrides_.push_back({patterns_[i].c_str(), static_cast<ggml_type>(options.types[i].second)});
    }
    overrides_.push_back({nullptr, GGML_TYPE_COUNT});
    for (const auto& [name, values] : options.imatrix) {
      imatrix_.push_back({name.c_str(), values.data(), values.size()});
    }
    imatrix_.push_back({nullptr, nullptr, 0});
    params = llama_model_quantize_default_params();
    params.ftype = static_cast<llama_ftype>(options.ftype);
    params.pure = options.pure;
    params.allow_requantize = options.allow_requantize;
    params.nthread = options.n_threads;
    params.dry_run = dry_run;
    params.max_buf_size = size_t{1} << 30U;
    if (!options.types.empty()) {
      params.tt_overrides = overrides_.data();
    }
    if (!options.imatrix.empty()) {
      params.imatrix = imatrix_.data();
    }
  }
  Params(const Params&) = delete;
  Params& operator=(const Params&) = delete;

  llama_model_quantize_params params;

 private:
  std::vector<std::string> patterns_;
  std::vector<llama_model_tensor_override> overrides_;
  std::vector<llama_model_imatrix_data> imatrix_;
};

void run(const std::string& input, const std::string& output, const Params& params, Monitor& monitor) {
  clear_recent_errors();
  if (llama_model_quantize(input.c_str(), output.c_str(), &params.params) != 0) {
    monitor.check();
    throw Error(ErrorKind::quantize, "llama.cpp's quantizer refused: " + recent_errors(),
                {{"log", recent_errors()}});
  }
}

// "Q4_K - Medium" -> "Q4_K_M": the spelling of llama-quantize (tools/quantize/quantize.cpp, QUANT_OPTIONS).
std::string preset_name(llama_ftype ftype) {
  const std::string text = llama_ftype_name(ftype);
  const std::string head = text.substr(0, text.find(' '));
  if (text.compare(0, 4, "all ") == 0) {
    return text.substr(4);
  }
  if (text.find(" mix") != std::string::npos) {
    return "IQ3_M";  // upstream calls it "IQ3_S mix"
  }
  if (text.find(" MoE") != std::string::npos) {
    return head + "_MOE";
  }
  if (text.find("Small") != std::string::npos) {
    return head + "_S";
  }
  if (text.find("Large") != std::string::npos) {
    return head + "_L";
  }
  return text.find("Medium") != std::string::npos && head != "Q2_K" ? head + "_M" : head;
}

}  // namespace

void upstream_quantize(const std::string& input, const std::string& output, const QuantizeOptions& options,
                       Monitor& monitor) {
  std::vector<int> types;
  for (const auto& [name, type] : upstream_plan(input, options, monitor)) {
    types.push_back(type);
    // Upstream exempts embedding and head from its own check, its kernels do not; they would abort the
    // process on one of its threads.
    const bool given = std::any_of(options.imatrix.begin(), options.imatrix.end(),
                                   [&, &n = name](const auto& entry) { return entry.first == n; });
    if (ggml_quantize_requires_imatrix(static_cast<ggml_type>(type)) && !given) {
      throw Error(ErrorKind::quantize, name + " cannot become " + type_name(type) + " without importances",
                  {{"tensor", name}});
    }
  }
  prepare_encoders(types, options.n_threads);
  const AbortGuard guard;
  const QuantizeLog log(monitor);
  run(input, output, Params(options, /*dry_run=*/false), monitor);
  monitor.set_done(monitor.total());
}

std::map<std::string, int> upstream_plan(const std::string& input, const QuantizeOptions& options,
                                         Monitor& monitor) {
  ensure_backend();
  const AbortGuard guard;
  DryRunLog log(monitor);
  run(input, "", Params(options, /*dry_run=*/true), monitor);
  return std::move(log.types);
}

std::vector<bool> allows_quantization(const std::string& architecture,
                                      const std::vector<TensorShape>& tensors) {
  ensure_backend();
  const AbortGuard guard;
  llama_quant_model_desc desc{};
  desc.architecture = architecture.c_str();
  desc.n_layer = 1;
  llama_model_ptr model;
  try {
    model.reset(llama_quant_model_from_metadata(&desc));
  } catch (const std::exception&) {
    model.reset();
  }
  if (!model) {
    throw Error(ErrorKind::model_load, "llama.cpp does not know the architecture '" + architecture + "'");
  }
  const llama_model_quantize_params params = llama_model_quantize_default_params();
  const std::unique_ptr<quantize_state_impl, decltype(&llama_quant_free)> state(
      llama_quant_init(model.get(), &params), llama_quant_free);
  std::vector<bool> allowed;
  for (const TensorShape& shape : tensors) {
    ggml_tensor tensor{};
    for (int d = 0; d < GGML_MAX_DIMS; ++d) {
      tensor.ne[d] = d < shape.n_dims ? 2 : 1;
    }
    ggml_set_name(&tensor, shape.name.c_str());
    allowed.push_back(llama_quant_tensor_allows_quantization(state.get(), &tensor));
  }
  return allowed;
}

std::vector<Preset> presets() {
  std::vector<Preset> found;
  for (int id = 0; id < 256; ++id) {
    const auto ftype = static_cast<llama_ftype>(id);
    const ggml_type type = llama_ftype_get_default_type(ftype);
    if (type != GGML_TYPE_COUNT) {
      found.push_back({id, preset_name(ftype), static_cast<int>(type)});
    }
  }
  return found;
}

}  // namespace mqn
