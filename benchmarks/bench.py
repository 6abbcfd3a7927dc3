"""What every row of the engine benchmark needs: a model, a text, upstream's tools, and a stopwatch."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from mqnative.build.plan import ModelTensor, model_tensors
from mqnative.core.model import Model
from mqnative.core.presets import preset_types
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import read_imatrix, write_imatrix
from mqnative.jobs.candidates import Importances, candidate_types, default_targets, importances_of
from mqnative.measure.corpus import Corpus, read_corpus, read_text
from mqnative.measure.imatrix import collect_imatrix
from upstream_tools import N_CTX, Tools

# Bars differ between models that fit in the cache and real ones.
_SMALL_MODEL_WEIGHTS = 100_000_000
# A side that would run longer is measured on every SAMPLED_STEP-th layer.
LONG_S = 600.0
SAMPLED_STEP = 6
_LAYER = re.compile(r"blk\.(\d+)\.")


@dataclass(frozen=True)
class Row:
    """One line of the table; `passed` is None for a row that was skipped."""

    name: str
    ours: str
    theirs: str
    ratio: str
    bar: str
    passed: bool | None
    note: str


def faster(name: str, ours_s: float, theirs_s: float, bar: float, note: str) -> Row:
    """Passes if theirs takes at least ``bar`` times as long as ours."""
    ratio = theirs_s / ours_s
    return Row(name, f"{ours_s:.3f}", f"{theirs_s:.3f}", f"{ratio:.2f}", f">= {bar:g}", ratio >= bar, note)


def within(name: str, ours: float, limit: float, bar: float, note: str) -> Row:
    """Passes if ours is at most ``bar`` times the limit."""
    ratio = ours / limit
    return Row(name, f"{ours:.3f}", f"{limit:.3f}", f"{ratio:.3f}", f"<= {bar:g}", ratio <= bar, note)


def between(name: str, ours: float, low: float, high: float, note: str) -> Row:
    """Passes if ours lies between the two."""
    return Row(name, f"{ours:.4f}", "", "", f"{low:g} to {high:g}", low <= ours <= high, note)


def skipped(name: str, why: str) -> Row:
    """A row that could not be measured."""
    return Row(name, "", "", "", "", None, why)


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def timed(run: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def race(repeat: int, *runs: Callable[[], float]) -> list[float]:
    """The median of each run's own seconds, the runs taking turns."""
    found = [[run() for run in runs] for _ in range(repeat)]
    return [median(column) for column in zip(*found, strict=True)]


@dataclass(frozen=True)
class Layers:
    """The tensors that a long measurement is restricted to.

    Attributes:
        inner: of the sampled layers; what they take counts ``scale`` times.
        outer: those of no layer, counted once.
        step: 1 for every layer.
    """

    inner: tuple[str, ...]
    outer: tuple[str, ...]
    scale: float
    step: int

    @classmethod
    def of(cls, names: Iterable[str], estimate_s: float) -> Layers:
        """Every layer, or every SAMPLED_STEP-th if all would take too long."""
        step = SAMPLED_STEP if estimate_s > LONG_S else 1
        by_layer: dict[int, list[str]] = {}
        for name in names:
            found = _LAYER.match(name)
            by_layer.setdefault(int(found[1]) if found else -1, []).append(name)
        outer = by_layer.pop(-1, [])
        chosen = [layer for layer in sorted(by_layer) if layer % step == 0]
        inner = [name for layer in chosen for name in by_layer[layer]]
        return cls(tuple(inner), tuple(outer), len(by_layer) / max(1, len(chosen)), step)

    @property
    def note(self) -> str:
        """What to say of it in the row."""
        return "all layers" if self.step == 1 else f"every {self.step}th layer, scaled to all"


@dataclass(frozen=True)
class Bench:
    """One model under measurement, loaded, with the first chunks of a text.

    Attributes:
        text: a file of just these chunks, so that neither side tokenizes more.
        folder: temporary; files made for later rows lie in it.
    """

    model_path: Path
    model: Model
    file: GGUFFile
    text: Path
    corpus: Corpus
    tools: Tools
    folder: Path
    repeat: int

    @property
    def n_threads(self) -> int:
        return self.tools.n_threads

    @property
    def n_chunks(self) -> int:
        return self.corpus.n_chunks

    @property
    def is_small(self) -> bool:
        return self.file.n_weights < _SMALL_MODEL_WEIGHTS

    def bar(self, small: float, real: float) -> float:
        """The bar for a model of this size."""
        return small if self.is_small else real

    def path(self, name: str) -> Path:
        """A place for a temporary file."""
        return self.folder / name

    def read(self) -> Corpus:
        """The chunks once more, from the file: what upstream's tools do in every run."""
        return read_corpus(self.model, self.text, n_ctx=N_CTX).head(self.n_chunks)

    @cached_property
    def imatrix(self) -> Path:
        """An imatrix file with the head in it."""
        say("preparing an imatrix")
        path = self.path("imatrix.gguf")
        write_imatrix(path, collect_imatrix(self.model, self.corpus), force=True)
        return path

    @cached_property
    def tensors(self) -> dict[str, ModelTensor]:
        return model_tensors(self.file)

    @cached_property
    def importances(self) -> Importances:
        return importances_of(self.tensors, read_imatrix(self.imatrix))

    @cached_property
    def candidates(self) -> dict[str, tuple[str, ...]]:
        """Every type that each tensor could get."""
        return candidate_types(self.tensors, self.importances, default_targets())

    @cached_property
    def base(self) -> Path:
        """The reference's log-probabilities as llama-perplexity stores them."""
        say("preparing upstream's base file")
        path = self.path("base.kld")
        self.tools.base(self.model_path, self.text, self.n_chunks, path)
        return path

    def preset_file(self, name: str) -> Path:
        """A file of this preset, made by upstream once."""
        path = self.path(f"{name}.gguf")
        if not path.exists():
            say(f"preparing {name}")
            self.tools.preset(self.model_path, path, name, self.imatrix)
        return path

    def preset_types(self, name: str) -> dict[str, str]:
        """A preset as a mix."""
        return preset_types(self.model_path, name, with_imatrix=True)


@contextmanager
def opened(model_path: Path, text: Path, n_chunks: int, tools: Tools, repeat: int) -> Iterator[Bench]:
    """Load a model and cut its text."""
    with (
        TemporaryDirectory(prefix="mqnative-bench-") as name,
        GGUFFile.open(model_path) as file,
        Model(model_path, n_threads=tools.n_threads) as model,
    ):
        folder = Path(name)
        piece = _beginning(model, text, n_chunks * N_CTX, folder / "text.txt")
        corpus = read_corpus(model, piece, n_ctx=N_CTX).head(n_chunks)
        yield Bench(model_path, model, file, piece, corpus, tools, folder, repeat)


def _beginning(model: Model, text: Path, n_tokens: int, output: Path) -> Path:
    """The beginning of a text, little longer than so many tokens."""
    whole = read_text(text)
    length = 2 * n_tokens
    while length < len(whole) and len(model.tokenize(whole[:length])) < n_tokens + N_CTX // 8:
        length += length // 8
    output.write_bytes(whole[:length].encode("utf-8", errors="surrogateescape"))
    return output
