"""What an importance matrix covers: statistics of importances, experts never seen."""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mqnative.core.model import Model
from mqnative.formats.imatrix import Imatrix, ImatrixEntry, write_imatrix
from mqnative.measure.corpus import cut
from mqnative.measure.coverage import coverage, expert_counts, importance_statistics
from mqnative.measure.imatrix import collect_imatrix
from tiny_models import TinyModels


def entry(squares: object, counts: object) -> ImatrixEntry:
    return ImatrixEntry(np.array(squares, np.float32), np.array(counts, np.float32))


def test_statistics_of_a_known_row() -> None:
    s = importance_statistics(entry([[2, 2, 4, 8, 0, 0, 0, 0]], [2]))  # means 1 1 2 4 0 0 0 0
    assert s is not None
    assert (s.n_values, s.total, s.minimum, s.maximum, s.mean) == (8, 8.0, 0.0, 4.0, 1.0)
    assert s.std == math.sqrt((1 + 9 + 4) / 8)
    assert s.active_share == 0.5
    assert s.entropy_bits == 2 * (1 / 8) * 3 + (1 / 4) * 2 + (1 / 2) * 1
    assert s.entropy_share == s.entropy_bits / 3
    assert s.z_density == 1 / 8  # 4 lies more than one std above 1, 2 does not


def test_slices_without_data_are_left_out_of_the_statistics() -> None:
    with_gap = importance_statistics(entry([[2, 6], [9, 9], [5, 5]], [2, 0, 5]))
    assert with_gap == importance_statistics(entry([[2, 6], [5, 5]], [2, 5]))
    assert importance_statistics(entry([[1, 2], [3, 4]], [0, 0])) is None


def test_even_and_single_columns_have_the_entropies_of_their_definition() -> None:
    even = importance_statistics(entry([[0.3] * 16], [3]))
    assert even is not None
    assert (even.std, even.z_density, even.entropy_bits, even.entropy_share) == (0.0, 0.0, 4.0, 1.0)
    single, nothing = importance_statistics(entry([[5]], [1])), importance_statistics(entry([[0, 0]], [1]))
    assert single is not None
    assert nothing is not None
    assert (single.entropy_bits, single.entropy_share) == (0.0, 0.0)
    assert math.copysign(1, single.entropy_bits) == 1
    assert (nothing.entropy_bits, nothing.active_share, nothing.total) == (0.0, 0.0, 0.0)


def test_a_column_is_active_above_upstreams_threshold_in_float32() -> None:
    threshold = np.float32(1e-5)
    s = importance_statistics(entry([[threshold, np.nextafter(threshold, np.float32(1))]], [1]))
    assert s is not None
    assert s.active_share == 0.5


@settings(max_examples=60)
@given(
    values=hnp.arrays(
        np.float32, st.integers(1, 40), elements=st.floats(0, 2.0**40, width=32, allow_subnormal=False)
    )
)
def test_statistics_keep_their_bounds(values: np.ndarray) -> None:
    s = importance_statistics(entry(values[np.newaxis], [1]))
    assert s is not None
    assert s.total == pytest.approx(math.fsum(values.tolist()))
    assert s.minimum <= s.mean * (1 + 1e-12)
    assert s.mean <= s.maximum * (1 + 1e-12)
    assert 0 <= s.std <= (s.maximum - s.minimum) / 2 * (1 + 1e-9) + 1e-9 * s.maximum
    assert 0 <= s.entropy_share <= 1 + 1e-12
    assert 0 <= s.z_density <= 0.5  # Cantelli: at most 1 / (1 + 1) lies one std above the mean
    scaled = importance_statistics(entry(values[np.newaxis] * np.float32(0.5), [1]))
    assert scaled is not None
    assert (scaled.entropy_bits, scaled.z_density) == (
        pytest.approx(s.entropy_bits, abs=1e-9),
        pytest.approx(s.z_density),
    )


def test_experts_are_counted_where_slices_are_counted_apart() -> None:
    found = expert_counts(entry(np.ones((5, 2)), [4, 0, 8, 0, 100]))
    assert found is not None
    assert (found.n_experts, found.unseen) == (5, (1, 3))
    assert found.count_quantiles == (0.0, 0.0, 4.0, 8.0, 100.0)
    assert expert_counts(entry(np.ones((5, 2)), [4])) is None


def test_coverage_names_what_has_no_data() -> None:
    found = coverage(
        Imatrix(
            {
                "b": entry([[1.0]], [2]),
                "a": entry(np.ones((3, 1)), [1, 0, 0]),
                "unseen": entry([[1.0], [1.0]], [0, 0]),
            }
        ),
        expected=["b", "missing"],
    )
    assert [t.name for t in found.tensors] == ["a", "b", "unseen"]
    assert found.without_data == ("missing", "unseen")
    assert found.unseen_experts == {"a": (1, 2), "unseen": (0, 1)}


_LINE = re.compile(
    r"\s(?P<layer>\d+|-)\t(?P<tensor>\w+)\s*\t\s*(?P<total>\S+)\t\s*(?P<min>\S+)\t\s*(?P<max>\S+)"
    r"\t\s*(?P<mean>\S+)\t\s*(?P<std>\S+)\t\s*(?P<active>\S+)%\t\s*(?P<n>\d+)\t\s*(?P<entropy>\S+)"
    r"\t\s*(?P<share>\S+)%\t\s*(?P<z>\S+)%"
)


@pytest.mark.upstream
def test_statistics_are_those_that_llama_imatrix_shows(
    tiny_models: TinyModels, calib_text: str, upstream_bin: Path, tmp_path: Path
) -> None:
    with Model(tiny_models.moe, n_threads=1) as model:
        found = collect_imatrix(model, cut(model, calib_text[:3000], n_ctx=64).head(2))
    entries = dict(found.entries)
    some = entries["blk.0.ffn_up_exps.weight"]
    counts = some.counts.copy()
    counts[3] = 0
    entries["blk.0.ffn_up_exps.weight"] = ImatrixEntry(some.sum_squares, counts)
    write_imatrix(tmp_path / "i.gguf", Imatrix(entries, chunk_count=2, chunk_size=64))
    tool = [upstream_bin / "llama-imatrix", "-m", tiny_models.moe, "--in-file", tmp_path / "i.gguf"]
    shown: dict[str, re.Match[str]] = {}
    for _ in range(100):  # the tool often ends before the thread that writes its log has written
        done = subprocess.run([*map(str, tool), "--show-statistics"], check=True, capture_output=True)
        for line in map(_LINE.search, done.stderr.decode(errors="replace").splitlines()):
            if line:
                prefix = "" if line["layer"] == "-" else f"blk.{line['layer']}."
                shown[f"{prefix}{line['tensor']}.weight"] = line
        if len(shown) == len(entries):
            break
    assert shown.keys() == entries.keys()
    for name, line in shown.items():
        ours = importance_statistics(entries[name])
        assert ours is not None
        assert int(line["n"]) == ours.n_values
        for key, value, digits in (
            ("total", ours.total, 2),
            ("min", ours.minimum, 4),
            ("max", ours.maximum, 4),
            ("mean", ours.mean, 2),
            ("std", ours.std, 2),
            ("active", 100 * ours.active_share, 2),
            ("entropy", ours.entropy_bits, 4),
            ("share", 100 * ours.entropy_share, 2),
            ("z", 100 * ours.z_density, 2),
        ):
            assert float(line[key]) == pytest.approx(value, abs=1.1 * 10.0**-digits, rel=1e-6), (name, key)
