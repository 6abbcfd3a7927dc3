"""A conversion by upstream's converter, in a process of its own: torch never enters ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mqnative.errors
from mqnative.core.monitor import NULL_MONITOR, Monitor
from mqnative.errors import ConversionError, MQNativeError
from mqnative.source.converter_tree import converter_tree, require_packages

_PROCESS = "mqnative.jobs.convert_process"
_LAST_LINES = 40
_LEAVE_S = 5.0


@dataclass(frozen=True)
class Conversion:
    """What is asked of the converter.

    Attributes:
        folder: the checkpoint.
        output: the file to write.
        outtype: of the reference: auto, bf16, f16 or f32.
        mmproj: the projector for images or sound instead of the text model.
        recipe: a recipe to apply to every tensor on its way; None: the reference itself.
        base: type of tensors that the recipe does not name.
        imatrix: importances for it.
        imatrix_name: its name in the metadata.
        allow_requantize: accept checkpoints that are quantized already.
        dry_run: plan only.
        n_threads: default all usable processors.
    """

    folder: str
    output: str
    outtype: str = "auto"
    mmproj: bool = False
    recipe: str | None = None
    base: str | None = None
    imatrix: str | None = None
    imatrix_name: str = ""
    allow_requantize: bool = False
    dry_run: bool = False
    n_threads: int | None = None


def run_conversion(wanted: Conversion, monitor: Monitor = NULL_MONITOR) -> dict[str, Any]:
    """Have upstream's converter do one conversion.

    Args:
        wanted: what.
        monitor: told every step.

    Returns:
        ``architecture size_bytes n_weights tensor_bytes reference_bytes peak_memory_bytes source_sha256 ftype
        tensors[]``.

    Raises:
        MissingExtraError: torch or the like are not installed.
        ConversionError: upstream refused, or its process died; its last lines are attached.
        Any error of `mqnative.plan_build` and `mqnative.build_gguf`.
    """
    require_packages()
    converter_tree()
    with _started() as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = _Lines(process)
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(asdict(wanted)) + "\n")
            process.stdin.flush()
        done = 0
        for line in process.stdout:
            event = json.loads(line)
            kind = event.pop("event")
            if kind == "start":
                done = 0
                monitor.start(event["step"], event["total"], event["unit"])
            elif kind in ("update", "tick"):
                done = event.get("done", done)
                monitor.update(done)
            elif kind == "finish":
                monitor.finish()
            elif kind == "result":
                return dict(event)
            elif kind == "error":
                raise _error(event, said.last())
            else:
                raise _crash(wanted, event["message"], said.last())
        status = process.wait()
    raise _crash(wanted, _ending(status), said.last())


@contextmanager
def _started() -> Iterator[subprocess.Popen[str]]:
    """The process; gone at the end of the block, however it ends."""
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONIOENCODING": "utf-8",
    }
    # Tokens are of no use to it.
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "NO_LOCAL_GGUF"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", _PROCESS],
        env=environment,
        # Not the user's folder, in which a file could have the name of a module.
        cwd=tempfile.gettempdir(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        # Ctrl-C reaches us, and we end it.
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_LEAVE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                with suppress(OSError):
                    stream.close()


class _Lines:
    """The last lines of the process's log, read by a thread so that it never waits for us."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._kept: deque[str] = deque(maxlen=_LAST_LINES)
        self._thread = threading.Thread(target=self._read, args=(process,), daemon=True)
        self._thread.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        with process.stderr as stream:
            for line in stream:
                self._kept.append(line.rstrip())

    def last(self) -> Sequence[str]:
        """What was said until now."""
        self._thread.join(0.5)
        return tuple(self._kept)


def _error(event: dict[str, Any], log: Sequence[str]) -> MQNativeError:
    """The error that the process has met, as if we had met it."""
    kind = getattr(mqnative.errors, event.pop("error"), ConversionError)
    message = event.pop("message")
    if "log" in kind.fields:
        event["log"] = "\n".join(log)
    fields = {k: tuple(v) if isinstance(v, list) else v for k, v in event.items() if k in kind.fields}
    found = kind(message, **fields)
    assert isinstance(found, MQNativeError)
    return found


def _crash(wanted: Conversion, what: str, log: Sequence[str]) -> ConversionError:
    folder = Path(wanted.folder).name
    return ConversionError(
        f"{folder} could not be converted: {' '.join(what.split())[:400]}",
        path=wanted.folder,
        log="\n".join(log),
    )


def _ending(status: int) -> str:
    if status == -9:
        return "the converter was killed, most likely for want of memory; close other programs and try again"
    return f"the converter ended with exit code {status} and without a word"
