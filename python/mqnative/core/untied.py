"""Whether llama.cpp reads a head of its own in a model that was made with tied embeddings.

Some architectures always take the embedding, and refuse a file with one tensor more.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from mqnative.core.model import restart_layers
from mqnative.errors import BackendError, ModelLoadError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.gguf_layout import GGUFLayout
from mqnative.formats.tied import EMBEDDING, HEAD, is_tied


def loads_untied(file: GGUFFile) -> bool:
    """Load the header of the untied file, without any weights; False also for a model that is not tied.

    Raises:
        GGUFError, UnsupportedTypeError: the file is damaged, or nothing can compute with it.
    """
    if not is_tied(file.tensors):
        return False
    metadata = {key: value for key, value in file.metadata.items() if not key.startswith("split.")}
    tensors = [(t.name, t.shape, t.qtype) for t in file.tensors.values()]
    embedding = file.tensors[EMBEDDING]
    layout = GGUFLayout.plan(metadata, [*tensors, (HEAD, embedding.shape, embedding.qtype)])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "untied.gguf"
        with path.open("wb") as out:
            out.write(layout.header_bytes)
            out.truncate(layout.file_bytes)  # a hole: no disk is used
        try:
            restart_layers(path)
        except (ModelLoadError, BackendError):
            return False
    return True
