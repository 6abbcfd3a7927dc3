"""The model card: what a visitor of a repository reads, and what the hub reads of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from mqnative.report.markdown import escape, fenced, table, to_markdown
from mqnative.report.numbers import size_text
from mqnative.report.summary import Report

_TAGS = ("gguf", "quantized", "mixed-precision", "mqnative", "llama.cpp")


@dataclass(frozen=True)
class CardFile:
    """A file of the repository.

    Attributes:
        name: its path.
        size_bytes: its size.
        what: in a few words.
        sha256: of large files; empty if it is not known.
    """

    name: str
    size_bytes: int
    what: str
    sha256: str = ""


@dataclass(frozen=True)
class CardFacts:
    """What a card says besides the report.

    Attributes:
        repo: where it will be: ``org/name``.
        model_file: the GGUF, the first part of a split one.
        files: everything that is published, the card left out.
        base_model: hub id of the original; empty if it is not known.
        license: its identifier on the hub; empty if it is not known.
        mmproj: the projector for images or sound; empty if there is none.
        plots: title -> file.
        rebuild: how the same bytes are made again from what is published.
    """

    repo: str
    model_file: str
    files: Sequence[CardFile]
    base_model: str = ""
    license: str = ""
    mmproj: str = ""
    plots: Mapping[str, str] | None = None
    rebuild: str = ""


def model_card(facts: CardFacts, report: Report | None) -> str:
    """The card, as Markdown with the metadata that the hub reads.

    Args:
        facts: what is published.
        report: the figures; None if nothing was measured.
    """
    parts = [_front(facts)]
    if report is None:
        parts.append(f"# {escape(facts.repo.partition('/')[2])}")
        parts.append("A mixed-precision GGUF, with a type chosen for every tensor.")
    else:
        parts.append(to_markdown(report).strip())
    parts += _plots(facts)
    parts += ["## How to run", fenced(_run(facts))]
    if facts.rebuild:
        parts += ["## How to make the same bytes again", fenced(facts.rebuild)]
    parts += ["## Files", _files(facts)]
    return "\n\n".join(parts) + "\n"


def with_metadata(card: str, facts: CardFacts) -> str:
    """A card of the user's own; what the hub reads is put before it, unless it is there."""
    return card if card.startswith("---") else f"{_front(facts)}\n\n{card}"


def _front(facts: CardFacts) -> str:
    return f"---\n{yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True)}---"


def _metadata(facts: CardFacts) -> dict[str, object]:
    found: dict[str, object] = {"library_name": "gguf", "pipeline_tag": "text-generation"}
    if facts.mmproj:
        found["pipeline_tag"] = "image-text-to-text"
    if facts.base_model:
        found |= {"base_model": facts.base_model, "base_model_relation": "quantized"}
    if facts.license:
        found["license"] = facts.license
    return found | {"quantized_by": facts.repo.partition("/")[0], "tags": list(_TAGS)}


def _plots(facts: CardFacts) -> list[str]:
    if not facts.plots:
        return []
    return ["## Plots", *(f"![{escape(title)}]({file})" for title, file in facts.plots.items())]


def _run(facts: CardFacts) -> str:
    fetch = f"hf download {facts.repo} {facts.model_file} --local-dir ."
    if not facts.mmproj:
        return f"{fetch}\nllama-cli -m {facts.model_file}"
    return (
        f"hf download {facts.repo} {facts.model_file} {facts.mmproj} --local-dir .\n"
        f"llama-mtmd-cli -m {facts.model_file} --mmproj {facts.mmproj}"
    )


def _files(facts: CardFacts) -> str:
    rows = [
        [f"`{f.name}`", size_text(f.size_bytes), escape(f.what), f"`{f.sha256[:16]}`" if f.sha256 else ""]
        for f in facts.files
    ]
    return table(("file", "size:", "what", "sha256"), rows)
