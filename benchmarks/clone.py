"""A finetune three ways: its own search, its parent's recipe cloned, a search from its parent's damages.

    python benchmarks/clone.py PARENT-bf16.gguf FINETUNE-bf16.gguf TEXTS [--bpw 4.5,3.5] [--out DIR]

TEXTS holds calib.txt and eval.txt. Every way has a store of its own, so that passes can be counted; what is
finished is not run again. Prints one Markdown table: KLD on the same held-out tokens, and forward passes
that served the choice. benchmarks/finetune.py makes the finetune.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

from mqnative.core.info import build_info

_CHUNKS = "60"


def mqnative(home: Path, *arguments: object) -> dict[str, Any]:
    call = [sys.executable, "-m", "mqnative", *map(str, arguments), "--json"]
    done = subprocess.run(
        call, env={**os.environ, "MQNATIVE_HOME": str(home)}, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(call)} ended with {done.returncode}:\n{done.stdout}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def passes(home: Path, found: dict[str, Any]) -> int:
    """Passes that chose: everything in a store that is one mix or swap on one chunk, but for verification."""
    with sqlite3.connect(home / "mqnative.db") as db:
        kinds = "('probe', 'mix', 'evaluation')"
        (every,) = db.execute(f"select count(*) from measurements where kind in {kinds}").fetchone()
    return int(every) - int(_CHUNKS) * (1 + len(found["baselines"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parent", type=Path)
    parser.add_argument("finetune", type=Path)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--bpw", default="4.5,3.5")
    parser.add_argument("--out", type=Path, default=Path("bench-clone"))
    given = parser.parse_args()
    texts = ("--calib", given.texts / "calib.txt", "--eval", given.texts / "eval.txt")
    texts += ("--verify-chunks", _CHUNKS)
    info = build_info()
    print(f"mqnative {info['version']}, llama.cpp {info['upstream_commit']}, {info['features']}\n")
    print("| bpw | way | passes | share | KLD | 95 % | KLD / fresh |")
    print("|---:|---|---:|---:|---:|---|---:|")
    for bpw in given.bpw.split(","):
        out = given.out / bpw
        out.mkdir(parents=True, exist_ok=True)
        search = ("--bpw", bpw, *texts)
        mqnative(out / "home-parent", "auto", given.parent, *search, "-o", out / "parent")
        manifest = out / "parent" / "manifest.json"
        ways = {
            "search": ("auto", given.finetune, *search),
            "clone": ("clone", manifest, given.finetune, *texts),
            "warm start": ("auto", given.finetune, *search, "--like", manifest),
        }
        first: tuple[int, float] | None = None
        for name, call in ways.items():
            home = out / f"home-{name.replace(' ', '-')}"
            found = mqnative(home, *call, "-o", out / name.replace(" ", "-"))
            n, kld = passes(home, found), found["kld_mean"]
            first = first or (n, kld)
            low, high = found["kld_ci95"]
            cells = (bpw, name, n, f"{n / first[0]:.2f}", f"{kld:.6f}", f"{low:.6f} .. {high:.6f}")
            print(f"| {' | '.join(map(str, cells))} | {kld / first[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
