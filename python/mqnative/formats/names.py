"""Names of mixes in MagicQuant's two schemes, and how they are written.

v1 tells the base and every group that deviates (``Qwen3-4B-MXFP4-EH-B16-QKO-IQ4NL``), v2 who made the mix,
the family it is nearest to and a number (``Qwen3-4B-MQ-Q5_K_1``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mqnative.errors import QuantNameError
from mqnative.formats.group_table import LETTERS
from mqnative.formats.quant_tokens import is_type, near_quants, read_quant, short_spelling

# Who a v2 name speaks of: llama.cpp's preset, a hybrid, Unsloth's mix, another source's.
PROVIDERS = ("LM", "MQ", "UD", "EXT")
_MODEL = re.compile(r"[^\s/\\\x00-\x1f\x7f]+")
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")

Semantics = Literal["type", "learned"]


@dataclass(frozen=True)
class QuantName:
    """What a name says.

    Attributes:
        model: None in tables, which name only the mix.
        base: of all tensors that no group names; in v2 the family. None in a fragment of a name.
        groups: letter -> quantization, in the order of letters; v1 only.
        provider: v2 only: LM, MQ, UD, EXT, or MQ-UD for another's mix that was built again.
        ordinal: v2 only: which of the family's, from 1.

    Raises:
        QuantNameError: a letter or quantization that does not exist, or parts of both schemes.
    """

    model: str | None
    base: str | None
    groups: Mapping[str, str] = field(default_factory=dict)
    provider: str | None = None
    ordinal: int | None = None

    def __post_init__(self) -> None:
        for letter in self.groups:
            if letter not in LETTERS:
                raise QuantNameError(
                    f"there is no group {letter!r}; the groups are {' '.join(LETTERS)}", part=letter
                )
        ordered = {letter: full_quant(self.groups[letter]) for letter in LETTERS if letter in self.groups}
        object.__setattr__(self, "groups", ordered)
        object.__setattr__(self, "model", self.model or None)
        if self.base is not None:
            object.__setattr__(self, "base", full_quant(self.base))
        if self.base is None and (self.provider is not None or not self.groups):
            raise QuantNameError("a name needs a base, or a family after its provider", part="base")
        self._check_scheme()

    def _check_scheme(self) -> None:
        if self.provider is None:
            if self.ordinal is not None:
                raise QuantNameError("a number belongs to a v2 name; give its provider too", part="ordinal")
            return
        if self.provider.removeprefix("MQ-") not in PROVIDERS or self.provider == "MQ-MQ":
            raise QuantNameError(
                f"{self.provider!r} is no provider; use {', '.join(PROVIDERS)}, or MQ-UD for another's mix "
                "built again",
                part=self.provider,
            )
        if self.groups:
            raise QuantNameError("a v2 name tells no groups; leave out the provider", part="groups")
        if self.ordinal is not None and self.ordinal < 1:
            raise QuantNameError(f"numbers begin at 1, got {self.ordinal}", part="ordinal")

    @classmethod
    def from_json(cls, document: Any) -> QuantName:
        """From ``{"model", "base", "groups"}``, or all that `to_json` writes.

        Groups at the base's type are left out, unless the document is one of `to_json`, which names what a
        name named.

        Raises:
            QuantNameError: a key holds something else.
        """
        if not isinstance(document, Mapping) or not {"base", "groups", "family"} & set(document):
            raise QuantNameError("expected an object with model, base and groups", part="base")
        texts = {key: document.get(key) for key in ("model", "base", "provider", "family")}
        for key, value in texts.items():
            if value is not None and not isinstance(value, str):
                raise QuantNameError(f"{key} is a text, got {value!r}", part=key)
        groups = document.get("groups") or {}
        if not isinstance(groups, Mapping) or not all(isinstance(x, str) for i in groups.items() for x in i):
            raise QuantNameError(f"groups maps letters to types, got {groups!r}", part="groups")
        ordinal = document.get("ordinal")
        if ordinal is not None and (not isinstance(ordinal, int) or isinstance(ordinal, bool)):
            raise QuantNameError(f"ordinal is a number, got {ordinal!r}", part="ordinal")
        base = texts["base"] or texts["family"]
        kept = dict(groups) if "semantics" in document else deviations(base, groups)
        return cls(texts["model"], base, kept, texts["provider"], ordinal)

    @property
    def scheme(self) -> Literal["v1", "v2"]:
        """Which of the two schemes."""
        return "v1" if self.provider is None else "v2"

    @property
    def semantics(self) -> Semantics:
        """Whether values are types of all tensors of a group, or mixes learned from a file or preset."""
        values = [*self.groups.values(), *([self.base] if self.base else [])]
        return "type" if self.provider is None and all(map(is_type, values)) else "learned"

    def to_json(self) -> dict[str, Any]:
        """As ``mqnative name parse --json`` prints it."""
        return {
            "model": self.model,
            "base": self.base,
            "groups": dict(self.groups),
            "semantics": self.semantics,
            "scheme": self.scheme,
            "provider": self.provider,
            "family": None if self.provider is None else self.base,
            "ordinal": self.ordinal,
        }


def full_quant(spelling: str) -> str:
    """The full name of a quantization in any spelling.

    Raises:
        QuantNameError: it is none.
    """
    found = read_quant(spelling)
    if found is None:
        near = near_quants(spelling)
        hint = (
            f"did you mean {' or '.join(near)}?" if near else "names use those such as Q6_K, IQ4_NL or BF16"
        )
        raise QuantNameError(f"{spelling!r} is no quantization; {hint}", part=spelling)
    return found


def blocks_of(groups: Mapping[str, str]) -> list[tuple[str, str]]:
    """``(letters, quantization as spelled)``: groups of one kind together, in the order that writers use.

    Letters in the order of groups, blocks in ASCII order of their quantization.
    """
    by_quant: dict[str, str] = {}
    for letter in LETTERS:
        if letter in groups:
            spelled = short_spelling(groups[letter])
            by_quant[spelled] = by_quant.get(spelled, "") + letter
    return sorted(((letters, quant) for quant, letters in by_quant.items()), key=lambda block: block[1])


def write_name(name: QuantName) -> str:
    """The text of a name, whether or not it can be read back without its model.

    `mqnative.formats.name_parser.format_name` makes sure that it can.

    Raises:
        QuantNameError: the model's name cannot stand in a file name.
    """
    if name.model is not None and not _MODEL.fullmatch(name.model):
        raise QuantNameError(
            f"{name.model!r} cannot stand in a file name; leave out blanks and slashes", part=name.model
        )
    model = [] if name.model is None else [name.model]
    if name.provider is not None:
        number = "" if name.ordinal is None else f"_{name.ordinal}"
        return "-".join([*model, name.provider, f"{name.base}{number}"])
    blocks = [token for block in blocks_of(name.groups) for token in block]
    if name.base is None:
        return "-".join([*model, *blocks])
    # Pure files are called as llama.cpp calls them.
    pure = not blocks and name.model is not None
    return "-".join([*model, name.base if pure else short_spelling(name.base), *blocks])


def file_safe(model: str) -> str:
    """A model's name for file names: everything but letters, digits, ``.``, ``_`` and ``-`` becomes ``_``."""
    return _UNSAFE.sub("_", model.strip())


def deviations(base: str | None, groups: Mapping[str, str]) -> dict[str, str]:
    """The groups that differ from the base: the only ones that a name lists."""
    own = None if base is None else full_quant(base)
    return {letter: quant for letter, quant in groups.items() if full_quant(quant) != own}


def letters_of(token: str) -> str | None:
    """The letters of a block, if that is what ``token`` is; blanks between them are tolerated."""
    letters = token.replace(" ", "")
    return letters if letters and all(letter in LETTERS for letter in letters) else None


def repeated_letter(letters: str, used: Iterable[str]) -> str | None:
    """The first letter that is there twice, or was used before."""
    seen = set(used)
    for letter in letters:
        if letter in seen:
            return letter
        seen.add(letter)
    return None
