"""A planned file without its weights: a header and a hole of the right length.

llama.cpp counts memory from it (`mqnative.core.memory`), since it reads no weights for that.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from mqnative.build.plan import BuildPlan
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_layout import GGUFLayout


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


@contextmanager
def loadable_header(path: Path) -> Iterator[Path]:
    """The file itself, or for one without a tokenizer `bare_header`.

    The header that a conversion is expected to write (`mqnative.source.outline`) has no tokenizer, and
    llama.cpp loads nothing without.
    """
    with GGUFFile.open(path) as file:
        is_bare = "tokenizer.ggml.model" not in file.metadata
    with bare_header(path) if is_bare else nullcontext(path) as found:
        yield found


@contextmanager
def bare_header(path: Path) -> Iterator[Path]:
    """A hollow file with the same tensors, and unnamed tokens instead of a vocabulary.

    A large vocabulary takes longer to read than everything else that counting memory needs.
    """
    with GGUFFile.open(path) as file:
        if "token_embd.weight" not in file.tensors:
            yield path
            return
        metadata = {k: v for k, v in file.metadata.items() if not k.startswith(("tokenizer.", "split."))}
        metadata["tokenizer.ggml.model"] = MetaValue.string("no_vocab")
        n_vocab = file.tensors["token_embd.weight"].n_rows
        metadata.setdefault(f"{file.architecture}.vocab_size", MetaValue.u32(n_vocab))
        layout = GGUFLayout.plan(metadata, [(t.name, t.shape, t.qtype) for t in file.tensors.values()])
    with hollow_file(layout.header_bytes, layout.file_bytes) as made:
        yield made
