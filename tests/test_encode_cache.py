"""The cache of encoded tensors: what is found is what was put, it stays within its limit, and no trouble of
its own reaches the work it is to speed up.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli_process import mqnative, succeed
from mqnative.build import writer as build_writer
from mqnative.build.plan import BuildPlan, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.model import Model
from mqnative.core.monitor import CancellableMonitor, CancelToken
from mqnative.core.native import core
from mqnative.errors import NonFiniteError, OperationCancelled, StoreError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix, ImatrixEntry
from mqnative.formats.recipe import Recipe
from mqnative.measure.corpus import read_corpus
from mqnative.measure.mixes import VariantPool, score_mixes
from mqnative.measure.stored_scores import probe
from mqnative.measure.study import Compute, Study
from mqnative.source import encoded
from mqnative.source.encoded import EncodedTensors, weights_hash, worth_keeping
from mqnative.source.identity import identify
from mqnative.store import Store, encode_cache
from mqnative.store.encode_cache import EncodeCache
from mqnative.store.locks import hold, named_lock
from tiny_models import TinyModels

SEED = 3407
FOOTER_BYTES = 20
LOGGER = "mqnative.store.encode_cache"
Blocks = npt.NDArray[np.uint8]


def some_blocks(n_bytes: int, seed: int = 0) -> Blocks:
    return np.random.default_rng([SEED, seed]).integers(0, 256, n_bytes, np.uint8)


def files(folder: Path) -> list[str]:
    """Entries and unfinished files, not the locks."""
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def size(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "encoded"


@pytest.fixture
def cache(folder: Path) -> EncodeCache:
    return EncodeCache(folder, 10**6)


# ---- Keys -------------------------------------------------------------------------------------------

INPUTS: dict[str, Any] = {
    "tensor": "a" * 64,
    "source": "BF16",
    "shape": (256, 64),
    "target": "Q4_K",
    "weights": "none",
    "encoder": "0c1e5709 0.1.0",
}


def test_a_key_is_a_pure_function_that_can_name_a_file() -> None:
    assert EncodeCache.key(**INPUTS) == EncodeCache.key(**INPUTS)
    assert len(EncodeCache.key(**INPUTS)) == 64
    assert EncodeCache.key(**INPUTS).isalnum()


@pytest.mark.parametrize(
    ("changed", "value"),
    [
        ("tensor", "b" * 64),
        ("source", "F16"),  # the same bytes mean other weights
        ("shape", (64, 256)),
        ("target", "Q5_K"),
        ("weights", "c" * 64),
        ("encoder", "another"),
    ],
)
def test_everything_that_decides_the_bytes_is_in_the_key(changed: str, value: Any) -> None:
    assert EncodeCache.key(**INPUTS) != EncodeCache.key(**{**INPUTS, changed: value})


def test_importances_count_by_value_not_by_layout() -> None:
    flat = np.arange(8, dtype=np.float32)
    assert weights_hash(None) == "none"
    assert weights_hash(flat) == weights_hash(flat.reshape(2, 4)) == weights_hash(np.repeat(flat, 2)[::2])
    assert weights_hash(flat) != weights_hash(flat[::-1])


# ---- In and out -------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_bytes", [0, 1, 4095, 4096, 100_000])
def test_what_was_put_is_found_again_by_any_instance(cache: EncodeCache, folder: Path, n_bytes: int) -> None:
    blocks = some_blocks(n_bytes)
    assert cache.get("key", n_bytes) is None
    cache.put("key", blocks)
    for reader in (cache, EncodeCache(folder, 10**6)):
        found = reader.get("key", n_bytes)
        assert found is not None
        assert found.dtype == np.uint8
        assert np.array_equal(found, blocks)
    assert files(folder) == ["key.enc"]


def test_what_is_found_is_read_only_and_outlives_its_file(cache: EncodeCache, folder: Path) -> None:
    blocks = some_blocks(70_000)
    cache.put("key", blocks)
    found = cache.get("key", blocks.size)
    assert found is not None
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 1
    if os.name != "nt":
        (folder / "key.enc").unlink()
        assert np.array_equal(found, blocks)
        assert cache.get("key", blocks.size) is None


def test_pieces_make_the_same_entry_as_the_whole(cache: EncodeCache, folder: Path) -> None:
    blocks = some_blocks(10_000)
    cache.put("whole", blocks)
    with cache.writer("whole ", blocks.size) as part:
        for start in range(0, blocks.size, 999):
            part.write(blocks[start : start + 999])
            assert cache.get("whole ", blocks.size) is None  # not before it is whole
    assert np.array_equal(cache.get("whole ", blocks.size), blocks)  # type: ignore[arg-type]
    first, second = ((folder / f"{key}.enc").read_bytes() for key in ("whole", "whole "))
    assert first[:-4] == second[:-4]  # the checksum covers the key


@pytest.mark.parametrize("n_written", [0, 99, 101])
def test_an_entry_of_another_length_than_announced_is_not_kept(
    cache: EncodeCache, folder: Path, n_written: int
) -> None:
    with cache.writer("key", 100) as part:
        part.write(some_blocks(n_written))
    assert files(folder) == []


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_block_that_raises_leaves_nothing(
    cache: EncodeCache, folder: Path, error: type[BaseException]
) -> None:
    def fail() -> None:
        with cache.writer("key", 100) as part:
            part.write(some_blocks(100))
            raise error

    with pytest.raises(error):
        fail()
    assert files(folder) == []
    cache.put("key", some_blocks(100))
    assert cache.get("key", 100) is not None


def test_the_first_of_two_equal_entries_stays(cache: EncodeCache, folder: Path) -> None:
    with cache.writer("key", 100) as slow:
        slow.write(some_blocks(100))
        cache.put("key", some_blocks(100))
        inode = (folder / "key.enc").stat().st_ino
    assert files(folder) == ["key.enc"]
    assert (folder / "key.enc").stat().st_ino == inode


# ---- The limit --------------------------------------------------------------------------------------


def test_the_longest_unused_goes_first(folder: Path) -> None:
    cache = EncodeCache(folder, 3 * (1000 + FOOTER_BYTES))
    for key in ("a", "b", "c"):
        cache.put(key, some_blocks(1000))
    assert cache.get("a", 1000) is not None
    cache.put("d", some_blocks(1000))
    assert files(folder) == ["a.enc", "c.enc", "d.enc"]
    assert cache.get("c", 1000) is not None
    cache.put("e", some_blocks(2000))
    assert files(folder) == ["c.enc", "e.enc"]
    assert size(folder) == 3000 + 2 * FOOTER_BYTES


def test_an_entry_larger_than_the_limit_is_not_kept_and_displaces_nothing(folder: Path) -> None:
    cache = EncodeCache(folder, 1000 + FOOTER_BYTES)
    cache.put("fits", some_blocks(1000))
    cache.put("large", some_blocks(1001))
    assert files(folder) == ["fits.enc"]


def test_a_lower_limit_holds_from_the_start(folder: Path) -> None:
    cache = EncodeCache(folder, 10_000)
    for key in ("a", "b", "c"):
        cache.put(key, some_blocks(1000))
    EncodeCache(folder, 2100)
    assert files(folder) == ["b.enc", "c.enc"]


@pytest.mark.parametrize(
    ("age_s", "held", "kept"),
    [(0, False, True), (5, False, False), (5, True, True), (23 * 3600, True, True), (25 * 3600, True, False)],
)
def test_what_a_dead_process_left_goes_at_once_and_what_is_written_stays(
    folder: Path, age_s: int, held: bool, kept: bool
) -> None:
    EncodeCache(folder, 10_000).put("key", some_blocks(10))
    left = folder / "0123456789abcdef.part"
    left.write_bytes(bytes(500))
    then = time.time() - age_s
    os.utime(left, (then, then))
    with left.open("rb") as writer:
        if held:
            assert hold(writer.fileno())
        EncodeCache(folder, 10_000)
    assert left.exists() == kept
    assert (folder / "key.enc").exists()


def test_a_killed_writer_leaves_nothing_for_the_next_run(folder: Path) -> None:
    code = (
        "import sys, os, signal, numpy as np; from pathlib import Path\n"
        "from mqnative.store.encode_cache import EncodeCache\n"
        "with EncodeCache(Path(sys.argv[1]), 10_000).writer('key', 100) as part:\n"
        "    part.write(np.zeros(50, np.uint8)); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=False)
    (left,) = folder.glob("*.part")
    os.utime(left, (1, 1))
    os.utime(left, (time.time() - 5, time.time() - 5))
    EncodeCache(folder, 10_000)
    assert list(folder.glob("*.part")) == []


def test_files_that_are_not_ours_are_left_alone(folder: Path) -> None:
    folder.mkdir()
    (folder / "README").write_bytes(bytes(5000))
    cache = EncodeCache(folder, 1000)
    cache.put("key", some_blocks(900))
    assert files(folder) == ["README", "key.enc"]


# Keys, sizes, and whether an entry is put or asked for.
operations = st.lists(
    st.tuples(st.sampled_from(["put", "get", "reopen"]), st.integers(0, 5), st.integers(0, 400)), max_size=30
)


@settings(deadline=None, max_examples=60)
@given(limit=st.integers(0, 900), steps=operations)
def test_the_total_is_never_above_the_limit_and_what_is_found_is_right(
    limit: int, steps: list[tuple[str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "encoded"
        cache = EncodeCache(folder, limit)
        for action, number, n_bytes in steps:
            key, blocks = f"{number}-{n_bytes}", some_blocks(n_bytes, number)
            if action == "put":
                cache.put(key, blocks)
                assert (cache.get(key, n_bytes) is not None) == (n_bytes + FOOTER_BYTES <= limit)
            elif action == "get":
                found = cache.get(key, n_bytes)
                assert found is None or np.array_equal(found, blocks)
            else:
                limit = max(0, limit - 100)
                cache = EncodeCache(folder, limit)
            assert size(folder) <= limit


# ---- Damage -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 500, 999, 1000, 1007, 1008, 1015, 1016, 1019])
def test_one_wrong_bit_anywhere_is_a_miss_and_the_file_goes(
    cache: EncodeCache, folder: Path, at: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cache.put("key", some_blocks(1000))
    path = folder / "key.enc"
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x10
    path.write_bytes(raw)
    assert cache.get("key", 1000) is None
    assert files(folder) == []
    assert [r.getMessage() for r in caplog.records] == [f"removed {path}, which is damaged"]
    cache.put("key", some_blocks(1000))
    assert cache.get("key", 1000) is not None


@pytest.mark.parametrize("length", [0, 1, 19, 20, 999, 1000, 1019, 1021, 5000])
def test_a_file_of_another_length_is_a_miss_and_goes(cache: EncodeCache, folder: Path, length: int) -> None:
    cache.put("key", some_blocks(1000))
    os.truncate(folder / "key.enc", length)
    assert cache.get("key", 1000) is None
    assert files(folder) == []


def test_pages_that_never_reached_the_disk_are_a_miss(cache: EncodeCache, folder: Path) -> None:
    cache.put("key", some_blocks(9000))
    (folder / "key.enc").write_bytes(bytes(9000 + FOOTER_BYTES))  # what a power cut leaves
    assert cache.get("key", 9000) is None


def test_an_entry_under_another_name_is_a_miss(cache: EncodeCache, folder: Path) -> None:
    cache.put("key", some_blocks(1000))
    (folder / "key.enc").rename(folder / "other.enc")
    assert cache.get("other", 1000) is None
    assert files(folder) == []


# ---- Trouble ----------------------------------------------------------------------------------------


def no_space(file: BinaryIO, data: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def no_space_for_more_than(n_bytes: int) -> Callable[[BinaryIO, Any], None]:
    def write(file: BinaryIO, data: Any) -> None:
        if file.tell() + len(data) > n_bytes:
            no_space(file, data)
        file.write(data)

    return write


@pytest.mark.parametrize("room", [0, 150, 1000])
def test_a_full_disk_ends_the_keeping_with_one_line(
    cache: EncodeCache,
    folder: Path,
    room: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache.put("before", some_blocks(50))
    monkeypatch.setattr(encode_cache, "_write", no_space_for_more_than(room))
    with cache.writer("key", 1000) as part:
        for start in range(0, 1000, 100):
            part.write(some_blocks(1000)[start : start + 100])
    cache.put("other", some_blocks(1000))
    monkeypatch.undo()
    cache.put("later", some_blocks(10))
    assert files(folder) == ["before.enc"]
    assert cache.get("before", 50) is not None
    (record,) = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.WARNING)
    assert f"{folder} keeps nothing more in this run" in record.getMessage()
    assert "No space left" in record.getMessage()


def test_a_disk_that_is_full_only_when_the_file_is_closed(
    cache: EncodeCache, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    cache.put("before", some_blocks(10))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        cache.put("key", some_blocks(990))  # small enough to wait in the buffer
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(folder) == ["before.enc"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("name", ["replace", "utime", "mkdir", "open"])
def test_a_folder_that_cannot_be_changed_ends_the_keeping_with_one_line(
    cache: EncodeCache,
    folder: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    cache.put("before", some_blocks(10))

    def refuse(*_args: Any, **_options: Any) -> Any:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        # os.open makes the lock's file.
        patch.setattr(os if name in ("utime", "open") else Path, name, refuse)
        cache.put("key", some_blocks(1000))
        cache.put("other", some_blocks(1000))
    assert files(folder) == ["before.enc"]
    assert cache.get("before", 10) is not None
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "ead-only file system" in caplog.text


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX permissions")
def test_a_read_only_folder_still_serves_what_it_holds(tmp_path: Path) -> None:
    # In a process of its own, which may give up root's rights.
    home = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))
    folder = home / "encoded"
    cache = EncodeCache(folder, 10_000)
    cache.put("key", some_blocks(1000))
    code = (
        "import logging, os, sys; import numpy as np; from pathlib import Path\n"
        "from mqnative.store.encode_cache import EncodeCache\n"
        "logging.basicConfig(format='%(levelname)s %(message)s')\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"  # root may write everywhere
        "cache = EncodeCache(Path(sys.argv[1]), 10_000)\n"
        "cache.put('other', np.zeros(10, np.uint8))\n"
        "print(int(cache.get('key', 1000).sum()), cache.get('other', 10))\n"
    )
    for path in (home, folder, folder / "locks"):
        path.chmod(0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False
        )
        assert files(folder) == ["key.enc"]
    finally:
        for path in (home, folder, folder / "locks"):
            path.chmod(0o755)
        shutil.rmtree(home)
    assert done.stdout.split() == [str(int(some_blocks(1000).sum())), "None"], done.stderr
    assert done.stderr.count("WARNING") == 1
    assert "keeps nothing more in this run" in done.stderr


def test_a_file_where_the_folder_should_be_ends_the_keeping(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    cache = EncodeCache(tmp_path / "file" / "encoded", 10_000)
    cache.put("key", some_blocks(10))
    assert cache.get("key", 10) is None
    assert len(caplog.records) == 1


def test_a_folder_that_is_removed_meanwhile_is_made_again(cache: EncodeCache, folder: Path) -> None:
    cache.put("key", some_blocks(10))
    shutil.rmtree(folder)
    assert cache.get("key", 10) is None
    cache.put("key", some_blocks(10))
    assert cache.get("key", 10) is not None


def test_entries_that_others_remove_meanwhile_are_not_missed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = EncodeCache(folder, 3500)
    for key in ("a", "b", "c"):
        cache.put(key, some_blocks(1000))
    seen = encode_cache._files

    def seen_then_gone(folder: Path) -> Any:
        found = seen(folder)
        (folder / "a.enc").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(encode_cache, "_files", seen_then_gone)
    cache.put("d", some_blocks(1000))
    assert files(folder) == ["b.enc", "c.enc", "d.enc"]


# ---- Several processes ------------------------------------------------------------------------------

WORKER = """
import random, sys
from pathlib import Path
import numpy as np
from mqnative.store.encode_cache import EncodeCache

folder, seed, limit, n_rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
cache = EncodeCache(folder, limit)
hits = 0
for _ in range(n_rounds):
    number = rng.randrange(12)
    blocks = np.random.default_rng([3407, number]).integers(0, 256, 2000 + number, np.uint8)
    found = cache.get(str(number), blocks.size)
    if found is None:
        with cache.writer(str(number), blocks.size) as part:
            part.write(blocks[:1000])
            part.write(blocks[1000:])
    else:
        hits += 1
        assert np.array_equal(found, blocks)
print(hits)
"""


def test_two_processes_share_a_cache_that_never_exceeds_its_limit(folder: Path) -> None:
    limit, n_rounds = 7 * 2100, 1500
    command = [sys.executable, "-c", WORKER, str(folder)]
    workers = [
        subprocess.Popen([*command, str(seed), str(limit), str(n_rounds)], stdout=subprocess.PIPE, text=True)
        for seed in (1, 2)
    ]
    largest = 0
    while any(w.poll() is None for w in workers):
        with named_lock(folder, "encode cache"):
            largest = max(largest, sum(p.stat().st_size for p in folder.glob("*.enc")))
        time.sleep(0.005)
    hits = [int(w.communicate()[0]) for w in workers]
    assert [w.returncode for w in workers] == [0, 0]
    assert min(hits) > n_rounds // 10  # of 12 entries 7 fit
    assert 0 < largest <= limit
    assert 0 < size(folder) <= limit
    assert all(name.endswith(".enc") for name in files(folder))


# ---- How large it may be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "limit"), [("123456", 123456), (" 5 ", 5), ("0", None), ("00", None), (str(10**13), 10**13)]
)
def test_the_variable_sets_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limit: int | None
) -> None:
    monkeypatch.setenv("MQNATIVE_CACHE_BYTES", text)
    cache = EncodeCache.open(tmp_path)
    assert (None if cache is None else cache.limit_bytes) == limit
    if cache is not None:
        assert cache.folder == tmp_path / "cache" / "encoded"


@pytest.mark.parametrize("text", ["4GiB", "-1", "1e9", "1_000", "²", "much"])
def test_a_variable_that_is_no_number_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("MQNATIVE_CACHE_BYTES", text)
    with pytest.raises(StoreError, match=r"MQNATIVE_CACHE_BYTES is .*; set it to .* or to 0 for no cache"):
        EncodeCache.open(tmp_path)


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize(("free", "limit"), [(10**12, 20 * 10**9), (5 * 10**9, 5 * 10**8), (0, 102)])
def test_the_default_limit_is_a_tenth_of_what_is_free_and_at_most_20_gb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, limit: int
) -> None:
    monkeypatch.delenv("MQNATIVE_CACHE_BYTES", raising=False)
    EncodeCache(tmp_path / "cache" / "encoded", 2000).put("key", some_blocks(1000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**13, 10**13 - free, free))
    cache = EncodeCache.open(tmp_path)
    assert cache is not None
    assert cache.limit_bytes == limit + (102 if 0 < free < 10**12 else 0)  # what is cached counts as free


def test_without_a_home_folder_there_is_no_cache(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path / "file" / "home"))
    assert EncodeCache.open() is None
    assert "not cached in this run" in caplog.text
    monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path / "home"))
    cache = EncodeCache.open()
    assert cache is not None
    assert cache.folder == tmp_path / "home" / "cache" / "encoded"


# ---- Which types ------------------------------------------------------------------------------------


def test_types_that_encode_faster_than_a_disk_reads_are_not_kept() -> None:
    weights = np.ones(256, np.float32)
    for target in ("F32", "F16", "BF16", "Q8_0"):
        assert not worth_keeping(target, None)
        assert not worth_keeping(target, weights)
    for target in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        assert not worth_keeping(target, None)
        assert worth_keeping(target, weights)
    for target in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "MXFP4", "TQ2_0"):
        assert worth_keeping(target, None)


# ---- In use -----------------------------------------------------------------------------------------

LADDER = ("Q3_K", "Q4_K", "Q6_K")
MIX = {
    "blk.0.attn_q.weight": "Q5_K",
    "blk.0.ffn_up.weight": "Q8_0",
    "blk.1.ffn_down.weight": "BF16",
    "token_embd.weight": "Q4_0",
}


class Encodes:
    """Counts what is encoded, by anyone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.targets: list[str] = []
        real_quantize, real_encode = build_writer.quantize_blocks, Model.encode

        def quantize_blocks(data: Any, source: Any, shape: Any, target: Any, *rest: Any, **named: Any) -> Any:
            self.targets.append(target.name)
            return real_quantize(data, source, shape, target, *rest, **named)

        def encode(model: Model, name: str, target: str, *rest: Any, **named: Any) -> Any:
            self.targets.append(target)
            return real_encode(model, name, target, *rest, **named)

        monkeypatch.setattr(build_writer, "quantize_blocks", quantize_blocks)
        monkeypatch.setattr(encoded, "quantize_blocks", quantize_blocks)
        monkeypatch.setattr(Model, "encode", encode)

    def slow(self) -> list[str]:
        """The targets since the last call, without those that are never kept."""
        found = [t for t in self.targets if t not in ("F32", "F16", "BF16", "Q8_0")]
        self.targets.clear()
        return found


@pytest.fixture
def encodes(monkeypatch: pytest.MonkeyPatch) -> Encodes:
    return Encodes(monkeypatch)


def importances(path: Path) -> Imatrix:
    entries = {}
    with GGUFFile.open(path) as file:
        for index, (name, info) in enumerate(file.tensors.items()):
            if len(info.shape) > 1:
                rng = np.random.default_rng([SEED, index])
                n_slices, _, n_per_row = info.matrix_shape
                sums = rng.gamma(0.5, 2.0, (n_slices, n_per_row)).astype(np.float32)
                entries[name] = ImatrixEntry(sums, np.full(n_slices, 8, np.float32))
    return Imatrix(entries, datasets=("calib.txt",), chunk_count=1, chunk_size=512)


class Builder:
    """Builds files of one model with one cache."""

    def __init__(self, source: Path, out: Path, cache: EncodeCache | None) -> None:
        self.out, self.cache = out, cache
        self.file = GGUFFile.open(source)
        self.identity = identify(self.file)
        self.imatrix = importances(source)

    def plan(self, recipe: Recipe, *, with_imatrix: bool = True) -> BuildPlan:
        return plan_build(
            self.file,
            recipe,
            self.imatrix if with_imatrix else None,
            imatrix_name="i.gguf",
            source_hash=self.identity.model,
        )

    def build(
        self, recipe: Recipe, *, cached: bool = True, with_imatrix: bool = True, **options: Any
    ) -> bytes:
        cache = EncodedTensors.of(self.file, self.identity.tensors, self.cache) if cached else None
        output = self.out / "m.gguf"
        plan = self.plan(recipe, with_imatrix=with_imatrix)
        build_gguf(self.file, plan, output, force=True, cache=cache, **options)
        return output.read_bytes()


@pytest.fixture(params=["dense", "moe"])
def builder(
    request: pytest.FixtureRequest, tiny_models: TinyModels, tmp_path: Path, folder: Path
) -> Iterator[Builder]:
    made = Builder(getattr(tiny_models, request.param), tmp_path, EncodeCache(folder, 10**9))
    yield made
    made.file.close()


@pytest.mark.parametrize("slab", [16 * 1024 * 1024, 50_000])
def test_a_ladder_has_the_bytes_of_builds_without_cache_and_its_second_round_encodes_nothing(
    builder: Builder, encodes: Encodes, monkeypatch: pytest.MonkeyPatch, slab: int, recording_monitor: Any
) -> None:
    monkeypatch.setattr(build_writer, "_SLAB_WEIGHTS", slab)
    tensors = {n: t for n, t in MIX.items() if n in builder.file.tensors}
    recipes = [Recipe(base=base, tensors=tensors) for base in LADDER]
    expected = [builder.build(recipe, cached=False) for recipe in recipes]
    encodes.slow()
    assert [builder.build(recipe) for recipe in recipes] == expected
    assert encodes.slow()
    assert [builder.build(recipe, monitor=recording_monitor) for recipe in recipes] == expected
    assert encodes.slow() == []
    n_weights = builder.plan(recipes[0]).n_weights
    assert recording_monitor.started == [("build", n_weights, "weights")] * 3
    assert recording_monitor.updates[-1] == max(recording_monitor.updates) == n_weights
    # Another mix of the same types is there, too.
    other = Recipe(base="Q4_K", tensors={n: "Q6_K" for n in builder.file.tensors if "ffn_up" in n})
    assert builder.build(other) == builder.build(other, cached=False)


def test_importances_and_their_absence_are_kept_apart(builder: Builder, encodes: Encodes) -> None:
    recipe = Recipe(base="Q4_K")
    expected = [builder.build(recipe, cached=False, with_imatrix=w) for w in (True, False)]
    encodes.slow()
    assert [builder.build(recipe, with_imatrix=w) for w in (True, False)] == expected
    assert encodes.slow()
    assert [builder.build(recipe, with_imatrix=w) for w in (True, False)] == expected
    assert encodes.slow() == []


def test_another_source_or_encoder_is_another_entry(
    builder: Builder, encodes: Encodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.build(Recipe(base="Q4_K"))
    assert (first := encodes.slow())
    info = core().build_info()
    with monkeypatch.context() as patch:
        patch.setattr(core(), "build_info", lambda: {**info, "isa": "other", "compiler": "other"})
        builder.build(Recipe(base="Q4_K"))
        assert encodes.slow() == []
        patch.setattr(core(), "build_info", lambda: {**info, "upstream_commit": "other"})
        builder.build(Recipe(base="Q4_K"))
        assert encodes.slow() == first
        patch.setattr(core(), "build_info", lambda: {**info, "upstream_commit": "own checkout"})
        builder.build(Recipe(base="Q4_K"))
        assert encodes.slow() == first  # which nobody can tell from another one


def test_a_full_disk_while_caching_changes_no_byte(
    builder: Builder, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Recipe(base="Q4_K")
    expected = builder.build(recipe, cached=False)
    monkeypatch.setattr(encode_cache, "_write", no_space_for_more_than(20_000))
    assert builder.build(recipe) == expected
    assert len(caplog.records) == 1
    assert all(name.endswith(".enc") for name in files(folder))


def test_damaged_entries_change_no_byte(builder: Builder, folder: Path, encodes: Encodes) -> None:
    expected = builder.build(Recipe(base="Q4_K"))
    first = encodes.slow()
    for path in folder.glob("*.enc"):
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)
    assert builder.build(Recipe(base="Q4_K")) == expected
    assert encodes.slow() == first


def test_a_cache_too_small_for_the_model_changes_no_byte(
    builder: Builder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = builder.build(Recipe(base="Q4_K"), cached=False)
    builder.cache = EncodeCache(tmp_path / "small", 100_000)
    for _ in range(2):
        assert builder.build(Recipe(base="Q4_K")) == expected
        assert 0 < size(tmp_path / "small") <= 100_000


def test_a_disk_with_room_for_the_output_only_is_left_to_it(
    builder: Builder, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = builder.plan(Recipe(base="Q4_K"))
    for free, kept in ((2 * plan.file_bytes - 1, False), (2 * plan.file_bytes, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, n=free: Usage(n, 0, n))
        builder.build(Recipe(base="Q4_K"))
        assert bool(files(folder)) == kept


def test_a_build_that_is_cancelled_leaves_no_half_entry(
    tiny_models: TinyModels, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_writer, "_SLAB_WEIGHTS", 20_000)
    builder = Builder(tiny_models.dense, tmp_path, EncodeCache(folder, 10**9))
    token = CancelToken()

    class Late:
        def start(self, step: str, total: int, unit: str) -> None: ...

        def update(self, done: int) -> None:
            if done > 1_300_000:  # after the embeddings, in the midst of a tensor
                assert any(name.endswith(".part") for name in files(folder))
                token.cancel()

        def finish(self) -> None: ...

    with pytest.raises(OperationCancelled):
        builder.build(Recipe(base="Q4_K"), monitor=CancellableMonitor(token, Late()))
    builder.file.close()
    assert files(folder)
    assert all(name.endswith(".enc") for name in files(folder))


def test_a_tensor_that_cannot_be_encoded_is_named_and_not_kept(
    tiny_models: TinyModels, tmp_path: Path, folder: Path, encodes: Encodes
) -> None:
    name = "blk.1.ffn_down.weight"
    with GGUFFile.open(tiny_models.dense) as file:
        offset = file.tensors[name].offset
        assert file.tensors[name].qtype.name == "BF16"
    raw = bytearray(tiny_models.dense.read_bytes())
    raw[offset + 200_000 : offset + 200_002] = b"\xc0\x7f"  # NaN
    (tmp_path / "damaged.gguf").write_bytes(raw)
    builder = Builder(tmp_path / "damaged.gguf", tmp_path, EncodeCache(folder, 10**9))
    for _ in range(2):
        with pytest.raises(NonFiniteError) as caught:
            builder.build(Recipe(base="Q4_K"))
        assert caught.value.tensor == name
        assert caught.value.row == 100_000 // 512
    assert len(files(folder)) == len(encodes.slow()) - 2
    assert all(name.endswith(".enc") for name in files(folder))
    builder.file.close()


@pytest.fixture(scope="module")
def model(builtin_model: Path) -> Iterator[Model]:
    with Model(builtin_model, n_threads=1) as loaded:
        yield loaded


MIXES = {
    "one": {"blk.0.attn_q.weight": "Q3_K"},
    "two": {"blk.0.attn_q.weight": "Q3_K", "blk.6.ffn_up.weight": "IQ4_XS", "output.weight": "Q8_0"},
}


def test_scores_are_the_same_bits_without_with_a_cold_and_with_a_warm_cache(
    model: Model, builtin_model: Path, eval_text: str, folder: Path, tmp_path: Path, encodes: Encodes
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(eval_text[:2000], encoding="utf-8")
    corpus = read_corpus(model, text, n_ctx=64).head(1)
    weights = {name: np.linspace(0, 3, 256, dtype=np.float32) for mix in MIXES.values() for name in mix}
    found = []
    with GGUFFile.open(builtin_model) as file:
        cache = EncodedTensors.of(file, identify(file).tensors, EncodeCache(folder, 10**9))
        for used, n_encoded in ((None, 2), (cache, 2), (cache, 0)):
            pool = VariantPool(model, weights, used)
            found.append(list(score_mixes(model, pool, corpus, {0: list(MIXES)}, MIXES)))
            assert len(encodes.slow()) == n_encoded
    for results in found[1:]:
        for one, other in zip(found[0], results, strict=True):
            assert np.array_equal(one.scores.kld, other.scores.kld)  # type: ignore[arg-type]
            assert np.array_equal(one.scores.nll, other.scores.nll)


def test_a_probe_after_a_build_encodes_nothing(
    builtin_model: Path, eval_text: str, tmp_path: Path, encodes: Encodes
) -> None:
    text = tmp_path / "text.txt"
    text.write_text(eval_text[:3000], encoding="utf-8")
    imatrix = importances(builtin_model)
    names = [f"blk.{i}.{role}.weight" for i in (0, 7) for role in ("attn_v", "ffn_up")]
    with Store.open(tmp_path / "home") as store:
        with Study(builtin_model, store, compute=Compute(n_threads=1)) as study:
            plan = plan_build(study.file, Recipe(base="Q3_K"), imatrix, source_hash=study.identity.model)
            build_gguf(study.file, plan, tmp_path / "m.gguf", n_threads=1, cache=study.cache)
            assert encodes.slow()
            corpus = read_corpus(study.model, text, n_ctx=64).head(2)
            weights = {n: imatrix.weights_for(n, study.file.tensors[n].shape) for n in names}
            klds = probe(study, corpus, dict.fromkeys(names, "Q3_K"), weights)
            assert encodes.slow() == []
        assert store.count("probe") == len(names) * 2
    with Store.open(tmp_path / "elsewhere") as store, Study(builtin_model, store) as study:
        again = probe(study, corpus, dict.fromkeys(names, "Q3_K"), weights)
        assert encodes.slow() == ["Q3_K"] * len(names)
    for name in names:
        assert np.array_equal(klds[name], again[name])


# ---- The command ------------------------------------------------------------------------------------


def test_build_uses_the_cache_unless_told_not_to(builtin_model: Path, tmp_path: Path) -> None:
    env = {"MQNATIVE_HOME": str(tmp_path / "home"), "MQNATIVE_CACHE_BYTES": ""}
    arguments = ("build", builtin_model, "--preset", "Q4_K_M", "-t", 1, "-o")
    entries = tmp_path / "home" / "cache" / "encoded"
    succeed(*arguments, tmp_path / "a.gguf", "--no-cache", env=env)
    assert not entries.exists()
    succeed(*arguments, tmp_path / "b.gguf", env=env | {"MQNATIVE_CACHE_BYTES": "0"})
    assert not entries.exists()
    succeed(*arguments, tmp_path / "b.gguf", "--dry-run", env=env)
    assert not entries.exists()
    succeed(*arguments, tmp_path / "c.gguf", env=env)
    assert files(entries)
    times = {p.name: p.stat().st_mtime_ns for p in entries.glob("*.enc")}
    succeed(*arguments, tmp_path / "d.gguf", env=env)
    assert all(p.stat().st_mtime_ns > times[p.name] for p in entries.glob("*.enc"))
    made = {(tmp_path / f"{name}.gguf").read_bytes() for name in "abcd"}
    assert len(made) == 1


def test_build_works_where_no_cache_can_be_and_refuses_a_variable_it_does_not_understand(
    builtin_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    arguments = ("build", builtin_model, "--preset", "Q3_K_M", "-t", 1, "-o", tmp_path / "m.gguf")
    succeed(*arguments, env={"MQNATIVE_HOME": str(tmp_path / "file" / "home"), "MQNATIVE_CACHE_BYTES": ""})
    (tmp_path / "m.gguf").unlink()
    done = mqnative(*arguments, env={"MQNATIVE_HOME": str(tmp_path), "MQNATIVE_CACHE_BYTES": "4GiB"})
    assert done.code == 1
    assert "MQNATIVE_CACHE_BYTES is '4GiB'" in done.err
    assert not (tmp_path / "m.gguf").exists()
