"""A text cut into chunks of tokens, as upstream's tools cut it.

A chunk is evaluated from an empty cache; its first token is replaced by BOS where the model wants one, and
its second half is scored, so that every scored token has at least n_ctx / 2 tokens before it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mqnative.core.model import Model, Tokens
from mqnative.errors import ShapeError, TextError

# Upstream refuses less (tools/perplexity/perplexity.cpp, tools/imatrix/imatrix.cpp).
MIN_CHUNKS = 2
# A text of which the model knows less than half is not one that it was trained for.
MAX_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Corpus:
    """Chunks of tokens of one text for one model.

    Attributes:
        inputs: int32, shape (n_chunks, n_ctx): what the model sees, BOS in place.
        tokens: int32, the same shape: the text's own tokens, which the scores are about.
        source: the text's file name, for reports.
    """

    inputs: Tokens
    tokens: Tokens
    source: str = ""

    @property
    def n_chunks(self) -> int:
        """Number of chunks."""
        return len(self.tokens)

    @property
    def n_ctx(self) -> int:
        """Tokens per chunk."""
        return int(self.tokens.shape[1])

    @property
    def first(self) -> int:
        """The first scored position of a chunk; the last is n_ctx - 2."""
        return self.n_ctx // 2

    @property
    def n_scored(self) -> int:
        """Scored tokens per chunk."""
        return self.n_ctx - 1 - self.first

    def targets(self, chunk: int) -> Tokens:
        """The tokens that scored positions of a chunk should predict: int32, shape (n_scored,)."""
        return np.ascontiguousarray(self.tokens[chunk, self.first + 1 :])

    def head(self, n_chunks: int) -> Corpus:
        """The first ``n_chunks`` chunks."""
        return Corpus(self.inputs[:n_chunks], self.tokens[:n_chunks], self.source)

    def content_hash(self) -> str:
        """SHA-256, in hex, of the tokens as the model sees them and as they are scored."""
        digest = hashlib.sha256(f"mqnative corpus/1 {self.tokens.shape}".encode())
        for array in (self.inputs, self.tokens):
            digest.update(np.ascontiguousarray(array, "<i4").tobytes())
        return digest.hexdigest()


def read_text(path: str | Path) -> str:
    """The text of a file, without one trailing newline, as upstream's ``-f`` reads it.

    Bytes that are not UTF-8 are kept as they are (surrogate escapes), since tokenizers take bytes.

    Raises:
        TextError: the file is missing, unreadable, not a file, or empty.
    """
    try:
        raw = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TextError(
            f"cannot read the text {path}: {reason}; give the path of a text file", path=str(path)
        ) from error
    if raw.endswith(b"\n"):
        raw = raw[:-1]
    if not raw.strip():
        raise TextError(f"the text {path} is empty; give one with words in it", path=str(path))
    return raw.decode("utf-8", errors="surrogateescape")


def cut(model: Model, text: str, *, n_ctx: int = 512, source: str = "") -> Corpus:
    """Tokenize ``text`` and cut it into chunks of ``n_ctx``; a last incomplete chunk is dropped.

    Raises:
        TextError: fewer than two chunks, n_ctx too small to score anything, or mostly unknown tokens.
        BackendError: the model has no tokenizer.
    """
    if n_ctx < 4:
        raise TextError(f"chunks of {n_ctx} tokens are too short to score; use at least 4")
    vocab = model.vocab
    tokens = model.tokenize(text, add_special=not vocab.add_eos)
    needed = MIN_CHUNKS * n_ctx
    if len(tokens) < needed:
        raise TextError(
            f"the text {source or 'given'} has {len(tokens)} tokens, but {MIN_CHUNKS} chunks of {n_ctx} "
            f"need {needed}; give a longer text or a smaller --ctx",
            path=source or None,
            n_tokens=len(tokens),
            needed_tokens=needed,
        )
    unknown = float(np.isin(tokens, vocab.unknown).mean()) if vocab.unknown else 0.0
    if unknown > MAX_UNKNOWN_SHARE:
        raise TextError(
            f"{100 * unknown:.0f} % of the tokens of the text {source or 'given'} are unknown to this model, "
            "so that nothing can be measured with it; give a text in the model's languages",
            path=source or None,
            n_tokens=len(tokens),
        )
    n_chunks = len(tokens) // n_ctx
    chunks = tokens[: n_chunks * n_ctx].reshape(n_chunks, n_ctx)
    inputs = chunks.copy()
    if vocab.add_bos:
        inputs[:, 0] = vocab.bos
    return Corpus(inputs, chunks, source)


def require_same_vocabulary(model: Model, other: Model) -> None:
    """Logits can be compared only over the same vocabulary.

    Raises:
        ShapeError: the sizes differ.
    """
    ours, theirs = model.vocab.n_vocab, other.vocab.n_vocab
    if ours != theirs:
        raise ShapeError(
            f"the reference has a vocabulary of {theirs}, the model one of {ours}; only models with the same "
            "tokenizer can be compared",
            expected=str(theirs),
            got=str(ours),
        )


def require_same_tokens(corpus: Corpus, other: Corpus) -> None:
    """Models can be compared only where they read the text as the same tokens.

    Raises:
        ShapeError: they do not.
    """
    if corpus.inputs.shape != other.inputs.shape or not np.array_equal(corpus.inputs, other.inputs):
        raise ShapeError(
            "the two models read the text as different tokens; only models with the same tokenizer can be "
            "compared",
            expected="the same tokens",
            got="different ones",
        )


def read_corpus(model: Model, path: str | Path, *, n_ctx: int = 512) -> Corpus:
    """The text file ``path`` as chunks for ``model``; raises as `read_text` and `cut`."""
    return cut(model, read_text(path), n_ctx=n_ctx, source=Path(path).name)
