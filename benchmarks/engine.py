"""The engine against upstream's own tools: the same work, in the same run, on the same machine.

    python benchmarks/engine.py MODEL-bf16.gguf... --text TEXT --upstream BIN_DIR
        [--chunks N] [--threads 2] [--repeat 3] [--only ROW,...] [--out report.md]

Prints one Markdown table. Sides take turns, medians count. Run it on an idle machine. The models are
BF16; BIN_DIR holds llama-quantize, llama-imatrix and llama-perplexity of the pinned commit.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path

import mqnative
import rows_encode
import rows_kld
import rows_whole
from bench import Bench, Row, opened, say
from mqnative.core.info import build_info
from upstream_tools import N_CTX, Tools

ROWS: dict[str, Callable[[Bench], list[Row]]] = {
    "probe": rows_kld.probe,
    "sweep": rows_encode.sweep,
    "mixes": rows_kld.mixes,
    "imatrix": rows_encode.imatrix,
    "build": rows_encode.build,
    "ladder": rows_encode.ladder,
    "memory": rows_whole.memory,
    "study": rows_whole.study,
}
_HEAD = ("model", "row", "ours s", "theirs s", "ratio", "bar", "", "what")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=f"{__doc__}\nrows: {', '.join(ROWS)}", formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--upstream", type=Path, required=True)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", default=",".join(ROWS))
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    tools = Tools(arguments.upstream.resolve(), arguments.threads)
    names = arguments.only.split(",")
    if missing := tools.missing():
        parser.error(f"{arguments.upstream} lacks {', '.join(missing)}")
    if unknown := [name for name in names if name not in ROWS]:
        parser.error(f"no row called {', '.join(unknown)}; there are {', '.join(ROWS)}")
    lines = [*header(tools, arguments.chunks, arguments.repeat), table_line(_HEAD)]
    lines.append("|---|---|---:|---:|---:|---:|---|---|")
    for path in arguments.models:
        with opened(path, arguments.text, arguments.chunks, tools, arguments.repeat) as bench:
            for name in names:
                found = ROWS[name](bench)
                lines += [row_line(path.stem, row) for row in found]
                for row in found:
                    say(row_line(path.stem, row))
    report = "\n".join(lines) + "\n"
    print(report, end="")
    if arguments.out:
        arguments.out.write_text(report, encoding="utf-8")


def header(tools: Tools, n_chunks: int, repeat: int) -> list[str]:
    """Machine, versions and settings, as Markdown."""
    info = build_info()
    memory = next(d["memory_total_bytes"] for d in info["devices"] if d["kind"] == "cpu")
    return [
        f"- machine: {cpu_name()}, {info['n_threads']} usable cores, {memory / 2**30:.0f} GiB; "
        f"{info['platform']}",
        f"- ours: mqnative {info['version']} at {own_commit()}, llama.cpp {info['upstream_commit']}, "
        f"{info['compiler']}, {' '.join(info['isa'])}; weights not repacked",
        f"- theirs: {tools.version}; llama-perplexity {tools.flags}; llama-imatrix with its own batch; "
        f"llama-quantize with {tools.n_threads} threads",
        f"- {n_chunks} chunks of {N_CTX} tokens, {tools.n_threads} threads, median of {repeat}, in turn; "
        f"load average at the start {os.getloadavg()[0]:.2f}",
        "- ours: seconds in the process, the model loaded, its file in the page cache; theirs: the whole "
        "process without the model's loading, by the time stamps of its log (llama-quantize: its own "
        "total time)",
        "- ratio: theirs / ours where the bar is a least, ours / theirs where it is a most",
        "",
    ]


def cpu_name() -> str:
    """The processor, as Linux names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "?")


def own_commit() -> str:
    """The commit of the package that is measured, wherever it lies, and whether it was changed."""
    folder = Path(mqnative.__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD")
    changed = git("status", "--porcelain", "--untracked-files=no")
    return f"{commit or 'an unknown commit'}{' with local changes' if changed else ''}"


def row_line(model: str, row: Row) -> str:
    """A row of the table."""
    verdict = {True: "pass", False: "**FAIL**", None: "skipped"}[row.passed]
    return table_line((model, row.name, row.ours, row.theirs, row.ratio, row.bar, verdict, row.note))


def table_line(cells: tuple[str, ...]) -> str:
    """Cells as Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
