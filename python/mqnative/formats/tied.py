"""Tied embeddings: models whose head is the token embedding.

A file that gives the head weights of its own may encode the two uses differently; llama.cpp reads the head as
a tensor of its own wherever the file has one.
"""

from __future__ import annotations

from collections.abc import Container

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"


def is_tied(names: Container[str]) -> bool:
    """Whether a model with these tensors has an embedding, but no head of its own."""
    return EMBEDDING in names and HEAD not in names


def stored_name(name: str, names: Container[str]) -> str:
    """The tensor that holds the weights called ``name``: of a tied head, the embedding.

    Args:
        name: as in a mix.
        names: of the source's tensors.
    """
    return EMBEDDING if name == HEAD and is_tied(names) else name
