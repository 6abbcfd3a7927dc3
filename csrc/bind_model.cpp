#include <limits>
#include <set>

#include "binding.hpp"

#include "covariance.hpp"
#include "llama.h"
#include "graph_hooks.hpp"
#include "logit_scorer.hpp"
#include "model.hpp"

namespace mqn {
namespace {

std::shared_ptr<Model> load(const std::vector<std::string>& paths, int n_gpu_layers,
                            const std::vector<std::string>& devices, bool extra_buffers, int n_threads,
                            const py::object& progress) {
  LoadOptions options;
  options.paths = paths;
  options.n_gpu_layers = n_gpu_layers;
  options.devices = devices;
  options.extra_buffers = extra_buffers;
  options.n_threads = n_threads;
  std::shared_ptr<Model> model;
  Monitor monitor;
  run_monitored(monitor, progress, [&] { model = std::make_shared<Model>(options, monitor); });
  return model;
}

py::dict vocab_info(const Model& model) {
  const llama_vocab* vocab = model.vocab();
  char description[128] = "";
  llama_model_desc(model.handle(), description, sizeof(description));
  py::list unknown;
  const bool has_tokens = llama_vocab_type(vocab) != LLAMA_VOCAB_TYPE_NONE;
  for (llama_token token = 0; has_tokens && token < model.n_vocab(); ++token) {
    if ((llama_vocab_get_attr(vocab, token) & LLAMA_TOKEN_ATTR_UNKNOWN) != 0) {
      unknown.append(token);
    }
  }
  return py::dict(
      py::arg("n_vocab") = model.n_vocab(), py::arg("bos") = llama_vocab_bos(vocab),
      py::arg("eos") = llama_vocab_eos(vocab), py::arg("add_bos") = llama_vocab_get_add_bos(vocab),
      py::arg("add_eos") = llama_vocab_get_add_eos(vocab), py::arg("unknown") = py::tuple(unknown),
      py::arg("n_ctx_train") = llama_model_n_ctx_train(model.handle()),
      py::arg("n_layer") = llama_model_n_layer(model.handle()),
      py::arg("n_embd") = llama_model_n_embd(model.handle()),
      py::arg("description") = std::string(description));
}

void check_positions(const TokenArray& tokens, int64_t first, int64_t last) {
  if (first < 0 || first >= last || last > tokens.size()) {
    throw Error(ErrorKind::shape,
                "expected 0 <= first < last <= " + std::to_string(tokens.size()) + " positions");
  }
}

void check_tokens(const TokenArray& tokens, const Model& model) {
  for (py::ssize_t i = 0; i < tokens.size(); ++i) {
    if (tokens.data()[i] < 0 || tokens.data()[i] >= model.n_vocab()) {
      throw Error(ErrorKind::shape, "token " + std::to_string(tokens.data()[i]) +
                                        " is not in the vocabulary of " + std::to_string(model.n_vocab()));
    }
  }
}

// Where logits go: the array, or null for None, which leaves them where last_logits() finds them.
float* logit_rows(const Model& model, int64_t first, int64_t last, const py::object& given) {
  if (given.is_none()) {
    return nullptr;
  }
  auto out = given.cast<py::array>();
  const size_t n_bytes = sizeof(float) * static_cast<size_t>((last - first) * model.n_vocab());
  return static_cast<float*>(output_bytes(out, n_bytes, "logits"));
}

void logits(Model& model, const TokenArray& tokens, int64_t first, int64_t last, const py::object& out,
            const py::object& progress, LogitScorer* scorer) {
  check_positions(tokens, first, last);
  check_tokens(tokens, model);
  const int32_t* ids = tokens.data();
  float* rows = logit_rows(model, first, last, out);

  Monitor monitor;
  run_monitored(monitor, progress,
                [&] { model.logits(ids, tokens.size(), first, last, rows, scorer, monitor); });
}

std::shared_ptr<Trace> trace(Model& model, const TokenArray& tokens, int64_t first, int64_t last,
                             const std::vector<int>& layers, const py::object& out,
                             const py::object& progress, LogitScorer* scorer) {
  check_positions(tokens, first, last);
  check_tokens(tokens, model);
  const int32_t* ids = tokens.data();
  float* rows = logit_rows(model, first, last, out);

  auto kept = std::make_shared<Trace>();
  Monitor monitor;
  run_monitored(monitor, progress,
                [&] { *kept = model.trace(ids, tokens.size(), first, last, layers, rows, scorer, monitor); });
  return kept;
}

std::shared_ptr<Trace> advance(Model& model, const Trace& trace, int layer, int until,
                               const py::object& progress) {
  auto kept = std::make_shared<Trace>();
  Monitor monitor;
  run_monitored(monitor, progress, [&] { *kept = model.advance(trace, layer, until, monitor); });
  return kept;
}

bool resume(Model& model, const Trace& trace, int layer, const py::object& out, const py::object& progress,
            bool is_own, LogitScorer* scorer) {
  float* rows = logit_rows(model, trace.first, trace.last, out);
  bool restarted = false;
  Monitor monitor;
  run_monitored(monitor, progress,
                [&] { restarted = model.resume(trace, layer, is_own, rows, scorer, monitor); });
  return restarted;
}

// Sums as Python keeps them: name -> (sums of squares, sums, counts).
std::map<std::string, Activations> sums_from(const py::dict& kept) {
  std::map<std::string, Activations> sums;
  for (const auto& [name, arrays] : kept) {
    const auto parts = py::cast<py::tuple>(arrays);
    const auto squares = py::cast<py::array_t<float, py::array::c_style>>(parts[0]);
    const auto signed_sums = py::cast<py::array_t<double, py::array::c_style>>(parts[1]);
    const auto counts = py::cast<py::array_t<int64_t, py::array::c_style>>(parts[2]);
    if (squares.ndim() != 2 || signed_sums.size() != squares.size() || counts.size() != squares.shape(0)) {
      throw Error(ErrorKind::shape, "sums of activations do not fit together");
    }
    sums[py::cast<std::string>(name)] = {squares.shape(0),
                                         squares.shape(1),
                                         {squares.data(), squares.data() + squares.size()},
                                         {signed_sums.data(), signed_sums.data() + signed_sums.size()},
                                         {counts.data(), counts.data() + counts.size()}};
  }
  return sums;
}

// The sums with those of the chunks from ``first`` on added, and the chunk reached after ``seconds``.
py::tuple activations_until(Model& model, const TokenArray& chunks, bool process_output, int64_t first,
                            double seconds, const py::dict& kept, const py::object& progress,
                            bool sums_on_device) {
  if (chunks.ndim() != 2 || chunks.size() == 0) {
    throw Error(ErrorKind::shape, "expected tokens of shape (n_chunks, n_ctx)");
  }
  check_tokens(chunks, model);
  const int32_t* ids = chunks.data();
  const auto n_chunks = static_cast<int64_t>(chunks.shape(0));
  const auto n_ctx = static_cast<int64_t>(chunks.shape(1));

  std::map<std::string, Activations> sums = sums_from(kept);
  int64_t done = 0;
  Monitor monitor;
  run_monitored(monitor, progress, [&] {
    done = model.activations(ids, n_chunks, n_ctx, process_output, sums_on_device, first, seconds, sums,
                             monitor);
  });

  py::dict result;
  for (const auto& [name, a] : sums) {
    const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(a.n_slices),
                                         static_cast<py::ssize_t>(a.n_per_row)};
    result[name.c_str()] = py::make_tuple(py::array_t<float>(shape, a.sum_squares.data()),
                                          py::array_t<double>(shape, a.sums.data()),
                                          py::array_t<int64_t>(shape[0], a.counts.data()));
  }
  return py::make_tuple(result, done);
}

py::object activations(Model& model, const TokenArray& chunks, bool process_output,
                       const py::object& progress, bool sums_on_device) {
  const double no_end = std::numeric_limits<double>::infinity();
  return activations_until(model, chunks, process_output, 0, no_end, py::dict(), progress, sums_on_device)[0];
}

// name -> (sums, upper triangles of its groups; tokens seen; columns of a group), and whose input each weight
// shares.
py::tuple covariances(Model& model, const TokenArray& chunks, const std::set<std::string>& names,
                      int64_t columns, int64_t max_own_bytes, const py::object& progress) {
  if (chunks.ndim() != 2 || chunks.size() == 0 || columns <= 0) {
    throw Error(ErrorKind::shape, "expected tokens of shape (n_chunks, n_ctx), and groups of columns");
  }
  check_tokens(chunks, model);
  const int32_t* ids = chunks.data();
  const auto n_chunks = static_cast<int64_t>(chunks.shape(0));
  const auto n_ctx = static_cast<int64_t>(chunks.shape(1));

  CovarianceCollector collector(names, columns, max_own_bytes, model.threads());
  Monitor monitor;
  run_monitored(monitor, progress, [&] { model.covariances(ids, n_chunks, n_ctx, collector, monitor); });

  py::dict found;
  for (auto& [name, moments] : collector.take()) {
    const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(moments.n_slices),
                                         static_cast<py::ssize_t>(moments.groups.total())};
    const py::array_t<int64_t> counts(shape[0], moments.counts.data());
    // The sums of a large model fill memory once, not twice.
    auto kept = std::make_unique<std::vector<float>>(std::move(moments.sums));
    const py::capsule owner(kept.get(), [](void* p) { delete static_cast<std::vector<float>*>(p); });
    const float* sums = kept.release()->data();
    found[name.c_str()] = py::make_tuple(py::array_t<float>(shape, sums, owner), counts,
                                         moments.groups.n_per_row, moments.groups.columns);
  }
  return py::make_tuple(found, collector.owners());
}

std::shared_ptr<Variant> encode(Model& model, const std::string& name, int type, const py::object& imatrix,
                                const py::object& progress) {
  const ggml_type checked = checked_type(type);
  int64_t n_weights = 0;
  if (!imatrix.is_none()) {
    for (const TensorRecord& t : model.tensors()) {
      if (t.name == name) {
        n_weights =
            t.shape[0] * (t.shape.size() > 2 ? t.shape[2] : 1) * (t.shape.size() > 3 ? t.shape[3] : 1);
      }
    }
  }
  // A name that the model lacks is refused as such below, before the importances count.
  const float* weights = n_weights == 0 ? nullptr : optional_floats(imatrix, n_weights, "imatrix");

  std::shared_ptr<Variant> variant;
  Monitor monitor;
  run_monitored(monitor, progress, [&] { variant = model.encode(name, checked, weights, monitor); });
  return variant;
}

std::shared_ptr<Variant> variant(Model& model, const std::string& name, int type, const BlockArray& blocks) {
  const ggml_type checked = checked_type(type);
  const auto size = static_cast<size_t>(blocks.nbytes());
  const void* data = input_bytes(blocks, size, "blocks");

  const py::gil_scoped_release no_gil;
  return model.variant(name, checked, data, size);
}

}  // namespace

void bind_model(py::module_& m) {
  py::class_<Variant, std::shared_ptr<Variant>>(m, "Variant", py::is_final())
      .def_property_readonly("name", &Variant::name)
      .def_property_readonly("type", [](const Variant& v) { return static_cast<int>(v.type()); })
      .def_property_readonly("size_bytes", &Variant::size_bytes);

  m.def(
      "restart_layers",
      [](const std::vector<std::string>& paths) {
        std::set<int> layers;
        Monitor monitor;
        run_monitored(monitor, py::none(), [&] { layers = restart_layers(paths); });
        return std::vector<int>(layers.begin(), layers.end());
      },
      py::arg("paths"));

  py::class_<Trace, std::shared_ptr<Trace>>(m, "Trace", py::is_final())
      .def(py::init([](const TokenArray& tokens, int64_t first, int64_t last) {
             check_positions(tokens, first, last);
             Trace trace;
             trace.tokens.assign(tokens.data(), tokens.data() + tokens.size());
             trace.first = first;
             trace.last = last;
             return std::make_shared<Trace>(std::move(trace));
           }),
           py::arg("tokens"), py::arg("first"), py::arg("last"))
      .def_property_readonly("size_bytes", &Trace::size_bytes)
      .def_property_readonly("layers", [](const Trace& trace) {
        std::vector<int> layers;
        for (const auto& layer : trace.inputs) {
          layers.push_back(layer.first);
        }
        return layers;
      });

  py::class_<LogitScorer, std::shared_ptr<LogitScorer>>(m, "LogitScorer", py::is_final())
      .def(py::init<bool>(), py::arg("keeps"))
      .def(
          "begin",
          [](LogitScorer& scorer, const TokenArray& targets, std::shared_ptr<LogitScorer> reference,
             bool compares) {
            scorer.begin({targets.data(), targets.data() + targets.size()}, std::move(reference), compares);
          },
          py::arg("targets"), py::arg("reference"), py::arg("compares"))
      .def(
          "add_rows",
          [](LogitScorer& scorer, const py::object& given, const std::string& device) {
            const auto rows = exactly<FloatArray>(given, "logits");
            if (rows.ndim() != 2) {
              throw Error(ErrorKind::shape, "expected logits of shape (n_tokens, n_vocab)");
            }
            const py::gil_scoped_release no_gil;
            scorer.add_rows(rows.data(), rows.shape(0), rows.shape(1), device);
          },
          py::arg("rows"), py::arg("device"))
      .def("scores",
           [](const LogitScorer& scorer) {
             const LogitScorer::Scores& s = scorer.scores();
             auto array = [](const auto& values) {
               using Value = typename std::decay_t<decltype(values)>::value_type;
               return py::array_t<Value>(static_cast<py::ssize_t>(values.size()), values.data());
             };
             return py::make_tuple(array(s.nll), array(s.nll_ref), array(s.kld), array(s.p_diff),
                                   array(s.same_top));
           })
      .def_property_readonly("is_equal", &LogitScorer::is_equal)
      .def_property_readonly("size_bytes", &LogitScorer::size_bytes);
  m.attr("has_graph_hooks") = has_graph_hooks();

  py::class_<Model, std::shared_ptr<Model>>(m, "Model", py::is_final())
      .def(py::init(&load), py::arg("paths"), py::arg("n_gpu_layers"), py::arg("devices"),
           py::arg("extra_buffers"), py::arg("n_threads"), py::arg("progress"))
      .def("tensors",
           [](const Model& model) {
             py::list list;
             for (const TensorRecord& t : model.tensors()) {
               list.append(py::dict(py::arg("name") = t.name, py::arg("type") = t.type,
                                    py::arg("shape") = t.shape, py::arg("buffer") = t.buffer));
             }
             return list;
           })
      .def("info", &vocab_info)
      .def("logits_device", &Model::logits_device)
      .def(
          "tokenize",
          [](const Model& model, const py::bytes& text, bool add_special, bool parse_special) {
            const std::string utf8 = text;
            std::vector<int32_t> tokens;
            {
              const py::gil_scoped_release no_gil;
              tokens = model.tokenize(utf8, add_special, parse_special);
            }
            return py::array_t<int32_t>(static_cast<py::ssize_t>(tokens.size()), tokens.data());
          },
          py::arg("text"), py::arg("add_special"), py::arg("parse_special"))
      .def("piece",
           [](const Model& model, int32_t token) {
             if (token < 0 || token >= model.n_vocab()) {
               throw Error(ErrorKind::shape, "token " + std::to_string(token) + " is not in the vocabulary");
             }
             return py::bytes(model.piece(token));
           })
      .def("logits", &logits, py::arg("tokens"), py::arg("first"), py::arg("last"), py::arg("out"),
           py::arg("progress"), py::arg("scorer") = py::none())
      .def("trace", &trace, py::arg("tokens"), py::arg("first"), py::arg("last"), py::arg("layers"),
           py::arg("out"), py::arg("progress"), py::arg("scorer") = py::none())
      .def("resume", &resume, py::arg("trace"), py::arg("layer"), py::arg("out"), py::arg("progress"),
           py::arg("is_own") = false, py::arg("scorer") = py::none())
      .def("advance", &advance, py::arg("trace"), py::arg("layer"), py::arg("until"), py::arg("progress"))
      .def("last_logits",
           [](const py::object& self) {
             const auto& model = self.cast<const Model&>();
             if (model.last_logits() == nullptr) {
               throw Error(ErrorKind::backend, "nothing was evaluated yet");
             }
             // A view: the array keeps the model, and the next evaluation overwrites it.
             const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(model.n_last_logits()),
                                                  static_cast<py::ssize_t>(model.n_vocab())};
             py::array_t<float> rows(shape, model.last_logits(), self);
             py::detail::array_proxy(rows.ptr())->flags &= ~py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
             return rows;
           })
      .def("activations", &activations, py::arg("chunks"), py::arg("process_output"), py::arg("progress"),
           py::arg("sums_on_device") = false)
      .def("activations_until", &activations_until, py::arg("chunks"), py::arg("process_output"),
           py::arg("first"), py::arg("seconds"), py::arg("sums"), py::arg("progress"),
           py::arg("sums_on_device") = false)
      .def("covariances", &covariances, py::arg("chunks"), py::arg("names"), py::arg("columns"),
           py::arg("max_own_bytes"), py::arg("progress"))
      .def("encode", &encode, py::arg("name"), py::arg("type"), py::arg("imatrix"), py::arg("progress"))
      .def("variant", &variant, py::arg("name"), py::arg("type"), py::arg("blocks"))
      .def("swap", &Model::swap, py::arg("variants"))
      .def("restore", &Model::restore, py::arg("names"))
      .def("swapped", &Model::swapped)
      .def(
          "set_cache",
          [](Model& model, int k, int v) { model.set_cache({checked_type(k), checked_type(v)}); },
          py::arg("k"), py::arg("v"))
      .def("set_threads", &Model::set_threads, py::arg("n_threads"));
}

}  // namespace mqn
