#include "binding.hpp"

#include "divergence.hpp"

namespace mqn {
namespace {

LogitRows logit_rows(const FloatArray& logits, const TokenArray& targets) {
  if (logits.ndim() != 2 || targets.ndim() != 1 || logits.shape(0) != targets.shape(0) ||
      logits.shape(1) < 1) {
    throw Error(ErrorKind::shape, "expected logits of shape (n_tokens, n_vocab) and one target for each row");
  }
  const LogitRows rows{logits.data(), targets.data(), logits.shape(0), logits.shape(1)};
  for (int64_t i = 0; i < rows.n_rows; ++i) {
    if (rows.targets[i] < 0 || rows.targets[i] >= rows.n_vocab) {
      throw Error(ErrorKind::shape, "target " + std::to_string(rows.targets[i]) +
                                        " is not a token of a vocabulary of " + std::to_string(rows.n_vocab));
    }
  }
  return rows;
}

}  // namespace

void bind_score(py::module_& m) {
  m.def(
      "score_exact",
      [](const py::object& logits_given, const py::object& targets_given, const py::object& reference,
         const py::object& norms_given, const py::object& tops_given, int n_threads) {
        const auto logits = exactly<FloatArray>(logits_given, "logits");
        const auto targets = exactly<TokenArray>(targets_given, "targets");
        const LogitRows rows = logit_rows(logits, targets);
        const float* ref = optional_floats(reference, rows.n_rows * rows.n_vocab, "reference logits");
        ReferenceRows known{ref, nullptr, nullptr};
        py::array_t<double> norms;
        py::array_t<int64_t> tops;
        if (ref != nullptr) {
          norms = exactly<py::array_t<double, py::array::c_style>>(norms_given, "reference norms");
          tops = exactly<IndexArray>(tops_given, "reference tops");
          if (norms.size() != rows.n_rows || tops.size() != rows.n_rows) {
            throw Error(ErrorKind::shape, "expected a norm and a top for each row of the reference");
          }
          known.norms = norms.data();
          known.tops = tops.data();
        }

        py::array_t<double> nll(rows.n_rows);
        py::array_t<double> nll_ref(ref == nullptr ? 0 : rows.n_rows);
        py::array_t<double> kld(ref == nullptr ? 0 : rows.n_rows);
        py::array_t<double> p_diff(ref == nullptr ? 0 : rows.n_rows);
        py::array_t<uint8_t> same_top(ref == nullptr ? 0 : rows.n_rows);
        const TokenScores out{nll.mutable_data(), nll_ref.mutable_data(), kld.mutable_data(),
                              p_diff.mutable_data(), same_top.mutable_data()};

        Monitor monitor;
        {
          const py::gil_scoped_release no_gil;
          score_exact(rows, ref == nullptr ? nullptr : &known, out, n_threads, monitor);
        }
        return py::make_tuple(nll, nll_ref, kld, p_diff, same_top);
      },
      py::arg("logits"), py::arg("targets"), py::arg("reference"), py::arg("norms"), py::arg("tops"),
      py::arg("n_threads"));

  m.def(
      "softmax_norms",
      [](const py::object& logits_given, int n_threads) {
        const auto logits = exactly<FloatArray>(logits_given, "logits");
        if (logits.ndim() != 2 || logits.shape(1) < 1) {
          throw Error(ErrorKind::shape, "expected logits of shape (n_tokens, n_vocab)");
        }
        const float* data = logits.data();
        const int64_t n_rows = logits.shape(0);
        const int64_t n_vocab = logits.shape(1);
        py::array_t<double> norms(n_rows);
        py::array_t<int64_t> tops(n_rows);
        double* norms_out = norms.mutable_data();
        int64_t* tops_out = tops.mutable_data();

        Monitor monitor;
        {
          const py::gil_scoped_release no_gil;
          softmax_norms(data, n_rows, n_vocab, norms_out, tops_out, n_threads, monitor);
        }
        return py::make_tuple(norms, tops);
      },
      py::arg("logits"), py::arg("n_threads"));

  m.def(
      "score_compat",
      [](const py::object& logits_given, const py::object& targets_given, const py::object& reference,
         int n_threads) {
        const auto logits = exactly<FloatArray>(logits_given, "logits");
        const auto targets = exactly<TokenArray>(targets_given, "targets");
        const LogitRows rows = logit_rows(logits, targets);
        const float* ref = optional_floats(reference, rows.n_rows * rows.n_vocab, "reference logits");
        if (ref == nullptr) {
          throw Error(ErrorKind::shape, "compat scores need reference logits");
        }

        py::array_t<float> nll(rows.n_rows);
        py::array_t<float> nll_base(rows.n_rows);
        py::array_t<double> kld(rows.n_rows);
        py::array_t<float> p_diff(rows.n_rows);
        py::array_t<uint8_t> same_top(rows.n_rows);
        const CompatScores out{nll.mutable_data(), nll_base.mutable_data(), kld.mutable_data(),
                               p_diff.mutable_data(), same_top.mutable_data()};

        Monitor monitor;
        {
          const py::gil_scoped_release no_gil;
          score_compat(rows, ref, out, n_threads, monitor);
        }
        return py::make_tuple(nll, nll_base, kld, p_diff, same_top);
      },
      py::arg("logits"), py::arg("targets"), py::arg("reference"), py::arg("n_threads"));

  m.def(
      "score_compat_nll",
      [](const py::object& logits_given, const py::object& targets_given, int n_threads) {
        const auto logits = exactly<FloatArray>(logits_given, "logits");
        const auto targets = exactly<TokenArray>(targets_given, "targets");
        const LogitRows rows = logit_rows(logits, targets);

        py::array_t<double> nll(rows.n_rows);
        double* out = nll.mutable_data();

        Monitor monitor;
        {
          const py::gil_scoped_release no_gil;
          score_compat_nll(rows, out, n_threads, monitor);
        }
        return nll;
      },
      py::arg("logits"), py::arg("targets"), py::arg("n_threads"));
}

}  // namespace mqn
