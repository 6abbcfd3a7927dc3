"""Kills `mqnative auto` on the built-in model at random moments, again and again, and checks what is left.

Each chain begins with an empty store and output folder. The command is started, killed with SIGKILL after a
random time, started again, until it ends by itself. Then the model's bytes and the figures must be those of
an undisturbed run, no committed measurement may have been measured a second time (a trigger in the store
counts them), and no other file than in the undisturbed run may lie in the output, the store or the folder
for temporary files.

    python benchmarks/kill.py --kills 50 --seed 1
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqnative.builtin import CALIB_TEXT, MODEL
from mqnative.store import Store

TYPES = "Q8_0,Q6_K,Q5_K,Q4_K,Q3_K,Q2_K"
EFFORT = ["--bpw", "4.5", "--ctx", "64", "--probe-chunks", "2", "--verify-chunks", "6", "--types", TYPES]
TEXT_BYTES = 12_000
# Not figures: they differ from run to run.
_NOT_FIGURES = ("steps", "reused", "model_path", "recipe_path", "manifest_path", "report_path", "files")
_COUNT_REPEATS = """
CREATE TABLE repeated (kind TEXT, key TEXT);
CREATE TRIGGER count_repeats BEFORE INSERT ON measurements
WHEN EXISTS (SELECT 1 FROM measurements WHERE key = NEW.key)
BEGIN INSERT INTO repeated VALUES (NEW.kind, NEW.key); END;
"""


@dataclass
class Place:
    """A store, an output folder and a folder for temporary files of their own."""

    root: Path
    text: Path
    killed: int = 0
    moments: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("home", "tmp"):
            (self.root / name).mkdir(parents=True)
        Store.open(self.root / "home").close()
        with sqlite3.connect(self.root / "home" / "mqnative.db") as db:
            db.executescript(_COUNT_REPEATS)
        db.close()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mqnative", "auto", str(MODEL), "--calib", str(self.text)]
        return subprocess.Popen(
            [*command, "-o", str(self.root / "out"), *EFFORT, "--json"],
            env=os.environ | {"MQNATIVE_HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self) -> dict[str, Any]:
        """Run to the end; what it printed."""
        out, err = self.start().communicate()
        if not out:
            raise SystemExit(err.decode())
        said: dict[str, Any] = json.loads(out)
        return said

    def kill_after(self, seconds: float) -> bool:
        """Start, kill after a time; whether it was killed before its end."""
        process = self.start()
        try:
            _, err = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            self.killed += 1
            self.moments.append(seconds)
            return True
        if process.returncode:
            raise SystemExit(err.decode())
        return False

    def repeated(self) -> list[tuple[str, str]]:
        """Committed measurements that were measured again."""
        with sqlite3.connect(self.root / "home" / "mqnative.db") as db:
            found = db.execute("SELECT kind, key FROM repeated").fetchall()
        db.close()
        return found

    def rows(self) -> dict[str, int]:
        """Measurements by kind."""
        with sqlite3.connect(self.root / "home" / "mqnative.db") as db:
            found = dict(db.execute("SELECT kind, count(*) FROM measurements GROUP BY kind").fetchall())
        db.close()
        return found

    def files(self) -> set[str]:
        """Everything that lies about, but for locks, which stay by design, and the log that each job has.

        A command that is killed between its job's end and its own is a new job when it is given again.
        """
        with sqlite3.connect(self.root / "home" / "mqnative.db") as db:
            logs = {f"home/jobs/{job}.log" for (job,) in db.execute("SELECT id FROM jobs")}
        db.close()
        found = {p.relative_to(self.root).as_posix() for p in self.root.rglob("*") if p.is_file()}
        return {name for name in found - logs if not name.startswith("home/locks/")}


def figures(said: dict[str, Any]) -> dict[str, Any]:
    """What the command found out."""
    return {key: value for key, value in said.items() if key not in _NOT_FIGURES}


def digest(path: str) -> str:
    """Of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def chain(place: Place, longest_s: float, most: int, rng: random.Random) -> None:
    """Kill until the command ends, or ``most`` times."""
    while place.killed < most and place.kill_after(rng.uniform(0.05, longest_s)):
        pass


def check(
    place: Place, expected: dict[str, Any], model: str, files: set[str], rows: dict[str, int]
) -> list[str]:
    """What differs from the undisturbed run."""
    said = place.finish()
    faults = []
    if digest(said["model_path"]) != model:
        faults.append("other bytes")
    if (found := figures(said)) != expected:
        faults.append(f"other figures: {[k for k in expected if found.get(k) != expected[k]]}")
    if repeated := place.repeated():
        faults.append(f"{len(repeated)} measurements repeated, such as {repeated[0]}")
    if place.rows() != rows:
        faults.append(f"other rows: {place.rows()} instead of {rows}")
    if stray := place.files() - files:
        faults.append(f"stray files: {sorted(stray)}")
    if missing := files - place.files():
        faults.append(f"missing files: {sorted(missing)}")
    return faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, help="Seconds until a kill, at most; default: a fifth of a run."
    )
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "calib.txt"
        text.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:TEXT_BYTES], encoding="utf-8")
        undisturbed = Place(Path(folder) / "undisturbed", text)
        started = time.monotonic()
        said = undisturbed.finish()
        whole_s = time.monotonic() - started
        expected, model = figures(said), digest(said["model_path"])
        longest = arguments.longest or whole_s / 5
        print(
            f"| chain | kills | after s | faults |\n|---|---|---|---|   (a run takes {whole_s:.1f} s)",
            flush=True,
        )
        total = n = faulty = 0
        while total < arguments.kills:
            n += 1
            place = Place(Path(folder) / str(n), text)
            chain(place, longest, arguments.kills - total, rng)
            faults = check(place, expected, model, undisturbed.files(), undisturbed.rows())
            total += place.killed
            faulty += bool(faults)
            moments = " ".join(f"{m:.1f}" for m in place.moments)
            print(f"| {n} | {place.killed} | {moments} | {'; '.join(faults) or 'none'} |", flush=True)
        print(f"{total} kills, {n} chains, {faulty} with faults")
    sys.exit(1 if faulty else 0)


if __name__ == "__main__":
    main()
