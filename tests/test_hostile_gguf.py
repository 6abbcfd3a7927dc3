"""Broken GGUF files, one by one: each is refused as a `GGUFError` that names the field at fault.

The good file is written out field by field here, so that a case changes one thing and says which.
"""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from mqnative.errors import GGUFError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_rules import MAX_HEADER_BYTES, MAX_KEYS, MAX_TENSORS

F32, F16, Q8_0 = 0, 1, 8
U8, U32, STRING, ARRAY, U64 = 0, 4, 8, 9, 10
HUGE = 2**64 - 1


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<i", kind) + value


def array(element: int, count: int, values: bytes) -> bytes:
    return struct.pack("<iQ", element, count) + values


@dataclass(frozen=True)
class Tensor:
    name: bytes = b"w"
    dims: tuple[int, ...] = (32, 2)
    kind: int = F32
    offset: int = 0
    n_dims: int | None = None

    def encode(self) -> bytes:
        n_dims = len(self.dims) if self.n_dims is None else self.n_dims
        dims = struct.pack(f"<{len(self.dims)}q", *self.dims)
        tail = struct.pack("<iQ", self.kind, self.offset)
        return text(self.name) + struct.pack("<I", n_dims) + dims + tail


@dataclass(frozen=True)
class File:
    """A GGUF file of two tensors (256 and 64 bytes of data); every part can be replaced."""

    magic: bytes = b"GGUF"
    version: bytes = struct.pack("<I", 3)
    n_tensors: int | None = None
    n_keys: int | None = None
    pairs: tuple[bytes, ...] = (
        pair(b"general.architecture", STRING, text(b"llama")),
        pair(b"tokens", ARRAY, array(STRING, 2, text(b"a") + text(b"bc"))),
        pair(b"scores", ARRAY, array(U32, 3, bytes(12))),
        pair(b"count", U32, struct.pack("<I", 7)),
    )
    tensors: tuple[Tensor, ...] = (Tensor(), Tensor(name=b"v", dims=(16,), offset=256))
    data_bytes: int = 256 + 64
    alignment: int = 32

    def header(self) -> bytes:
        n_tensors = len(self.tensors) if self.n_tensors is None else self.n_tensors
        n_keys = len(self.pairs) if self.n_keys is None else self.n_keys
        parts = [self.magic, self.version, struct.pack("<QQ", n_tensors, n_keys), *self.pairs]
        return b"".join([*parts, *(tensor.encode() for tensor in self.tensors)])

    def encode(self) -> bytes:
        header = self.header()
        return header + bytes(-len(header) % self.alignment) + bytes(self.data_bytes)


GOOD = File()


def with_pair(extra: bytes) -> File:
    return replace(GOOD, pairs=(*GOOD.pairs, extra))


def with_tensor(first: Tensor, data_bytes: int = GOOD.data_bytes) -> File:
    return replace(GOOD, tensors=(first,), data_bytes=data_bytes)


def aligned_to(alignment: int) -> File:
    return with_pair(pair(b"general.alignment", U32, struct.pack("<I", alignment)))


@dataclass(frozen=True)
class Case:
    """A broken file and what the error must say: a phrase, and the key or tensor at fault."""

    content: bytes
    says: str
    key: str | None = None
    tensor: str | None = None
    offset: int | None = None


def swapped_ends() -> bytes:
    return b"GGUF" + struct.pack(">IQQ", 3, 0, 0)


CASES: dict[str, Case] = {
    # what it is
    "an empty file": Case(b"", "is empty"),
    "three bytes": Case(b"GGU", "truncated", offset=0),
    "another magic": Case(replace(GOOD, magic=b"GGUf").encode(), "not GGUF", offset=0),
    "a safetensors file": Case(struct.pack("<Q", 90) + b'{"w":' + bytes(90), "not GGUF"),
    "a Git LFS pointer": Case(b"version https git-lfs spec v1\noid sha256:0", "git lfs pull"),
    "a PyTorch checkpoint": Case(b"PK\x03\x04" + bytes(64), "convert it to GGUF"),
    "a web page": Case(b"<!DOCTYPE html><html></html>", "web page"),
    "a file from before GGUF": Case(b"tjgg" + bytes(64), "before GGUF"),
    "a reversed magic": Case(replace(GOOD, magic=b"FUGG").encode(), "big-endian"),
    "a big-endian file": Case(swapped_ends(), "big-endian", offset=4),
    "version 0": Case(replace(GOOD, version=bytes(4)).encode(), "version 0", offset=4),
    "version 1": Case(replace(GOOD, version=struct.pack("<I", 1)).encode(), "version 1, no longer", offset=4),
    "version 4": Case(replace(GOOD, version=struct.pack("<I", 4)).encode(), "version 4", offset=4),
    "only magic and version": Case(GOOD.encode()[:8], "truncated", offset=8),
    # counts
    "an absurd number of tensors": Case(replace(GOOD, n_tensors=HUGE).encode(), "tensor count", offset=8),
    "a negative number of tensors": Case(replace(GOOD, n_tensors=2**63).encode(), "tensor count", offset=8),
    "an absurd number of keys": Case(replace(GOOD, n_keys=HUGE).encode(), "key count", offset=16),
    "more keys than supported": Case(
        replace(GOOD, n_keys=MAX_KEYS + 1, data_bytes=16 * MAX_KEYS).encode(), "at most", offset=16
    ),
    "more tensors than supported": Case(
        replace(GOOD, n_tensors=MAX_TENSORS + 1, data_bytes=34 * MAX_TENSORS).encode(),
        "at most",
        offset=8,
    ),
    "one key too many announced": Case(
        replace(GOOD, n_keys=len(GOOD.pairs) + 1, tensors=()).encode(), "key is empty", key=""
    ),
    # keys
    "an empty key": Case(with_pair(pair(b"", U8, b"\0")).encode(), "key is empty", key=""),
    "a key with a zero byte": Case(with_pair(pair(b"a\0b", U8, b"\0")).encode(), "zero byte", key="a\0b"),
    "a key that is too long": Case(
        with_pair(pair(b"k" * 65536, U8, b"\0")).encode(), "65536 bytes", key="k" * 65536
    ),
    "a key that is longer than the file": Case(with_pair(text(b"k", length=2**40)).encode(), "key 4 needs"),
    "a key of absurd length": Case(with_pair(text(b"k", length=HUGE)).encode(), "key 4 needs"),
    "a key twice": Case(with_pair(pair(b"count", U32, bytes(4))).encode(), "occurs twice", key="count"),
    # values
    "an unknown value type": Case(with_pair(pair(b"x", 13, bytes(8))).encode(), "value type is 13", key="x"),
    "a negative value type": Case(with_pair(pair(b"x", -1, bytes(8))).encode(), "value type is -1", key="x"),
    "an unknown element type": Case(
        with_pair(pair(b"x", ARRAY, array(99, 1, b"\0"))).encode(), "element type is 99", key="x"
    ),
    "an array of arrays": Case(
        with_pair(pair(b"x", ARRAY, array(ARRAY, 1, array(U8, 1, b"\0")))).encode(),
        "array of arrays",
        key="x",
    ),
    "an absurd number array": Case(
        with_pair(pair(b"x", ARRAY, array(U64, HUGE, b""))).encode(), "array length", key="x"
    ),
    "a number array whose size wraps around": Case(
        with_pair(pair(b"x", ARRAY, array(U64, 2**61, b""))).encode(), "array length", key="x"
    ),
    "an absurd string array": Case(
        with_pair(pair(b"x", ARRAY, array(STRING, 2**60, b""))).encode(), "array length", key="x"
    ),
    "a string longer than the file": Case(
        with_pair(pair(b"x", STRING, text(b"", length=2**40))).encode(), "the value needs", key="x"
    ),
    "a string of absurd length": Case(
        with_pair(pair(b"x", STRING, text(b"", length=HUGE))).encode(), "the value needs", key="x"
    ),
    "an element longer than the file": Case(
        with_pair(pair(b"x", ARRAY, array(STRING, 2, text(b"a") + text(b"", HUGE)))).encode(),
        "string 1 of 2",
        key="x",
    ),
    "a first element longer than the file": Case(
        with_pair(pair(b"x", ARRAY, array(STRING, 9, text(b"", 2**63)))).encode(),
        "string 0 of 9",
        key="x",
    ),
    # alignment
    "an alignment of 0": Case(aligned_to(0).encode(), "power of two", key="general.alignment"),
    "an alignment of 33": Case(aligned_to(33).encode(), "power of two", key="general.alignment"),
    "an alignment of 4": Case(aligned_to(4).encode(), "outside 8", key="general.alignment"),
    "an alignment of 2 GiB": Case(aligned_to(2**31).encode(), "outside 8", key="general.alignment"),
    "an alignment of another type": Case(
        with_pair(pair(b"general.alignment", U64, struct.pack("<Q", 32))).encode(),
        "type is U64",
        key="general.alignment",
    ),
    "an alignment that is a string": Case(
        with_pair(pair(b"general.alignment", STRING, text(b"32"))).encode(),
        "type is STRING",
        key="general.alignment",
    ),
    # tensor names
    "a name of 64 bytes": Case(with_tensor(Tensor(name=b"n" * 64)).encode(), "64 bytes", tensor="n" * 64),
    "a name of absurd length": Case(
        GOOD.header().replace(text(b"w") + b"\x02", text(b"w", HUGE) + b"\x02"), "tensor name"
    ),
    "an empty name": Case(with_tensor(Tensor(name=b"")).encode(), "name is empty", tensor=""),
    "a name with a zero byte": Case(with_tensor(Tensor(name=b"w\0x")).encode(), "zero byte", tensor="w\0x"),
    "a name twice": Case(
        replace(GOOD, tensors=(Tensor(), Tensor(offset=256))).encode(), "occurs twice", tensor="w"
    ),
    # shapes
    "no dimension": Case(with_tensor(Tensor(dims=())).encode(), "0 dimensions", tensor="w"),
    "five dimensions": Case(with_tensor(Tensor(dims=(1, 1, 1, 1, 1))).encode(), "5 dimensions", tensor="w"),
    "four billion dimensions": Case(
        with_tensor(Tensor(n_dims=2**32 - 1)).encode(), "4294967295 dimensions", tensor="w"
    ),
    "a dimension of 0": Case(with_tensor(Tensor(dims=(32, 0))).encode(), "dimension 1 is 0", tensor="w"),
    "a row length of 0": Case(with_tensor(Tensor(dims=(0,))).encode(), "dimension 0 is 0", tensor="w"),
    "a negative dimension": Case(
        with_tensor(Tensor(dims=(-32, -2))).encode(), "dimension 0 is -32", tensor="w"
    ),
    "a shape whose product wraps to 0": Case(
        with_tensor(Tensor(dims=(2**32, 2**32))).encode(), "elements", tensor="w"
    ),
    "a shape whose product wraps to a small number": Case(
        with_tensor(Tensor(dims=(2**62, 4, 1, 1))).encode(), "elements", tensor="w"
    ),
    "a size in bytes that wraps around": Case(
        with_tensor(Tensor(dims=(2**62,))).encode(), "the data ends at", tensor="w"
    ),
    # tensor types
    "an unknown type": Case(with_tensor(Tensor(kind=1000)).encode(), "type id 1000", tensor="w"),
    "a negative type": Case(with_tensor(Tensor(kind=-1)).encode(), "type id -1", tensor="w"),
    "the removed type Q4_2": Case(with_tensor(Tensor(kind=4)).encode(), "type id 4", tensor="w"),
    "the removed type Q4_0_4_4": Case(with_tensor(Tensor(kind=31)).encode(), "type id 31", tensor="w"),
    "half a block per row": Case(
        with_tensor(Tensor(dims=(48, 2), kind=Q8_0)).encode(), "blocks of 32", tensor="w"
    ),
    # places
    "an unaligned offset": Case(with_tensor(Tensor(offset=4)).encode(), "multiples of 32", tensor="w"),
    "a first tensor that leaves a gap": Case(
        with_tensor(Tensor(offset=32), 512).encode(), "leaves a gap", tensor="w"
    ),
    "a gap between tensors": Case(
        replace(GOOD, tensors=(Tensor(), Tensor(b"v", offset=288)), data_bytes=1024).encode(),
        "leaves a gap",
        tensor="v",
    ),
    "overlapping tensors": Case(
        replace(GOOD, tensors=(Tensor(), Tensor(b"v", offset=224)), data_bytes=1024).encode(),
        "overlaps",
        tensor="v",
    ),
    "two tensors in one place": Case(
        replace(GOOD, tensors=(Tensor(), Tensor(b"v"))).encode(), "overlaps", tensor="v"
    ),
    "an absurd offset": Case(with_tensor(Tensor(offset=HUGE - 31)).encode(), "leaves a gap", tensor="w"),
    # the end of the file
    "one byte of data missing": Case(GOOD.encode()[:-1], "truncated", tensor="v"),
    "data that ends after the first tensor": Case(
        replace(GOOD, data_bytes=256).encode(), "truncated", tensor="v"
    ),
    "no data at all": Case(replace(GOOD, data_bytes=0).encode(), "truncated", tensor="w"),
    "a file that ends before the padding": Case(
        with_tensor(Tensor(name=b"abcd")).header(), "before its data section"
    ),
}


def refused(path: Path) -> GGUFError:
    with pytest.raises(GGUFError) as caught:
        GGUFFile.open(path).close()
    error = caught.value
    assert type(error) is GGUFError
    assert error.path == str(path)
    assert str(path) in error.message
    assert "\n" not in error.message
    return error


def test_the_good_file_is_good(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GOOD.encode())
    with GGUFFile.open(path) as file:
        assert {name: info.shape for name, info in file.tensors.items()} == {
            "w": (32, 2),
            "v": (16,),
        }
        assert file.get("tokens") == ["a", "bc"]


@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_refused_with_the_field_at_fault(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(case.content)
    error = refused(path)
    assert case.says in error.message
    assert (error.key, error.tensor) == (case.key, case.tensor)
    if case.offset is not None:
        assert error.offset == case.offset
    if case.content:
        assert error.offset is not None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a key twice", pair(b"count", U32, bytes(4))),
        ("an unknown value type", struct.pack("<i", 13) + bytes(8)),
        ("a string of absurd length", b""),
        ("five dimensions", struct.pack("<I", 5)),
        ("an unknown type", struct.pack("<i", 1000)),
        ("an unaligned offset", struct.pack("<Q", 4)),
    ],
)
def test_the_offset_is_that_of_the_field(tmp_path: Path, name: str, part: bytes) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(CASES[name].content)
    offset = refused(path).offset
    assert CASES[name].content[offset : offset + len(part)] == part


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    content = GOOD.encode()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refused(path)


def test_absurd_counts_allocate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    for name, case in CASES.items():
        if "absurd" in name or "wraps" in name:
            path.write_bytes(case.content)
            tracemalloc.start()
            try:
                refused(path)
                peak_bytes = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert peak_bytes < 1 << 20, name


def test_a_huge_sparse_file_of_empty_strings_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    count = 2**29
    head = replace(GOOD, tensors=(), pairs=(pair(b"x", ARRAY, array(STRING, count, b"")),)).header()
    path.write_bytes(head)
    os.truncate(path, len(head) + 8 * count)
    error = refused(path)
    assert f"above {MAX_HEADER_BYTES} bytes" in error.message
    assert error.key == "x"


# What is not a file


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert "does not exist" in refused(tmp_path / "nope.gguf").message
    (tmp_path / "file").touch()
    assert "does not exist" in refused(tmp_path / "file" / "nope.gguf").message


def test_a_folder_is_named(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path).message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in refused(tmp_path / "pipe").message


@pytest.mark.parametrize("name", ["a\0b.gguf", "n" * 300 + ".gguf"])
def test_an_impossible_name_is_refused(tmp_path: Path, name: str) -> None:
    assert "cannot be mapped" in refused(tmp_path / name).message


@pytest.mark.parametrize(
    ("exception", "says"),
    [(PermissionError(13, "Permission denied"), "permission"), (OSError(5, "I/O error"), "I/O")],
)
def test_an_unreadable_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exception: OSError, says: str
) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(GOOD.encode())

    def fail(*args: object) -> None:
        raise exception

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        assert says in refused(path).message


def test_no_mapping_is_left_behind_by_a_refused_file(tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("the system does not list open files")
    path = tmp_path / "model.gguf"
    path.write_bytes(GOOD.encode()[:-1])
    before = len(list(descriptors.iterdir()))
    for _ in range(20):
        refused(path)
    assert len(list(descriptors.iterdir())) == before


# Random damage


def flip_a_bit(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_a_byte(data: bytearray, rng: random.Random) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255))


def set_eight_bytes(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start : start + 8] = rng.choice((bytes(8), b"\xff" * 8, b"\0" * 7 + b"\x80"))


def drop_bytes(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 9)]


def repeat_bytes(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start:start] = data[start : start + rng.randrange(1, 65)]


def read_everything(file: GGUFFile) -> None:
    for key in file.metadata:
        file.get(key)
    for name, info in file.tensors.items():
        assert len(file.data(name).tobytes()) == info.size_bytes
        assert file.array(name).nbytes == info.size_bytes


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_a_bit,
    set_a_byte,
    set_eight_bytes,
    drop_bytes,
    repeat_bytes,
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_random_damage_gives_a_file_or_an_error(
    tmp_path: Path, damage: Callable[[bytearray, random.Random], None]
) -> None:
    rng = random.Random(damage.__name__)
    path = tmp_path / "model.gguf"
    header_bytes = len(GOOD.header())
    for _ in range(600):
        data = bytearray(GOOD.encode()[:header_bytes])
        for _ in range(rng.randrange(1, 4)):
            damage(data, rng)
        path.write_bytes(bytes(data) + bytes(-len(data) % 32) + bytes(GOOD.data_bytes))
        with suppress(GGUFError), GGUFFile.open(path) as file:
            read_everything(file)
