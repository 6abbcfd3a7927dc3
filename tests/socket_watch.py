"""Commands under watch: a process that touches a socket ends at once, with an exit code of its own."""

from __future__ import annotations

from pathlib import Path

TOUCHED = 77
_HOOK = f"""
import os, sys

def _watch(event, _arguments):
    if event.startswith("socket."):
        os.write(2, f"SOCKET {{event}}\\n".encode())
        os._exit({TOUCHED})

sys.addaudithook(_watch)
"""


def watched(folder: Path) -> dict[str, str]:
    """The environment in which every Python process, children too, is watched.

    Args:
        folder: for the module that does it.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_HOOK)
    return {"PYTHONPATH": str(folder)}
