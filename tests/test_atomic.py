"""Outputs appear whole or not at all, and a failed write says why and leaves nothing behind."""

from __future__ import annotations

import errno
import mmap
import os
import pickle
import stat
from pathlib import Path

import pytest

from mqnative.errors import OutputError
from mqnative.formats.atomic import atomic_path, give_name, write_bytes_atomic, write_text_atomic


def write_half_and_raise(target: Path, exception: BaseException) -> None:
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"half of the n")
        raise exception


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_the_file_appears_under_its_name_with_exactly_what_was_written(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"abc")
        assert not target.exists()
    assert target.read_bytes() == b"abc"
    assert names(tmp_path) == ["out.bin"]


def test_the_temporary_file_is_a_hidden_sibling(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "out.bin") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".out.bin.")
        assert temporary.suffix == ".part"


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write_half_and_raise(target, ZeroDivisionError())
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["out.bin"]


def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_half_and_raise(tmp_path / "out.bin", KeyboardInterrupt())
    assert names(tmp_path) == []


def test_a_mapped_reader_keeps_the_old_bytes(tmp_path: Path) -> None:
    target = tmp_path / "out.bin"
    target.write_bytes(b"old")
    with target.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        write_bytes_atomic(target, b"")
        assert mapped[:] == b"old"
    assert target.read_bytes() == b""


def test_text_is_written_as_utf8_with_its_line_ends_unchanged(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "out.txt", "é\nx\r\n")
    assert (tmp_path / "out.txt").read_bytes() == b"\xc3\xa9\nx\r\n"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no mode bits")
def test_the_file_has_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_bytes_atomic(tmp_path / "atomic", b"x")
    plain, atomic = ((tmp_path / name).stat().st_mode for name in ("plain", "atomic"))
    assert stat.S_IMODE(plain) == stat.S_IMODE(atomic)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("missing/out.bin", "does not exist"),
        ("file/out.bin", "is a file"),
        ("folder", "a folder has that name"),
        ("/", "a folder has that name"),
        ("n" * 300, "too long"),
    ],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, target: str, reason: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=reason) as caught, atomic_path(tmp_path / target):
        pytest.fail("the block ran")
    assert caught.value.path == str(tmp_path / target)
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="permission denied"):
            write_bytes_atomic(tmp_path / "out.bin", b"x")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(errno.ENOSPC, "disk is full"), (errno.EDQUOT, "quota"), (errno.EFBIG, "this large")],
)
def test_a_full_disk_is_told_as_such_and_the_temporary_is_removed(
    tmp_path: Path, number: int, reason: str
) -> None:
    as_write_raises_it = OSError(number, os.strerror(number))  # without a file name
    with pytest.raises(OutputError, match=reason):
        write_half_and_raise(tmp_path / "out.bin", as_write_raises_it)
    assert names(tmp_path) == []


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failure_after_the_block_is_about_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def fail(*args: object) -> None:
        name = (str(args[0]),) if call == "replace" else ()
        raise OSError(errno.EIO, "Input/output error", *name)

    owner = os if call == "fsync" else Path
    with monkeypatch.context() as patch:
        patch.setattr(owner, call, fail)
        with pytest.raises(OutputError, match="Input/output error"):
            write_bytes_atomic(tmp_path / "out.bin", b"x")
    assert names(tmp_path) == []


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What reaches the system, in order: (write or sync or rename, inode)."""
    found: list[tuple[str, int]] = []
    fsync, replace, write = os.fsync, Path.replace, Path.write_bytes

    def noted_fsync(descriptor: int) -> None:
        fsync(descriptor)
        found.append(("sync", os.fstat(descriptor).st_ino))

    def noted_replace(source: Path, target: Path) -> Path:
        found.append(("rename", source.stat().st_ino))
        return replace(source, target)

    def noted_write(path: Path, data: bytes) -> int:
        size = write(path, data)
        found.append(("write", path.stat().st_ino))
        return size

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(Path, "write_bytes", noted_write)
    return found


@pytest.mark.skipif(os.name == "nt", reason="Windows cannot sync a folder")
@pytest.mark.parametrize("how", ["atomic", "named"])
def test_a_power_cut_finds_the_bytes_before_the_name_and_the_name_before_the_next_step(
    tmp_path: Path, calls: list[tuple[str, int]], how: str
) -> None:
    target = tmp_path / "out.bin"
    target.touch()
    if how == "atomic":
        write_bytes_atomic(target, b"data")
    else:
        part = tmp_path / "out.part"
        part.write_bytes(b"data")
        give_name(part, target)
    file, folder = target.stat().st_ino, tmp_path.stat().st_ino
    assert calls == [("write", file), ("sync", file), ("rename", file), ("sync", folder)]
    assert target.read_bytes() == b"data"


def test_an_error_about_another_file_passes_through(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "out.bin"):
        (tmp_path / "source.bin").read_bytes()
    assert names(tmp_path) == []


def test_an_output_error_of_the_block_is_not_wrapped_again(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="inner") as caught, atomic_path(tmp_path / "out.bin"):
        raise OutputError("inner", path="elsewhere")
    assert caught.value.path == "elsewhere"


def test_an_output_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(OutputError("cannot write", path="x")))
    assert (str(error), error.path) == ("cannot write", "x")
