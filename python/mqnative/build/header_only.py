"""A planned file without its weights: a header and a hole of the right length.

llama.cpp counts memory from it (`mqnative.core.memory`), since it reads no weights for that.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mqnative.build.plan import BuildPlan


@contextmanager
def header_only(plan: BuildPlan) -> Iterator[Path]:
    """A temporary file that looks like the planned one to who reads no weights; it takes no space on disk."""
    with hollow_file(plan.layout.header_bytes, plan.file_bytes) as path:
        yield path


@contextmanager
def hollow_file(header: bytes, file_bytes: int) -> Iterator[Path]:
    """A temporary GGUF with this header and nothing after it, ``file_bytes`` long."""
    with tempfile.TemporaryDirectory(prefix="mqnative-") as folder:
        path = Path(folder) / "header.gguf"
        with path.open("wb") as file:
            file.write(header)
            os.ftruncate(file.fileno(), max(file_bytes, len(header)))
        yield path
