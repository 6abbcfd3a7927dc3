"""The store keeps what was measured: across versions, processes, kills, full disks and damaged files."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from mqnative.errors import MQNativeError, NonFiniteError, StoreError
from mqnative.store import Store, content_key, file_stamp, home
from mqnative.store.connection import Database
from mqnative.store.keys import canonical_json
from mqnative.store.locks import lock_path
from mqnative.store.migrations import STEPS, migrate

INPUTS = {
    "model": "ab" * 32,
    "tensor": "cd" * 32,
    "qtype": "Q4_K",
    "metric_version": 1,
    "build": {"isa": "avx2"},
}
VALUE = {"relative": 0.1, "rmse": 1e-300, "note": "é\udc80", "nothing": None, "ci": [0.0, -0.0]}
posix_only = pytest.mark.skipif(os.name == "nt", reason="POSIX signals and modes")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path, timeout_s=0.3) as opened:
        yield opened


def numbered(*numbers: int) -> list[tuple[dict[str, Any], dict[str, Any], None]]:
    return [({"n": n}, {"square": n * n}, None) for n in numbers]


def stored_numbers(folder: Path) -> list[int]:
    with Store.open(folder) as store:
        return [m.inputs["n"] for m in store.all_of("probe")]


def python(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def output_of(process: subprocess.Popen[str], returncode: int = 0) -> str:
    out, err = process.communicate(timeout=60)
    assert process.returncode == returncode, err
    return out


def wait_until(condition: Callable[[], bool], timeout_s: float = 30.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def assert_sound(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "mqnative.db")) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class TestHome:
    def test_the_variable_decides_and_the_folder_is_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MQNATIVE_HOME", str(tmp_path / "a" / "b"))
        assert home() == tmp_path / "a" / "b"
        assert home().is_dir()
        with Store.open() as store:
            assert store.folder == home()

    def test_a_tilde_and_a_relative_path_are_understood(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("USERPROFILE", str(tmp_path))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("MQNATIVE_HOME", "~/store")
        assert home() == tmp_path / "store"
        monkeypatch.setenv("MQNATIVE_HOME", "here")
        assert home() == tmp_path / "here"

    @pytest.mark.skipif(os.name == "nt", reason="POSIX paths")
    @pytest.mark.parametrize(
        ("platform", "data_home", "expected"),
        [
            ("linux", "", "user/.local/share/mqnative"),
            ("linux", "{tmp}/data", "data/mqnative"),
            ("linux", "relative", "user/.local/share/mqnative"),
            ("darwin", "{tmp}/data", "user/Library/Application Support/mqnative"),
        ],
    )
    def test_without_it_the_platform_decides(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, data_home: str, expected: str
    ) -> None:
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setenv("HOME", str(tmp_path / "user"))
        monkeypatch.setenv("XDG_DATA_HOME", data_home.format(tmp=tmp_path))
        monkeypatch.setenv("MQNATIVE_HOME", "")
        assert home() == tmp_path / expected

    def test_an_unknown_home_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MQNATIVE_HOME", "~no-such-user-of-mqnative/x")
        with pytest.raises(StoreError, match="home folder is unknown; set MQNATIVE_HOME"):
            home()


class TestKeys:
    def test_keys_never_change_by_accident(self) -> None:
        assert canonical_json({"b": 0.1, "a": (1, "é")}) == '{"a":[1,"\\u00e9"],"b":0.1}'
        key = content_key("probe", {"b": 0.1, "a": (1, "é")})
        assert key == hashlib.sha256(b'mqnative probe/1\0{"a":[1,"\\u00e9"],"b":0.1}').hexdigest()

    def test_the_kind_and_every_input_count(self) -> None:
        variants: list[dict[str, Any]] = [*({"x": x} for x in (1, 1.0, True, "1", None, [1])), {"y": 1}, {}]
        keys = {content_key(kind, inputs) for inputs in variants for kind in ("probe", "errors")}
        assert len(keys) == 2 * len(variants)

    @pytest.mark.parametrize(
        "inputs", [{1: "a"}, {"a": {None: 1}}, {"a": [{2: 3}]}, {"a": b"x"}, {"a": {1, 2}}, {"a": Path()}]
    )
    def test_what_json_cannot_hold_is_refused(self, inputs: dict[str, Any], store: Store) -> None:
        with pytest.raises(TypeError, match="measurement"):
            store.get("probe", inputs)
        with pytest.raises(TypeError, match="measurement"):
            store.put("probe", {}, inputs)

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
    def test_numbers_are_finite(self, number: float, store: Store) -> None:
        with pytest.raises(NonFiniteError, match="finite"):
            store.get("probe", {"a": [number]})
        with pytest.raises(NonFiniteError, match="finite"):
            store.put("probe", {}, {"a": {"b": number}})
        assert store.count() == 0

    @pytest.mark.parametrize("kind", ["", "a b", "probe\0", "1"])
    def test_a_kind_is_an_identifier(self, kind: str) -> None:
        with pytest.raises(ValueError, match="identifier"):
            content_key(kind, {})


class TestMeasurements:
    def test_what_was_put_is_found(self, store: Store) -> None:
        assert store.get("errors", INPUTS) is None
        store.put("errors", INPUTS, VALUE, b"\0\xff", elapsed_s=1.5)
        found = store.get("errors", INPUTS)
        assert found is not None
        assert (found.kind, found.key) == ("errors", content_key("errors", INPUTS))
        assert (found.inputs, found.value, found.data, found.elapsed_s) == (INPUTS, VALUE, b"\0\xff", 1.5)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", found.created)
        assert store.get("probe", INPUTS) is None
        assert store.get("errors", INPUTS | {"metric_version": 2}) is None

    def test_the_first_result_stays(self, store: Store) -> None:
        store.put("errors", INPUTS, {"a": 1}, b"one")
        first = store.get("errors", INPUTS)
        store.put("errors", INPUTS, {"a": 1}, b"one")
        store.put("errors", dict(reversed(INPUTS.items())), {"a": 2})
        store.put_many("errors", [(INPUTS, {"a": 3}, None)])
        assert store.get("errors", INPUTS) == first
        assert store.count() == 1

    @pytest.mark.parametrize("data", [None, b"", bytes(300_000)])
    def test_data_comes_back_as_it_was(self, store: Store, data: bytes | None) -> None:
        store.put("imatrix", INPUTS, {}, data)
        found = store.get("imatrix", INPUTS)
        assert found is not None
        assert found.data == data

    def test_many_are_found_in_the_order_asked_for(self, store: Store) -> None:
        store.put_many("probe", numbered(*range(2000)))
        asked = [1999, 5000, 3, 3, 0, -1, *range(1500)]
        found = store.get_many("probe", ({"n": n} for n in asked))
        assert [m and m.value["square"] for m in found] == [n * n if 0 <= n < 2000 else None for n in asked]
        assert store.get_many("probe", []) == []

    def test_counts_and_lists_are_by_kind(self, store: Store) -> None:
        store.put_many("probe", numbered(3, 1, 2, 1))
        store.put("errors", INPUTS, {})
        assert (store.count(), store.count("probe"), store.count("errors"), store.count("x")) == (4, 3, 1, 0)
        assert [m.inputs["n"] for m in store.all_of("probe")] == [3, 1, 2]

    def test_many_are_put_together_or_not_at_all(self, store: Store) -> None:
        with pytest.raises(TypeError):
            store.put_many("probe", [*numbered(1, 2), ({"n": 3}, {"bad": {1}}, None)])
        with pytest.raises(StoreError, match="CHECK"):
            store.put_many("probe", [*numbered(1, 2), ({"n": 3}, {}, "no bytes")])  # type: ignore[list-item]
        assert store.count() == 0
        store.put_many("probe", [])
        store.put_many("probe", numbered(1, 2))
        assert store.count() == 2

    def test_rows_are_computed_before_the_store_is_locked(self, store: Store) -> None:
        def rows() -> Iterator[Any]:
            yield from numbered(1)
            with Store.open(store.folder, timeout_s=0) as other:
                other.put_many("probe", numbered(2))
            yield from numbered(3)

        store.put_many("probe", rows())
        assert stored_numbers(store.folder) == [2, 1, 3]

    def test_a_row_beyond_sqlites_limit_is_refused(self, store: Store) -> None:
        with pytest.raises(StoreError, match="limited to 1 GB"):
            store.put("imatrix", INPUTS, {}, bytes(1_000_000_001))
        assert store.count() == 0

    def test_everything_is_there_after_opening_again(self, tmp_path: Path) -> None:
        with Store.open(tmp_path) as store:
            store.put("errors", INPUTS, VALUE, b"x")
            before = store.get("errors", INPUTS)
        store.close()
        with Store.open(tmp_path) as store:
            assert store.get("errors", INPUTS) == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["mqnative.db"]

    def test_a_closed_store_and_another_thread_are_programming_errors(self, store: Store) -> None:
        caught: list[BaseException] = []

        def elsewhere() -> None:
            try:
                store.count()
            except sqlite3.ProgrammingError as error:
                caught.append(error)

        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert len(caught) == 1
        store.close()
        with pytest.raises(sqlite3.ProgrammingError):
            store.count()

    def test_folders_of_any_name_hold_a_store(self, tmp_path: Path) -> None:
        names = [b"a b#?%41", "é\u4e2d".encode()] + ([] if sys.platform in ("win32", "darwin") else [b"\xff"])
        for name in names:
            with Store.open(tmp_path / os.fsdecode(name)) as store:
                store.put_many("probe", numbered(1))
            assert (tmp_path / os.fsdecode(name) / "mqnative.db").stat().st_size > 0


def test_analysts_find_the_figures_as_columns(store: Store) -> None:
    code = {"metric_version": 1, "build": "0c1e5709 avx2 cpu"}
    chunk = code | {"model": "m", "mix": "x", "chunk": "c", "n_ctx": 512}
    scores = {"n_tokens": 256, "kld_mean": 0.01, "nll_mean": 2.5}
    error = {"weighted": 0.5, "half_width": 0.01, "n_rows": 64}
    store.put(
        "errors", code | {"tensor": "ab", "name": "output.weight", "imatrix": None, "qtype": "Q4_K"}, error
    )
    store.put("errors", code | {"tensor": "cd", "name": "\udcff", "qtype": "Q8_0"}, {"weighted": 0})
    store.put("probe", chunk, scores | {"tensor": "output.weight", "qtype": "Q2_K"})
    store.put("evaluation", chunk, scores, b"tokens", elapsed_s=0.5)
    selections = {
        "tensor, tensor_hash, imatrix, weighted, half_width, n_rows FROM errors WHERE qtype = 'Q4_K'": (
            ("output.weight", "ab", None, 0.5, 0.01, 64)
        ),
        "count(*), min(weighted), min(tolerance) FROM errors": (2, 0, None),
        "model, tensor, qtype, chunk, n_ctx, kld_mean, n_tokens FROM probes": (
            ("m", "output.weight", "Q2_K", "c", 512, 0.01, 256)
        ),
        "mix, nll_mean, metric_version, build, elapsed_s FROM evaluations": (
            ("x", 2.5, 1, "0c1e5709 avx2 cpu", 0.5)
        ),
    }
    with closing(sqlite3.connect(store.folder / "mqnative.db")) as db:
        for selection, row in selections.items():
            assert db.execute(f"SELECT {selection}").fetchall() == [row]


# The first schema as it was released, written out: the steps may not change under it.
V1_SCHEMA = """
CREATE TABLE measurements (
  id INTEGER PRIMARY KEY,
  kind TEXT NOT NULL,
  key TEXT NOT NULL UNIQUE CHECK (length(key) = 64),
  inputs TEXT NOT NULL,
  value TEXT NOT NULL,
  created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
  elapsed_s REAL NOT NULL CHECK (elapsed_s >= 0),
  data BLOB CHECK (typeof(data) IN ('blob', 'null'))
);
CREATE INDEX measurements_by_kind ON measurements (kind);
PRAGMA application_id = 0x6D716E61;
PRAGMA user_version = 1;
"""


def build_v1(path: Path, n_rows: int) -> None:
    insert = (
        "INSERT INTO measurements (kind, key, inputs, value, created, elapsed_s) VALUES (?, ?, ?, ?, ?, ?)"
    )
    with closing(sqlite3.connect(path)) as db:
        db.executescript(V1_SCHEMA)
        for n in range(n_rows):
            key = content_key("probe", {"n": n})
            db.execute(insert, ("probe", key, f'{{"n":{n}}}', "{}", "2026-01-31T12:00:00.000Z", 2.5))
        db.commit()


def build_by_steps(path: Path, version: int) -> None:
    with closing(Database(path, 1.0)) as database:
        migrate(database, STEPS[:version])


def schema(folder: Path) -> tuple[Any, ...]:
    with closing(sqlite3.connect(folder / "mqnative.db")) as db:
        objects = db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        flat = [(kind, name, sql and " ".join(sql.split())) for kind, name, sql in objects]
        return (
            flat,
            db.execute("PRAGMA user_version").fetchone(),
            db.execute("PRAGMA application_id").fetchone(),
        )


class TestMigrations:
    def test_a_new_store_has_the_settings_that_keep_rows_safe(self, store: Store) -> None:
        pragma = store._database.execute
        assert pragma("PRAGMA journal_mode") == [("wal",)]
        assert pragma("PRAGMA synchronous") == [(2,)]
        assert pragma("PRAGMA foreign_keys") == [(1,)]
        assert pragma("PRAGMA user_version") == [(len(STEPS),)]

    @pytest.mark.parametrize("version", range(len(STEPS) + 1))
    def test_every_older_version_becomes_the_newest(self, tmp_path: Path, version: int) -> None:
        (tmp_path / "new").mkdir()
        Store.open(tmp_path / "new").close()
        (tmp_path / "mqnative.db").touch()
        build_by_steps(tmp_path / "mqnative.db", version)
        with Store.open(tmp_path) as store:
            store.put("errors", INPUTS, VALUE)
            store.remember_identity([tmp_path / "mqnative.db"], "{}")
        assert schema(tmp_path) == schema(tmp_path / "new")

    @pytest.mark.parametrize("n_rows", [0, 3])
    def test_the_first_version_keeps_its_rows(self, tmp_path: Path, n_rows: int) -> None:
        build_v1(tmp_path / "mqnative.db", n_rows)
        with Store.open(tmp_path) as store:
            found = store.get_many("probe", [{"n": n} for n in range(n_rows)])
            assert [m and (m.inputs["n"], m.created, m.elapsed_s) for m in found] == [
                (n, "2026-01-31T12:00:00.000Z", 2.5) for n in range(n_rows)
            ]
            store.put_many("probe", numbered(0, 1, 2, 3))
            assert store.count() == 4
        Store.open(tmp_path / "new").close()
        assert schema(tmp_path) == schema(tmp_path / "new")

    def test_a_failing_step_leaves_the_version_before_it(self, tmp_path: Path) -> None:
        def half_a_step(db: sqlite3.Connection) -> None:
            db.execute("CREATE TABLE half (x)")
            db.execute("INSERT INTO no_such_table VALUES (1)")

        with closing(Database(tmp_path / "mqnative.db", 1.0)) as database:
            with pytest.raises(StoreError, match="no_such_table"):
                migrate(database, (STEPS[0], half_a_step))
            assert database.execute("PRAGMA user_version") == [(1,)]
            assert database.execute("SELECT name FROM sqlite_master WHERE name = 'half'") == []
        with Store.open(tmp_path) as store:
            assert store.count() == 0

    def test_an_up_to_date_store_is_not_written_when_opened(self, tmp_path: Path) -> None:
        Store.open(tmp_path).close()
        before = (tmp_path / "mqnative.db").stat()
        Store.open(tmp_path).close()
        after = (tmp_path / "mqnative.db").stat()
        assert (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, before.st_size)

    def test_a_newer_store_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "mqnative.db"
        Store.open(tmp_path).close()
        with closing(sqlite3.connect(path)) as db:
            db.execute(f"PRAGMA user_version = {len(STEPS) + 4}")
        before = path.read_bytes()
        ways_out = "upgrade mqnative, or set MQNATIVE_HOME to another folder"
        match = rf"version {len(STEPS) + 4}, this one knows {len(STEPS)}\); {ways_out}"
        with pytest.raises(StoreError, match=match) as caught:
            Store.open(tmp_path)
        assert (caught.value.version, caught.value.path) == (len(STEPS) + 4, str(path))
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "script", ["CREATE TABLE x (y)", "PRAGMA user_version = 1", "PRAGMA application_id = 7"]
    )
    def test_another_programs_database_is_refused_and_left_alone(self, tmp_path: Path, script: str) -> None:
        path = tmp_path / "mqnative.db"
        with closing(sqlite3.connect(path)) as db:
            db.executescript(script)
        before = path.read_bytes()
        with pytest.raises(StoreError, match="another program"):
            Store.open(tmp_path)
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        "overtaken_before", ["user_version", "sqlite_master", "application_id", "WAL", "BEGIN"]
    )
    def test_another_process_may_make_the_schema_at_any_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overtaken_before: str
    ) -> None:
        patiently = Database._patiently

        def overtaken(self: Database, sql: str, values: Any = ()) -> list[Any]:
            if overtaken_before in sql:
                monkeypatch.setattr(Database, "_patiently", patiently)
                build_by_steps(tmp_path / "mqnative.db", len(STEPS))
            return patiently(self, sql, values)

        monkeypatch.setattr(Database, "_patiently", overtaken)
        with Store.open(tmp_path) as store:
            assert Database._patiently is patiently
            store.put("probe", {}, {})
        Store.open(tmp_path / "new").close()
        assert schema(tmp_path) == schema(tmp_path / "new")

    def test_processes_that_open_a_new_store_at_once_agree(self, tmp_path: Path) -> None:
        code = (
            "import sys; from pathlib import Path; from mqnative.store import Store\n"
            "for i in range(12):\n"
            "    with Store.open(Path(sys.argv[1], str(i))) as s: s.put('probe', {'n': int(sys.argv[2])}, {})"
        )
        for process in [python(code, tmp_path, n) for n in range(3)]:
            output_of(process)
        for i in range(12):
            assert sorted(stored_numbers(tmp_path / str(i))) == [0, 1, 2]
        Store.open(tmp_path / "new").close()
        assert schema(tmp_path / "0") == schema(tmp_path / "new")


def damage_nothing_readable(path: Path) -> None:
    path.write_bytes(b"this was never a database, and it is long enough to have a header" * 10)


def damage_short(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0")


def damage_truncated(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_pages(path: Path) -> None:
    with path.open("r+b") as file:
        for offset in range(4096, path.stat().st_size, 4096):
            file.seek(offset)
            file.write(b"\xa5" * 2048)


def damage_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE measurements SET value = '{'")
        db.commit()


class TestFailures:
    @pytest.mark.parametrize(
        "damage",
        [damage_nothing_readable, damage_short, damage_truncated, damage_pages, damage_rows],
        ids=lambda f: f.__name__,
    )
    def test_a_damaged_file_is_named_and_never_replaced(
        self, tmp_path: Path, damage: Callable[[Path], None]
    ) -> None:
        path = tmp_path / "mqnative.db"
        with Store.open(tmp_path) as store:
            store.put_many("probe", numbered(*range(500)))
        damage(path)
        before = path.read_bytes()

        def use() -> None:
            with Store.open(tmp_path) as store:
                store.all_of("probe")

        with pytest.raises(StoreError, match="set MQNATIVE_HOME to another folder") as caught:
            use()
        assert caught.value.path == str(path)
        assert path.read_bytes() == before

    def test_a_file_where_the_folder_should_be_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
            with pytest.raises(StoreError, match="set MQNATIVE_HOME") as caught:
                Store.open(folder)
            assert caught.value.path == str(folder)
        assert (tmp_path / "file").read_text() == "x"

    def test_a_folder_where_the_file_should_be_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "mqnative.db").mkdir()
        with pytest.raises(StoreError, match="cannot be opened"):
            Store.open(tmp_path)

    @posix_only
    @pytest.mark.parametrize("existing", [True, False])
    def test_a_read_only_folder_is_named(self, existing: bool) -> None:
        code = (
            "import os, sys; from pathlib import Path\n"
            "from mqnative.store import Store; from mqnative.errors import StoreError\n"
            "if os.geteuid() == 0: os.seteuid(65534)\n"  # root may write everywhere
            "try:\n"
            "    with Store.open(Path(sys.argv[1])) as s: s.put('probe', {'n': 2}, {})\n"
            "except StoreError as error: print(error)"
        )
        # Not under tmp_path, whose parents only their owner may enter.
        folder = Path(tempfile.mkdtemp(prefix="mqnative-store-"))
        try:
            if existing:
                with Store.open(folder) as store:
                    store.put_many("probe", numbered(1))
                (folder / "mqnative.db").chmod(0o444)
            folder.chmod(0o555)
            assert re.search("cannot be opened|may not write", output_of(python(code, folder)))
            folder.chmod(0o755)
            if existing:
                assert stored_numbers(folder) == [1]
        finally:
            shutil.rmtree(folder)

    def test_a_full_disk_loses_nothing_that_was_stored(self, store: Store) -> None:
        store.put_many("probe", numbered(1, 2))
        ((pages,),) = store._database.execute("PRAGMA page_count")
        store._database.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="disk is full; free some space"):
            store.put("imatrix", INPUTS, {}, os.urandom(100_000))
        assert store.count() == 2
        store._database.execute("PRAGMA max_page_count = 1000000")
        store.put("imatrix", INPUTS, {}, os.urandom(100_000))
        assert store.count() == 3
        assert_sound(store.folder)

    @posix_only
    def test_a_write_that_the_system_refuses_loses_nothing(self, tmp_path: Path) -> None:
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from mqnative.store import Store; from mqnative.errors import StoreError\n"
            "with Store.open(Path(sys.argv[1])) as s:\n"
            "    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))\n"
            "    try:\n"
            "        for n in range(100): s.put('probe', {'n': n}, {}, bytes(10_000)); print(n)\n"
            "    except StoreError as error: print(error, file=sys.stderr)\n"
            "    s.count()"
        )
        process = python(code, tmp_path)
        out, err = process.communicate(timeout=60)
        assert "make room" in err
        assert process.returncode == 0, err
        acknowledged = [int(line) for line in out.split()]
        assert 3 < len(acknowledged) < 100
        assert stored_numbers(tmp_path) == acknowledged
        assert_sound(tmp_path)

    def test_an_interrupt_inside_a_transaction_undoes_it(self, store: Store) -> None:
        def interrupted() -> None:
            with store._database.transaction() as db:
                db.execute("DELETE FROM measurements")
                raise KeyboardInterrupt

        store.put_many("probe", numbered(1))
        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert store.count() == 1
        store.put_many("probe", numbered(2))

    def test_errors_of_the_store_are_ours(self) -> None:
        error = StoreError("x", path="p", version=3)
        assert isinstance(error, MQNativeError)
        assert error.to_dict() == {"error": "StoreError", "message": "x", "path": "p", "version": 3}


class TestProcesses:
    def test_a_store_locked_for_too_long_is_named(self, store: Store) -> None:
        with closing(sqlite3.connect(store.folder / "mqnative.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            started = time.monotonic()
            with pytest.raises(StoreError, match="another process"):
                store.put_many("probe", numbered(1))
            assert 0.3 <= time.monotonic() - started < 5
            assert store.count() == 0  # readers never wait for a writer
            other.execute("ROLLBACK")
        store.put_many("probe", numbered(1))
        assert store.count() == 1

    def test_a_writer_waits_for_another_one(self, tmp_path: Path) -> None:
        with Store.open(tmp_path) as store, closing(sqlite3.connect(tmp_path / "mqnative.db")) as other:
            other.isolation_level = None
            other.execute("BEGIN IMMEDIATE")
            code = (
                "import sys; from pathlib import Path; from mqnative.store import Store\n"
                "with Store.open(Path(sys.argv[1])) as s:\n"
                "    print('waiting', flush=True); s.put('probe', {'n': 1}, {}); print('done')"
            )
            process = python(code, tmp_path)
            assert process.stdout is not None
            assert process.stdout.readline() == "waiting\n"
            time.sleep(0.4)
            assert process.poll() is None
            other.execute("COMMIT")
            assert output_of(process) == "done\n"
            assert store.count() == 1

    def test_processes_that_write_at_once_lose_and_repeat_nothing(self, tmp_path: Path) -> None:
        """Each has 200 rows of its own and 200 that all of them write."""
        code = (
            "import random, sys; from pathlib import Path; from mqnative.store import Store\n"
            "who = int(sys.argv[2])\n"
            "numbers = [*range(200), *range(1000 * who, 1000 * who + 200)]\n"
            "random.Random(who).shuffle(numbers)\n"
            "rows = [({'n': n}, {'who': who}, bytes(n)) for n in numbers]\n"
            "with Store.open(Path(sys.argv[1])) as s:\n"
            "    for row in rows[:200]: s.put('probe', *row)\n"
            "    for i in range(200, 400, 20): s.put_many('probe', rows[i:i + 20])\n"
            "    assert all(s.get_many('probe', [row[0] for row in rows]))"
        )
        for process in [python(code, tmp_path, who) for who in (1, 2, 3)]:
            output_of(process)
        own = [1000 * who + n for who in (1, 2, 3) for n in range(200)]
        assert sorted(stored_numbers(tmp_path)) == [*range(200), *own]
        with Store.open(tmp_path) as store:
            rows = store.all_of("probe")
            assert all(m.data == bytes(m.inputs["n"]) for m in rows)
            assert all(m.value["who"] == m.inputs["n"] // 1000 for m in rows if m.inputs["n"] >= 1000)
        assert_sound(tmp_path)

    def test_a_writer_killed_at_any_time_loses_no_committed_row(self, tmp_path: Path) -> None:
        code = (
            "import itertools, sys; from pathlib import Path; from mqnative.store import Store\n"
            "with Store.open(Path(sys.argv[1])) as s, open(sys.argv[2], 'a') as committed:\n"
            "    for n in itertools.count(int(sys.argv[3])):\n"
            "        s.put('probe', {'n': n}, {}, bytes(5000)); print(n, file=committed, flush=True)"
        )
        rng = random.Random(3)
        log = tmp_path / "committed.txt"
        log.touch()
        for kill in range(10):
            size = log.stat().st_size
            process = python(code, tmp_path, log, 10_000 * kill)
            if kill < 4:  # while the schema is being made
                time.sleep(rng.uniform(0.05, 0.12))
            else:
                wait_until(lambda size=size: log.stat().st_size > size)  # type: ignore[misc]
                time.sleep(rng.uniform(0, 0.2))
            process.kill()
            process.communicate()
            committed = [int(line) for line in log.read_text().split()]
            found = stored_numbers(tmp_path)
            assert set(committed) <= set(found)
            # Each kill may fall between a commit and its line.
            assert len(found) == len(set(found)) <= len(committed) + kill + 1
            assert_sound(tmp_path)

    @posix_only
    def test_waiting_to_write_lets_signals_through(self, tmp_path: Path) -> None:
        with Store.open(tmp_path) as store:
            with closing(sqlite3.connect(tmp_path / "mqnative.db", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                assert interrupted_after(0.2, lambda: store.put_many("probe", numbered(1))) < 5
            assert store.count() == 0


def interrupted_after(delay_s: float, work: Callable[[], None]) -> float:
    """How long ``work`` took until a signal that arrived after ``delay_s`` ended it."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    old = signal.signal(signal.SIGUSR1, interrupt)
    timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGUSR1))
    started = time.monotonic()
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            work()
        return time.monotonic() - started
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, old)


HOLDER = (
    "import sys, time; from pathlib import Path; from mqnative.store import Store\n"
    "with Store.open(Path(sys.argv[1])) as s, s.lock('job'):\n"
    "    print('held', flush=True); time.sleep(60)"
)


class TestLocks:
    def test_a_free_lock_is_taken_at_once_and_given_back(self, store: Store) -> None:
        waits: list[None] = []
        for _ in range(2):
            with store.lock("job", on_wait=lambda: waits.append(None)), store.lock("other"):
                pass
            with suppress(ZeroDivisionError), store.lock("job", on_wait=lambda: waits.append(None)):
                raise ZeroDivisionError
        assert waits == []
        assert lock_path(store.folder, "job").exists()

    def test_any_text_names_a_lock(self, store: Store) -> None:
        for name in ("", "../../x", "a/b\0", "\udcff", "x" * 10_000):
            with store.lock(name):
                pass
        assert len(list((store.folder / "locks").iterdir())) == 5

    def test_one_thread_at_a_time_holds_a_lock(self, tmp_path: Path) -> None:
        inside: list[int] = []
        most: list[int] = []

        def work() -> None:
            with Store.open(tmp_path) as store:
                for _ in range(5):
                    with store.lock("job"):
                        inside.append(1)
                        most.append(len(inside))
                        time.sleep(0.002)
                        inside.pop()

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert most == [1] * 15

    def test_a_lock_is_waited_for_and_dies_with_its_holder(self, store: Store) -> None:
        process = python(HOLDER, store.folder)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        waits: list[None] = []

        def killed() -> None:
            time.sleep(0.3)  # several tries, still one call
            process.kill()

        thread = threading.Thread(target=killed)

        def on_wait() -> None:
            waits.append(None)
            thread.start()

        with store.lock("job", on_wait=on_wait):
            thread.join()
            process.communicate()
        assert waits == [None]

    @posix_only
    def test_waiting_lets_signals_through(self, tmp_path: Path) -> None:
        with Store.open(tmp_path) as first, Store.open(tmp_path) as second:

            def wait() -> None:
                with second.lock("job"):
                    pytest.fail("the lock is held")

            with first.lock("job"):
                assert interrupted_after(0.2, wait) < 5
            with second.lock("job"):
                pass

    def test_an_error_while_waiting_leaves_the_lock_as_it_is(self, tmp_path: Path) -> None:
        with Store.open(tmp_path) as first, Store.open(tmp_path) as second:

            def wait() -> None:
                with second.lock("job", on_wait=lambda: 1 / 0):  # type: ignore[arg-type]
                    pass

            with first.lock("job"), pytest.raises(ZeroDivisionError):
                wait()
            with second.lock("job"):
                pass

    @posix_only
    def test_a_forked_child_does_not_keep_the_lock(self, tmp_path: Path) -> None:
        code = (
            "import os, sys, time; from pathlib import Path; from mqnative.store import Store\n"
            "with Store.open(Path(sys.argv[1])) as s:\n"
            "    with s.lock('job'):\n"
            "        child = os.fork()\n"
            "        if child == 0: time.sleep(20); os._exit(0)\n"
            "    with s.lock('job', on_wait=lambda: print('waits')): pass\n"
            "os.kill(child, 9)"
        )
        assert output_of(python(code, tmp_path)) == ""

    def test_locks_that_cannot_be_made_are_named(self, store: Store) -> None:
        (store.folder / "locks").write_text("in the way")

        def take() -> None:
            with store.lock("job"):
                pass

        with pytest.raises(StoreError, match="set MQNATIVE_HOME"):
            take()


def in_place(path: Path) -> None:
    """Same size, same modification time: only the change time tells."""
    before = path.stat()
    path.write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    path.with_suffix(".new").write_bytes(path.read_bytes())
    path.with_suffix(".new").replace(path)


class TestRememberedModels:
    @pytest.fixture
    def parts(self, tmp_path: Path) -> list[Path]:
        paths = [tmp_path / f"m-0000{n}-of-00002.gguf" for n in (1, 2)]
        for path in paths:
            path.write_bytes(os.urandom(64))
        return paths

    def test_unchanged_files_are_known_again(self, store: Store, parts: list[Path]) -> None:
        assert store.remembered_identity(parts[0]) is None
        store.remember_identity(parts, '{"model":"abc"}')
        assert store.remembered_identity(parts[0]) == '{"model":"abc"}'
        assert store.remembered_identity(parts[1]) is None
        assert store.remembered_identity(parts[0].parent / "other.gguf") is None
        store.remember_identity(parts[:1], '{"model":"def"}')
        assert store.remembered_identity(parts[0]) == '{"model":"def"}'

    @pytest.mark.parametrize("change", [in_place, replaced, Path.unlink, Path.touch])
    @pytest.mark.parametrize("which", [0, 1])
    def test_a_change_of_any_file_is_seen(
        self, store: Store, parts: list[Path], change: Callable[[Path], None], which: int
    ) -> None:
        store.remember_identity(parts, "{}")
        time.sleep(0.01)  # one tick of the file system's clock
        change(parts[which])
        assert store.remembered_identity(parts[0]) is None
        if parts[which].exists():
            store.remember_identity(parts, "[]")
            assert store.remembered_identity(parts[0]) == "[]"

    @posix_only
    def test_links_in_a_hub_cache_are_told_apart(self, store: Store, parts: list[Path]) -> None:
        """Two revisions share their first file and differ in the second."""
        other = parts[1].with_name("other")
        other.write_bytes(parts[1].read_bytes())
        links = []
        for revision, second in (("a", parts[1]), ("b", other)):
            folder = store.folder / revision
            folder.mkdir()
            (folder / "1").symlink_to(parts[0])
            (folder / "2").symlink_to(second)
            links.append([folder / "1", folder / "2"])
        store.remember_identity(links[0], "{}")
        assert store.remembered_identity(links[0][0]) == "{}"
        assert store.remembered_identity(links[1][0]) is None
        links[0][1].unlink()
        links[0][1].symlink_to(other)
        assert store.remembered_identity(links[0][0]) is None

    def test_a_relative_path_names_the_same_file(
        self, store: Store, parts: list[Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(parts[0].parent)
        store.remember_identity([Path(p.name) for p in parts], "{}")
        monkeypatch.chdir("/")
        assert store.remembered_identity(parts[0]) == "{}"

    def test_files_changed_while_they_were_hashed_are_not_remembered(
        self, store: Store, parts: list[Path]
    ) -> None:
        stamp = file_stamp(parts)
        store.remember_identity(parts, "{}", stamp=stamp)
        assert store.remembered_identity(parts[0]) == "{}"
        time.sleep(0.01)
        in_place(parts[1])
        store.remember_identity(parts, "[]", stamp=stamp)
        assert store.remembered_identity(parts[0]) is None
        parts[1].unlink()
        assert file_stamp(parts) is None
        store.remember_identity(parts, "[]")
        assert store.remembered_identity(parts[0]) is None

    @pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are Unicode there")
    def test_names_that_are_no_utf8_are_remembered(self, store: Store) -> None:
        path = store.folder / os.fsdecode(b"\xff.gguf")
        path.write_bytes(b"x")
        identity = json.dumps({"tensors": {"\udcff": "é"}}, ensure_ascii=False)
        store.remember_identity([path], identity)
        remembered = store.remembered_identity(path)
        assert remembered is not None
        assert json.loads(remembered) == json.loads(identity)


def test_ten_thousand_rows_are_no_burden(tmp_path: Path) -> None:
    rows = [(INPUTS | {"tensor": f"{n:064x}"}, VALUE, None) for n in range(10_000)]
    with Store.open(tmp_path) as store:
        store.put_many("errors", rows)
    some = [inputs for inputs, _, _ in rows[::10]]

    def opened() -> None:
        Store.open(tmp_path).close()

    assert best_of(10, opened) < 0.02
    with Store.open(tmp_path) as store:
        assert best_of(10, lambda: store.get_many("errors", some)) < 0.05
        assert best_of(10, lambda: store.count("errors")) < 0.02
        assert best_of(5, lambda: store.all_of("errors")) < 0.5


def best_of(times: int, work: Callable[[], object]) -> float:
    """Processor seconds of the fastest run: waiting for others on a busy machine does not count."""

    def once() -> float:
        started = time.process_time()
        work()
        return time.process_time() - started

    return min(once() for _ in range(times))
