"""Broken importance matrices and recipes, one by one: each error names the field at fault."""

from __future__ import annotations

import os
import random
import struct
import time
import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from mqnative.errors import ImatrixError, RecipeError
from mqnative.formats.gguf import MetaType, MetaValue
from mqnative.formats.gguf_writer import GGUFLayout, TensorSlot, write_gguf
from mqnative.formats.imatrix import Imatrix, ImatrixEntry, read_imatrix, write_imatrix
from mqnative.formats.qtypes import qtype
from mqnative.formats.recipe import parse_recipe, read_recipe
from mqnative.formats.strict_yaml import MAX_BYTES, MAX_DEPTH
from mqnative.formats.tensor_types import parse_tensor_types, read_tensor_type_file

W = "blk.0.ffn_down.weight"

# --- legacy importance matrices ----------------------------------------------------------------


def i32(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}i", *numbers)


def f32(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


def named(name: str | bytes, n_calls: int = 3, values: bytes = f32(1, 2), n: int = 2) -> bytes:
    raw = name.encode() if isinstance(name, str) else name
    return i32(len(raw)) + raw + i32(n_calls, n) + values


GOOD_LEGACY = i32(1) + named(W) + i32(9, 4) + b"text"
AFTER_NAME = 8 + len(W)


@dataclass(frozen=True)
class Legacy:
    """A broken file, and what its error must say."""

    content: bytes
    offset: int | None = None
    tensor: str | None = None


LEGACY = {
    "two bytes": Legacy(b"\1\0", offset=0),
    "no entries": Legacy(i32(0) + named(W), offset=0),
    "a negative number of entries": Legacy(i32(-1) + named(W), offset=0),
    "more entries than the file could hold": Legacy(i32(2**31 - 1) + named(W), offset=0),
    "more entries than the file holds": Legacy(i32(2) + named(W), offset=4 + len(named(W))),
    "text instead": Legacy(b"This is my imatrix, honestly. " * 9, offset=0),
    "a name longer than the file": Legacy(i32(1, 2**30) + W.encode(), offset=8),
    "a name of negative length": Legacy(i32(1, -5) + W.encode() * 2, offset=4),
    "an empty name": Legacy(i32(1) + named("") + bytes(4), offset=4),
    "a name that is not text": Legacy(i32(1) + named(b"\xff\xfe\xfd"), offset=4),
    "a name with a zero byte": Legacy(i32(1) + named("a\0b"), offset=4),
    "a negative number of calls": Legacy(i32(1) + named(W, -3), AFTER_NAME, W),
    "a negative number of values": Legacy(i32(1) + named(W, n=-1), AFTER_NAME + 4, W),
    "no values": Legacy(i32(1) + named(W, values=b"", n=0), AFTER_NAME + 4, W),
    "more values than the file holds": Legacy(i32(1) + named(W, n=2**31 - 1), AFTER_NAME + 8, W),
    "values cut short": Legacy(i32(1) + named(W)[:-1], AFTER_NAME + 8, W),
    "a NaN": Legacy(i32(1) + named(W, values=f32(1, float("nan"))), AFTER_NAME + 8, W),
    "an infinity": Legacy(i32(1) + named(W, values=f32(float("inf"), 1)), AFTER_NAME + 8, W),
    "a negative value": Legacy(i32(1) + named(W, values=f32(1, -1)), AFTER_NAME + 8, W),
    "the same tensor twice": Legacy(i32(2) + named(W) * 2, 4 + len(named(W)), W),
    "a chunk count cut short": Legacy(i32(1) + named(W) + b"\1\2\3", 4 + len(named(W))),
    "a negative chunk count": Legacy(i32(1) + named(W) + i32(-1), 4 + len(named(W))),
    "a dataset name cut short": Legacy(GOOD_LEGACY[:-1], len(GOOD_LEGACY) - 4),
    "a dataset name of negative length": Legacy(i32(1) + named(W) + i32(9, -4), 8 + len(named(W))),
    "something behind the end": Legacy(GOOD_LEGACY + b"\0", len(GOOD_LEGACY)),
}


@pytest.mark.parametrize("case", LEGACY.values(), ids=list(LEGACY))
def test_a_broken_legacy_imatrix_is_refused(tmp_path: Path, case: Legacy) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(case.content)
    with pytest.raises(ImatrixError) as caught:
        read_imatrix(path)
    error = caught.value
    assert (error.path, error.offset, error.tensor) == (str(path), case.offset, case.tensor)
    assert str(path) in error.message
    assert ";" in error.message


def test_the_good_legacy_imatrix_is_read(tmp_path: Path) -> None:
    (tmp_path / "i.dat").write_bytes(GOOD_LEGACY)
    assert list(read_imatrix(tmp_path / "i.dat").entries) == [W]


def test_a_claimed_size_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(i32(1) + named(W, n=2**29))
    tracemalloc.start()
    try:
        with pytest.raises(ImatrixError):
            read_imatrix(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


# --- GGUF importance matrices ------------------------------------------------------------------

GOOD_KEYS: Mapping[str, MetaValue] = {
    "general.type": MetaValue.string("imatrix"),
    "imatrix.datasets": MetaValue.array(MetaType.STRING, ["text"]),
    "imatrix.chunk_count": MetaValue.u32(1),
    "imatrix.chunk_size": MetaValue.u32(512),
}
ONES = np.ones((1, 4), dtype=np.float32)
COUNT = np.ones((1, 1), dtype=np.float32)
GOOD_TENSORS: Mapping[str, np.ndarray] = {f"{W}.in_sum2": ONES, f"{W}.counts": COUNT}


@dataclass(frozen=True)
class Modern:
    """Changes to a good file (None removes), and what the error must say."""

    keys: Mapping[str, MetaValue | None] = field(default_factory=dict)
    tensors: Mapping[str, np.ndarray | None] = field(default_factory=dict)
    key: str | None = None
    tensor: str | None = None

    def write(self, path: Path) -> None:
        keys = {k: v for k, v in {**GOOD_KEYS, **self.keys}.items() if v is not None}
        arrays = {k: v for k, v in {**GOOD_TENSORS, **self.tensors}.items() if v is not None}
        kinds = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}
        layout = GGUFLayout.plan(keys, [(n, a.shape[::-1], qtype(kinds[a.dtype])) for n, a in arrays.items()])

        def write_tensor(slot: TensorSlot, out: BinaryIO) -> None:
            out.write(arrays[slot.name].tobytes())

        write_gguf(path, layout, write_tensor)


def missing(key: str) -> Modern:
    return Modern(keys={key: None}, key=key)


def member(suffix: str, array: np.ndarray | None) -> Modern:
    return Modern(tensors={f"{W}{suffix}": array}, tensor=W)


MODERN = {
    "a model": Modern(keys={"general.type": MetaValue.string("model")}, key="general.type"),
    "a type that is a number": Modern(keys={"general.type": MetaValue.u32(1)}, key="general.type"),
    "no datasets": missing("imatrix.datasets"),
    "no chunk count": missing("imatrix.chunk_count"),
    "no chunk size": missing("imatrix.chunk_size"),
    "datasets that are one string": Modern(
        keys={"imatrix.datasets": MetaValue.string("text")}, key="imatrix.datasets"
    ),
    "datasets that are numbers": Modern(
        keys={"imatrix.datasets": MetaValue.array(MetaType.U32, [1])}, key="imatrix.datasets"
    ),
    "a chunk count that is a string": Modern(
        keys={"imatrix.chunk_count": MetaValue.string("1")}, key="imatrix.chunk_count"
    ),
    "a chunk size of another width": Modern(
        keys={"imatrix.chunk_size": MetaValue.u64(512)}, key="imatrix.chunk_size"
    ),
    "a chunk size of zero": Modern(keys={"imatrix.chunk_size": MetaValue.u32(0)}, key="imatrix.chunk_size"),
    "no tensors of an imatrix": Modern(tensors={f"{W}.in_sum2": None, f"{W}.counts": None, "w": ONES}),
    "sums without counts": member(".counts", None),
    "counts without sums": member(".in_sum2", None),
    "signed sums alone": Modern(tensors={"other.in_sum": ONES}, tensor="other"),
    "sums of another type": member(".in_sum2", ONES.astype(np.float16)),
    "counts of another type": member(".counts", COUNT.astype(np.float16)),
    "signed sums of another type": member(".in_sum", ONES.astype(np.float16)),
    "counts that do not divide the sums": member(".counts", np.ones((3, 1), np.float32)),
    "rows and counts that disagree": Modern(
        tensors={f"{W}.in_sum2": np.ones((4, 2), np.float32), f"{W}.counts": COUNT.repeat(2, 0)},
        tensor=W,
    ),
    "signed sums of another length": member(".in_sum", np.ones((1, 5), np.float32)),
    "a NaN among the sums": member(".in_sum2", ONES * np.float32("nan")),
    "an infinity among the sums": member(".in_sum2", ONES * np.float32("inf")),
    "a negative sum of squares": member(".in_sum2", -ONES),
    "a NaN count": member(".counts", COUNT * np.float32("nan")),
    "an infinite count": member(".counts", COUNT * np.float32("inf")),
    "a negative count": member(".counts", -COUNT),
    "an absurd count": member(".counts", COUNT * np.float32(1e30)),
    "a NaN among the signed sums": member(".in_sum", ONES * np.float32("nan")),
}


@pytest.mark.parametrize("case", MODERN.values(), ids=list(MODERN))
def test_a_broken_gguf_imatrix_is_refused(tmp_path: Path, case: Modern) -> None:
    path = tmp_path / "i.gguf"
    case.write(path)
    with pytest.raises(ImatrixError) as caught:
        read_imatrix(path)
    error = caught.value
    assert (error.path, error.key, error.tensor) == (str(path), case.key, case.tensor)
    assert str(path) in error.message
    assert ";" in error.message


def test_the_good_gguf_imatrix_is_read(tmp_path: Path) -> None:
    Modern().write(tmp_path / "i.gguf")
    assert list(read_imatrix(tmp_path / "i.gguf").entries) == [W]


def test_a_gguf_tensor_named_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "i.gguf"
    Modern(tensors={"aa.in_sum2": ONES, "bb.in_sum2": ONES}).write(path)
    path.write_bytes(path.read_bytes().replace(b"bb.in_sum2", b"aa.in_sum2"))
    with pytest.raises(ImatrixError) as caught:
        read_imatrix(path)
    assert (caught.value.path, caught.value.tensor) == (str(path), "aa.in_sum2")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_file_cut_anywhere_is_refused_or_read_without_its_trailer(tmp_path: Path, legacy: bool) -> None:
    whole = tmp_path / "whole"
    entry = ImatrixEntry(np.ones((2, 4), np.float32), np.ones(2, np.float32))
    write_imatrix(whole, Imatrix({W: entry}, ("text",), 1, 512), legacy=legacy)
    stored = whole.read_bytes()
    trailer = len(i32(1, 4)) + len("text")
    for size in range(len(stored)):
        path = tmp_path / "cut"
        path.write_bytes(stored[:size])
        if legacy and size in (len(stored) - trailer, len(stored) - trailer + 4):
            assert list(read_imatrix(path).entries) == [W]
        elif size < len(stored) - 24 or legacy:  # GGUF pads its last tensor, nobody needs that
            with pytest.raises(ImatrixError):
                read_imatrix(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_random_damage_never_raises_anything_else(tmp_path: Path, legacy: bool) -> None:
    whole = tmp_path / "whole"
    entry = ImatrixEntry(np.ones((2, 4), np.float32), np.ones(2, np.float32))
    write_imatrix(whole, Imatrix({W: entry}, ("text",), 1, 512), legacy=legacy)
    stored = whole.read_bytes()
    rng = random.Random(20261121)
    for _ in range(500):
        damaged = bytearray(stored)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.choice((0, 1, 127, 128, 255))
        path = tmp_path / "damaged"
        path.write_bytes(damaged)
        with suppress(ImatrixError):
            read_imatrix(path)


def absent(path: Path) -> None:
    """Leave nothing there."""


@pytest.mark.parametrize(
    "make",
    [absent, Path.mkdir, Path.touch, os.mkfifo, lambda path: path.symlink_to("nowhere")],
    ids=["no file", "a folder", "an empty file", "a pipe", "a dangling link"],
)
def test_what_is_no_imatrix_file_is_named(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "i.gguf")
    with pytest.raises(ImatrixError) as caught:
        read_imatrix(tmp_path / "i.gguf")
    assert caught.value.path == str(tmp_path / "i.gguf")


# --- recipes -----------------------------------------------------------------------------------

HEAD = "mqnative: recipe/1\n"


@dataclass(frozen=True)
class Text:
    """A broken recipe, and what its error must say."""

    text: str
    line: int | None = None
    key: str | None = None
    says: str = ""


RECIPES = {
    "nothing": Text("", key="mqnative"),
    "only a comment": Text("# recipe\n", key="mqnative"),
    "plain text": Text("hello", key="mqnative"),
    "a list": Text("- a\n", key="mqnative"),
    "no version": Text("base: Q4_K\n", key="mqnative"),
    "another version": Text("mqnative: recipe/2\n", 1, "mqnative", "recipe/2"),
    "a version that is a number": Text("mqnative: 1\n", 1, "mqnative"),
    "an unknown key": Text(HEAD + "bsae: Q4_K\n", 2, "bsae", "'base'"),
    "a key twice": Text(HEAD + "base: Q4_K\nbase: Q8_0\n", 3, "base", "twice"),
    "a tensor twice": Text(HEAD + "tensors:\n  a: Q4_K\n  a: Q8_0\n", 4, "a", "twice"),
    "a key twice in JSON": Text('{"mqnative": "recipe/1", "base": "F16", "base": "F16"}', key="base"),
    "an alias": Text(HEAD + "model: &m {name: a}\ntarget: *m\n", 3, says="aliases"),
    "an alias bomb": Text(
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: &d [*c, *c]\ne: &e [*d, *d]\n",
        2,
        says="aliases",
    ),
    "a value that holds itself": Text(HEAD + "model: &m {a: *m}\n", 2, says="aliases"),
    "a Python object": Text(HEAD + "model: !!python/object/apply:os.getcwd []\n", 2, says="tag"),
    "a tag of our own": Text(HEAD + "base: !type Q4_K\n", 2, says="tag"),
    "a harmless tag": Text(HEAD + "base: !!str Q4_K\n", 2, says="tag"),
    "two documents": Text(HEAD + "---\n" + HEAD, 2),
    "a tab for indentation": Text(HEAD + "model:\n\tname: a\n", 3),
    "an unclosed bracket": Text(HEAD + "model: {name: a\n", 3),
    "two colons": Text(HEAD + "base: Q4_K: x\n", 2),
    "a zero byte": Text(HEAD + "base: \0\n", 2, says="U+0000"),
    "half a character": Text(HEAD + 'model: {name: "\\ud800"}\n', 2, says="surrogate"),
    "deep YAML": Text("[" * 9999, 1, says="deep"),
    "deep JSON": Text('{"a":' * 9999, says="deep"),
    "deeper notes than allowed": Text(
        '{"mqnative": "recipe/1", "model": ' + '{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH + "}",
        says="deep",
    ),
    "a trailing comma in JSON": Text('{"mqnative": "recipe/1",\n}', 2, says="JSON"),
    "NaN in JSON": Text('{"mqnative": "recipe/1", "target": {"bpw": NaN}}', says="NaN"),
    "an infinite number": Text(HEAD + "target:\n  bpw: 1e999\n", 3, says="inf"),
    "a number without end": Text(HEAD + f"target: {{n: {'9' * 9999}}}\n", 2, says="64 bits"),
    "a number without end in JSON": Text(
        f'{{"mqnative": "recipe/1", "target": {{"n": {"9" * 9999}}}}}', says="64 bits"
    ),
    "too much text": Text(HEAD + "#" * MAX_BYTES, says="allowed"),
    "a key that is a number": Text(HEAD + "model: {1: a}\n", 2, says="quotes"),
    "a key that is a list": Text(HEAD + "? [a]\n: b\n", 2, says="quotes"),
    "a base that is a list": Text(HEAD + "base: [Q4_K]\n", 2, "base"),
    "a base that is a number": Text(HEAD + "base: 4\n", 2, "base"),
    "an empty base": Text(HEAD + "base: ''\n", 2, "base"),
    "an unknown type": Text(HEAD + "base: Q4_KK\n", 2, "base", "Q4_K"),
    "a preset for a type": Text(HEAD + "base: Q4_K_M\n", 2, "base", "did you mean Q4_K?"),
    "a type for activations": Text(HEAD + "base: Q8_K\n", 2, "base", "Q8_0"),
    "a type for indices": Text(HEAD + "base: I32\n", 2, "base"),
    "rules that are a mapping": Text(HEAD + "rules: {a: Q4_K}\n", 2, "rules"),
    "a rule that is a string": Text(HEAD + "rules:\n  - a=Q4_K\n", 3, "rules.0"),
    "a rule without a type": Text(HEAD + "rules:\n  - {match: a}\n", 3, "rules.0"),
    "a rule with too much": Text(
        HEAD + "rules:\n  - {match: a, type: F16}\n  - {match: a, type: F16, why: b}\n",
        4,
        "rules.1",
    ),
    "a pattern that is a number": Text(HEAD + "rules:\n  - match: 1\n    type: F16\n", 3, "rules.0.match"),
    "a pattern that is malformed": Text(
        HEAD + "rules:\n  - type: F16\n    match: (\n", 4, "rules.0.match", "regular expression"
    ),
    "a repeat beyond reason": Text(
        HEAD + f"rules:\n  - {{match: 'a{{{'9' * 30}}}', type: F16}}\n", 3, "rules.0.match"
    ),
    "a rule with an unknown type": Text(HEAD + "rules:\n  - match: a\n    type: Q9\n", 4, "rules.0.type"),
    "tensors that are a list": Text(HEAD + "tensors: [a]\n", 2, "tensors"),
    "a tensor with an unknown type": Text(HEAD + "tensors:\n  a: Q9\n", 3, "tensors.a"),
    "a tensor without a type": Text(HEAD + "tensors:\n  a:\n", 3, "tensors.a"),
    "notes that are text": Text(HEAD + "provenance: by hand\n", 2, "provenance"),
}


@pytest.mark.parametrize("case", RECIPES.values(), ids=list(RECIPES))
def test_a_broken_recipe_is_refused(case: Text) -> None:
    started = time.monotonic()
    with pytest.raises(RecipeError) as caught:
        parse_recipe(case.text, "r.yaml")
    error = caught.value
    assert (error.path, error.line, error.key) == ("r.yaml", case.line, case.key)
    assert error.message.startswith(f"r.yaml, line {case.line}: " if case.line else "r.yaml: ")
    assert case.says in error.message
    assert ";" in error.message
    assert time.monotonic() - started < 30


FILES = {
    "no file": (absent, None),
    "a folder": (Path.mkdir, None),
    "a file that is not UTF-8": (lambda path: path.write_bytes(HEAD.encode() + b"a: \xe9"), 2),
    "a huge file": (lambda path: path.write_bytes(b"#" * (MAX_BYTES + 1)), None),
}


@pytest.mark.parametrize("read", [read_recipe, read_tensor_type_file])
@pytest.mark.parametrize(("make", "line"), FILES.values(), ids=list(FILES))
def test_a_file_that_is_no_text_is_named(tmp_path: Path, make: Any, line: int | None, read: Any) -> None:
    make(tmp_path / "r.yaml")
    with pytest.raises(RecipeError) as caught:
        read(tmp_path / "r.yaml")
    assert (caught.value.path, caught.value.line) == (str(tmp_path / "r.yaml"), line)


def test_a_file_name_with_a_zero_byte_is_refused() -> None:
    with pytest.raises(RecipeError):
        read_recipe("r\0.yaml")
    with pytest.raises(ImatrixError):
        read_imatrix("i\0.gguf")


TENSOR_TYPES = {
    "nothing": Text(" \n", key=None),
    "no equals sign": Text("a=f16\nattn_v", 2, "attn_v"),
    "no pattern": Text("=q6_k", 1, "=q6_k"),
    "no type": Text("attn_v=", 1, "attn_v="),
    "a comment": Text("# mine\nattn_v=q6_k", 1, "#"),
    "an unknown type": Text("a=f16\n\nattn_v=q4_k_m", 3, "attn_v=q4_k_m", "Q4_K"),
    "a malformed pattern": Text("(attn_v=q6_k", 1, "(attn_v=q6_k", "regular expression"),
    "a POSIX class": Text("blk[[:digit:]]=q6_k", 1, "blk[[:digit:]]=q6_k", "plainer"),
    "a possessive quantifier": Text("a++=q6_k", 1, "a++=q6_k", "plainer"),
    "a named group": Text("(?P<n>a)=q6_k", 1, "(?P<n>a)=q6_k", "plainer"),
    "an empty class": Text("a[]b=q6_k", 1, "a[]b=q6_k", "plainer"),
    "an escape at the end": Text("a\\=q6_k", 1, "a\\=q6_k"),
}


@pytest.mark.parametrize("case", TENSOR_TYPES.values(), ids=list(TENSOR_TYPES))
def test_a_broken_tensor_type_file_is_refused(case: Text) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_tensor_types(case.text, "types.txt")
    error = caught.value
    assert (error.path, error.line, error.key) == ("types.txt", case.line, case.key)
    assert case.says in error.message
