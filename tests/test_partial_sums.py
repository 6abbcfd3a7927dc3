"""An importance matrix that is interrupted, whenever that is, ends with the bytes of one that is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import RecordingMonitor
from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.core.model import ActivationSums, Model
from mqnative.errors import ShapeError
from mqnative.formats.imatrix import write_imatrix
from mqnative.measure import partial_sums
from mqnative.measure.corpus import Corpus, cut
from mqnative.measure.imatrix import collect_imatrix
from mqnative.measure.partial_sums import PartialSums
from tiny_models import TinyModels

N_CTX = 64
# Of 2048 tokens each, as upstream's tool has them.
BATCH = 2048 // N_CTX


def corpus_of(model: Model, n_batches: float) -> Corpus:
    text = CALIB_TEXT.read_text(encoding="utf-8")
    return cut(model, text, n_ctx=N_CTX).head(int(BATCH * n_batches))


def in_pieces(model: Model, corpus: Corpus, stops: set[int]) -> dict[str, ActivationSums]:
    """Batch by batch; at ``stops`` the sums go through nothing but arrays, as through a file."""
    sums: dict[str, ActivationSums] = {}
    done = 0
    while done < corpus.n_chunks:
        seconds = 0.0 if done in stops else 1e9
        sums, done = model.activations_until(corpus.inputs, done, seconds, sums)
    return sums


def same(one: dict[str, ActivationSums], other: dict[str, ActivationSums]) -> bool:
    return list(one) == list(other) and all(
        getattr(one[name], part).tobytes() == getattr(other[name], part).tobytes()
        for name in one
        for part in ("sum_squares", "sums", "counts")
    )


@pytest.mark.parametrize("kind", ["dense", "moe"])
def test_sums_cut_at_any_batch_are_those_of_one_run_to_the_bit(kind: str, tiny_models: TinyModels) -> None:
    with Model(getattr(tiny_models, kind)) as model:
        tokens = np.random.default_rng(1).integers(5, 30, (3 * BATCH + 7, N_CTX), dtype=np.int32)
        corpus = Corpus(tokens, tokens)
        whole = model.activations(corpus.inputs)
        for stops in ({0}, {BATCH}, {0, BATCH, 2 * BATCH, 3 * BATCH}):
            assert same(in_pieces(model, corpus, stops), whole)
        with pytest.raises(ShapeError, match="batch"):
            model.activations_until(corpus.inputs, 1, 0.0, {})


SCRIPT = """
import sys
from pathlib import Path
from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.core.model import Model
from mqnative.measure import partial_sums
from mqnative.measure.corpus import cut
from mqnative.measure.imatrix import collect_imatrix

partial_sums._SHARE = 1.0
with Model(MODEL) as model:
    corpus = cut(model, CALIB_TEXT.read_text(encoding="utf-8"), n_ctx=64).head(int(sys.argv[2]))
    class Told:
        def start(self, step, total, unit): print("total", total, flush=True)
        def update(self, done): print(done, flush=True)
        def finish(self): pass
    collect_imatrix(model, corpus, partial=partial_sums.PartialSums(Path(sys.argv[1]), 0.0), monitor=Told())
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_run_goes_on_and_writes_the_same_file(
    tmp_path: Path, recording_monitor: RecordingMonitor
) -> None:
    partial = PartialSums(tmp_path / "partial.npz", 0.0)
    with Model(MODEL) as model:
        corpus = corpus_of(model, 4.5)
        expected = tmp_path / "expected.gguf"
        write_imatrix(expected, collect_imatrix(model, corpus))
        for kills in (1, 2):
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(partial.path), str(corpus.n_chunks)],
                stdout=subprocess.PIPE,
                text=True,
            )
            assert process.stdout is not None
            before = partial.read()[1]
            # A report says that a batch is done; the one behind it is written down or in flight.
            for line in process.stdout:
                if not line.startswith("total") and int(line) >= 2 * BATCH:
                    break
            process.send_signal(signal.SIGKILL)
            process.communicate()
            assert partial.read()[1] >= before + BATCH, kills
        _, done = partial.read()
        assert done < corpus.n_chunks
        written = tmp_path / "written.gguf"
        write_imatrix(written, collect_imatrix(model, corpus, partial=partial, monitor=recording_monitor))
    assert recording_monitor.started[0][1] == corpus.n_chunks - done
    assert written.read_bytes() == expected.read_bytes()
    assert [p.name for p in tmp_path.glob("partial*")] == ["partial.npz"]


def test_a_finished_one_is_taken_as_it_is(tmp_path: Path, recording_monitor: RecordingMonitor) -> None:
    partial = PartialSums(tmp_path / "partial.npz")
    with Model(MODEL) as model:
        corpus = corpus_of(model, 0.5)
        first = collect_imatrix(model, corpus, partial=partial)
        again = collect_imatrix(model, corpus, partial=partial, monitor=recording_monitor)
    assert recording_monitor.started == []
    assert again.content_hash() == first.content_hash()
    partial.remove()
    assert not partial.path.exists()


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_file_only_costs_the_work(tmp_path: Path, damage: bytes | None) -> None:
    partial = PartialSums(tmp_path / "partial.npz")
    one = ActivationSums(np.ones((1, 4), np.float32), np.ones((1, 4)), np.ones(1, np.int64))
    partial.write({"a": one}, 7)
    assert partial.read()[1] == 7
    data = bytearray(partial.path.read_bytes())
    if damage is None:
        data[len(data) // 2] ^= 0xFF
    partial.path.write_bytes(bytes(data) if damage is None else damage)
    assert partial.read() == ({}, 0)


def test_a_disk_that_is_full_does_not_end_the_work(tmp_path: Path) -> None:
    partial = PartialSums(tmp_path / "missing" / "partial.npz")
    with Model(MODEL) as model:
        corpus = corpus_of(model, 0.5)
        found = collect_imatrix(model, corpus, partial=partial)
        assert found.content_hash() == collect_imatrix(model, corpus).content_hash()


def test_only_what_takes_long_is_written_down_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path))
    tokens = np.zeros((4, 512), np.int32)
    corpus = Corpus(tokens, tokens)
    assert PartialSums.of("model", 10**6, corpus, "cpu") is None
    found = PartialSums.of("model", 10**10, corpus, "cpu")
    assert found is not None
    others = [
        PartialSums.of("another", 10**10, corpus, "cpu"),
        PartialSums.of("model", 10**10, corpus.head(2), "cpu"),
        PartialSums.of("model", 10**10, corpus, "CUDA0"),
        PartialSums.of("model", 10**10, corpus, "cpu", process_output=False),
    ]
    assert len({p.path for p in (found, *others) if p is not None}) == 5
    found.write({}, 1)
    long_ago = found.path.stat().st_mtime - 2 * partial_sums._FORGOTTEN_S
    os.utime(found.path, (long_ago, long_ago))
    again = PartialSums.of("model", 10**10, corpus, "cpu")
    assert again == found
    assert not found.path.exists()
