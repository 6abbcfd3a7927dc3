"""The converter's own process: it loads torch and upstream's converter, does one conversion, and ends.

It is asked by one line of JSON on standard input and answers by lines of JSON on standard output. When its
standard input ends, whoever asked is gone, and it stops.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from mqnative.build.plan import BuildPlan, plan_build
from mqnative.build.stream import Streamed, build_streamed, write_reference
from mqnative.core.monitor import Monitor
from mqnative.errors import MQNativeError
from mqnative.formats.atomic import output_errors
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.imatrix import Imatrix, read_imatrix
from mqnative.formats.recipe import Recipe, read_recipe
from mqnative.source.hub_cache import require_space
from mqnative.source.upstream_model import ReferenceTensor, UpstreamModel

_TICK_S = 0.2


class Wire:
    """Events to whoever asked; a monitor."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._sent = 0.0

    def send(self, event: str, **facts: Any) -> None:
        """One line."""
        with self._lock:
            self._out.write(json.dumps({"event": event, **facts}) + "\n")
            self._out.flush()

    def start(self, step: str, total: int, unit: str) -> None:
        """A step begins."""
        self.send("start", step=step, total=total, unit=unit)

    def update(self, done: int) -> None:
        """Not more often than people can see."""
        now = time.monotonic()
        if now - self._sent >= _TICK_S:
            self._sent = now
            self.send("update", done=done)

    def finish(self) -> None:
        """A step is over."""
        self.send("finish")

    def tick(self) -> None:
        """A sign of life for ever, so that the other side can cancel."""
        while True:
            time.sleep(_TICK_S)
            with suppress(OSError, ValueError):
                self.send("tick")


def convert(asked: dict[str, Any], monitor: Monitor) -> dict[str, Any]:
    """Do one conversion; see `mqnative.jobs.convert.Conversion` for what is asked."""
    folder, output = Path(asked["folder"]), Path(asked["output"])
    monitor.start("read configuration and tokenizer", 0, "steps")
    model = UpstreamModel(folder, asked["outtype"], mmproj=asked["mmproj"])
    monitor.finish()
    by_name = {t.name: t for t in model.tensors}
    with _scratch(output) as skeleton_path:
        model.write_skeleton(skeleton_path)
        with GGUFFile.open(skeleton_path) as skeleton:
            return _write(asked, skeleton, model, by_name, output, monitor)


@contextmanager
def _scratch(output: Path) -> Iterator[Path]:
    """For a file of holes, which readers take for the whole one."""
    path = output.with_name(f".{output.name}.{secrets.token_hex(8)}.part")
    try:
        with output_errors(path):
            yield path
    finally:
        path.unlink(missing_ok=True)


def _write(
    asked: dict[str, Any],
    skeleton: GGUFFile,
    model: UpstreamModel,
    by_name: dict[str, ReferenceTensor],
    output: Path,
    monitor: Monitor,
) -> dict[str, Any]:
    def pieces(name: str) -> Any:
        return model.pieces(by_name[name])

    plan: BuildPlan | None = None
    if asked["recipe"] is None:
        size = skeleton.file_bytes
    else:
        recipe, imatrix = _recipe(asked), _imatrix(asked)

        def planner(source_hash: str) -> BuildPlan:
            return plan_build(
                skeleton,
                recipe,
                imatrix,
                imatrix_name=asked["imatrix_name"],
                source_hash=source_hash,
                allow_requantize=asked["allow_requantize"],
            )

        plan = planner("")
        size = plan.file_bytes
    written: Streamed | None = None
    if not asked["dry_run"]:
        require_space(output.parent, size, f"{output.name}")
        if plan is None:
            written = write_reference(skeleton, pieces, output, monitor=monitor)
        else:
            written = build_streamed(
                skeleton, pieces, planner, output, n_threads=asked["n_threads"], monitor=monitor
            )
    return _result(skeleton, plan, written, size)


def _result(
    skeleton: GGUFFile, plan: BuildPlan | None, written: Streamed | None, size: int
) -> dict[str, Any]:
    stored = {n: (t.qtype.name, t.size_bytes) for n, t in skeleton.tensors.items()}
    if plan is not None:
        stored = {t.name: (t.qtype, t.size_bytes) for t in plan.tensors}
    return {
        "architecture": skeleton.architecture,
        "size_bytes": size,
        "n_weights": skeleton.n_weights,
        "tensor_bytes": sum(n for _, n in stored.values()),
        "reference_bytes": skeleton.file_bytes,
        "peak_memory_bytes": _peak_memory_bytes(),
        "source_sha256": None if written is None else written.identity.model,
        "ftype": None if plan is None else plan.ftype.name,
        "tensors": [
            {"name": n, "type": kind, "source_type": skeleton.tensors[n].qtype.name, "size_bytes": size_bytes}
            for n, (kind, size_bytes) in stored.items()
        ],
    }


def _peak_memory_bytes() -> int | None:
    """The most that this process has held, torch and all; None where the system does not tell."""
    if sys.platform == "win32":
        return None
    with suppress(OSError):
        # On Linux rusage begins with what the parent held when this process was made; this does not.
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _recipe(asked: dict[str, Any]) -> Recipe:
    recipe = read_recipe(asked["recipe"])
    return recipe if asked["base"] is None else replace(recipe, base=asked["base"])


def _imatrix(asked: dict[str, Any]) -> Imatrix | None:
    return None if asked["imatrix"] is None else read_imatrix(asked["imatrix"])


def _stop_with_the_parent(stdin: TextIO) -> None:
    stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


def _on_terminate(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Answer one question."""
    # Where we are called from, no module shall be found.
    sys.path[:] = [p for p in sys.path if p not in ("", str(Path.cwd()))]
    # Upstream prints; our answers go where nothing else does.
    wire = Wire(os.fdopen(os.dup(1), "w", encoding="utf-8"))
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _on_terminate)
    asked = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_with_the_parent, args=(sys.stdin,), daemon=True).start()
    threading.Thread(target=wire.tick, daemon=True).start()
    try:
        wire.send("result", **convert(asked, wire))
        return 0
    except MQNativeError as error:
        wire.send("error", **error.to_dict())
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()
        wire.send("crash", message=f"{type(error).__name__}: {error}")
    return 1


if __name__ == "__main__":
    # Threads and upstream's leftovers need no farewell.
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
