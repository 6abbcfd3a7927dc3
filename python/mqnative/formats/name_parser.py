"""Reads names of mixes from the right, says what else they could mean, and writes those that read back.

A model's name may end in anything, so that a name can have several readings. The longest one that leaves a
base wins; the others are told where the name is not written as its writers write them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mqnative.errors import QuantNameError
from mqnative.formats.legacy_names import read_legacy
from mqnative.formats.names import (
    PROVIDERS,
    QuantName,
    blocks_of,
    file_safe,
    letters_of,
    repeated_letter,
    write_name,
)
from mqnative.formats.quant_tokens import is_type, near_quants, read_quant

_SUFFIX = re.compile(r"\.gguf\Z", re.IGNORECASE)
_SPLIT = re.compile(r"-[0-9]{5}-of-[0-9]{5}\Z")
_NUMBERED = re.compile(r"(.+)_([1-9][0-9]{0,8})")
# v2 sources may be written with an underscore in configurations: UD_Q4_K_XL.
_JOINED = re.compile(rf"({'|'.join(PROVIDERS)})_(.+)")
# As a base this is llama.cpp's preset, which keeps all but experts at Q8_0; v1 names mean the type.
_MOE_PRESET = "MXFP4_MOE"


@dataclass(frozen=True)
class ParsedName:
    """A name, read.

    Attributes:
        text: what was read.
        name: what it most likely means.
        alternatives: what else it could mean; empty where that is far-fetched.
        unlisted: tags of old names for groups that no letter stands for.
    """

    text: str
    name: QuantName
    alternatives: tuple[QuantName, ...] = ()
    unlisted: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As ``mqnative name parse --json`` prints it."""
        return {
            "name": self.text,
            **self.name.to_json(),
            "ambiguous": bool(self.alternatives),
            "alternatives": [a.to_json() for a in self.alternatives],
            "unlisted": dict(self.unlisted),
            "canonical": write_name(replace(self.name, model=self.name.model and file_safe(self.name.model))),
        }


def parse_name(text: str, *, model: str | None = None) -> ParsedName:
    """Read the name of a mix, in either scheme; a path, ``.gguf`` and split numbers are cut off.

    Args:
        text: ``Qwen3-4B-MXFP4-EH-B16.gguf``, a bare ``MXFP4-EH-B16`` or a fragment ``EH-B16``.
        model: the model's name, where it is known; removes all doubt.

    Raises:
        QuantNameError: it ends in no quantization, names a group twice, or is not of ``model``.
    """
    stem = _stem(text)
    if model is not None:
        return _parse_known(text, stem, model)
    legacy = read_legacy(stem)
    if legacy is not None:
        return ParsedName(text, legacy[0], unlisted=legacy[1])
    readings = _readings(text, stem)
    first = readings[0]
    others = tuple(r for r in readings[1:] if r != first)
    if len(others) > 0 and not _doubtful(first, stem, others):
        others = ()
    if first.scheme == "v1" and first.base == _MOE_PRESET:
        first, others = _as_type(first), tuple(map(_as_type, others))
        if not first.groups:
            # The same text is the name of llama.cpp's preset.
            others = (replace(first, base=_MOE_PRESET), *others)
    return ParsedName(text, first, others)


def parse_fragment(text: str) -> dict[str, str]:
    """Blocks without model and base: ``EH-B16-QKO-IQ4NL``, and ``X R-Q8_0`` with its blanks.

    Raises:
        QuantNameError: it is no such thing.
    """
    stem = _stem(text)
    found = _fragment(stem.split("-"))
    if found is None:
        raise QuantNameError(
            f"{text!r} is no row of blocks; write letters and quantization in turn, such as EH-B16", name=text
        )
    return dict(found.groups)


def format_name(name: QuantName) -> str:
    """The text of a name, which reads back as the same name.

    Raises:
        QuantNameError: the model's name makes it read as something else.
    """
    text = write_name(name)
    try:
        read = parse_name(text).name
    except QuantNameError as error:
        raise QuantNameError(f"{text!r} cannot be read back: {error.message}", name=text) from None
    if read != name:
        if name.base == _MOE_PRESET and name.provider is None:
            hint = f"in v1 names it means the type MXFP4; write the preset as v2, LM-{_MOE_PRESET}"
        else:
            hint = "choose another name for the model"
        raise QuantNameError(
            f"{text!r} would be read as model {read.model!r}, base {read.base}, groups "
            f"{dict(read.groups)}; {hint}",
            name=text,
            part=name.model,
        )
    return text


def _stem(text: str) -> str:
    name = re.split(r"[/\\]", text.strip())[-1]
    return _SPLIT.sub("", _SUFFIX.sub("", name))


def _readings(text: str, stem: str) -> list[QuantName]:
    """Every legal reading, the likeliest first."""
    tokens = stem.split("-")
    v1 = list(_read_v1(text, tokens))
    v1.reverse()
    v2 = _read_v2(tokens)
    fragment = _fragment(tokens)
    if fragment is not None and v1 and v1[0].model is not None and letters_of(v1[0].model) is not None:
        v1.insert(0, fragment)
    if v2 is None:
        if not v1:
            raise _no_quant(text, tokens)
        return v1
    # UD is a run of letters too: after a quantization it is a block, if its value can be a block's.
    block = bool(v1) and v1[0].base is not None and _is_block_of_types(v1[0])
    return [v1[0], v2, *v1[1:]] if block and v1[0].groups else [v2, *v1]


def _is_block_of_types(name: QuantName) -> bool:
    return all(map(is_type, name.groups.values()))


def _read_v1(text: str, tokens: list[str]) -> Iterator[QuantName]:
    """Readings with 0, 1, 2, ... blocks, as long as a base remains."""
    groups: dict[str, str] = {}
    end = len(tokens)
    base = read_quant(tokens[-1])
    if base is None:
        return
    while True:
        if base is not None:
            yield QuantName("-".join(tokens[: end - 1]), base, groups)
        if end < 2 or base is None:
            return
        letters = letters_of(tokens[end - 2])
        if letters is None:
            return
        before = read_quant(tokens[end - 3]) if end >= 3 else None
        repeated = repeated_letter(letters, groups)
        if repeated is not None:
            if before is None:
                return
            raise QuantNameError(
                f"{text!r} names group {repeated} twice; name each group once, or tell the model's name if "
                "that is a part of it",
                name=text,
                part=repeated,
            )
        groups = {**groups, **dict.fromkeys(letters, base)}
        end -= 2
        base = before


def _fragment(tokens: list[str]) -> QuantName | None:
    """Letters and quantizations in turn, and nothing else."""
    if len(tokens) % 2:
        return None
    groups: dict[str, str] = {}
    for token, quant in zip(tokens[::2], tokens[1::2], strict=True):
        letters, value = letters_of(token), read_quant(quant)
        if letters is None or value is None or repeated_letter(letters, groups):
            return None
        groups.update(dict.fromkeys(letters, value))
    return QuantName(None, None, groups)


def _read_v2(tokens: list[str]) -> QuantName | None:
    joined = _JOINED.fullmatch(tokens[-1])
    if joined is not None and _family(joined[2]) is not None:
        tokens = [*tokens[:-1], joined[1], joined[2]]
    family = _family(tokens[-1])
    if len(tokens) < 2 or family is None or tokens[-2] not in PROVIDERS:
        return None
    again = tokens[-2] != "MQ" and len(tokens) > 2 and tokens[-3] == "MQ"
    provider = f"MQ-{tokens[-2]}" if again else tokens[-2]
    model = tokens[: -3 if again else -2]
    return QuantName("-".join(model), family[0], {}, provider, family[1])


def _family(token: str) -> tuple[str, int | None] | None:
    """A family and its number: ``Q5_1`` is a type, ``Q5_K_1`` the first of family Q5_K."""
    whole = read_quant(token)
    if whole is not None and "_" in token.strip("_"):
        return whole, None
    numbered = _NUMBERED.fullmatch(token)
    family = read_quant(numbered[1]) if numbered else None
    # Spelled in full: Q8_1 is a type that no file holds, not the first of family Q8.
    if numbered is not None and family is not None and family == numbered[1].upper():
        return family, int(numbered[2])
    return None if whole is None else (whole, None)


def _doubtful(first: QuantName, stem: str, others: tuple[QuantName, ...]) -> bool:
    """Whether another reading is worth telling."""
    if first.scheme == "v2":
        # Only UD can be a block, and only of a type.
        return any(o.groups and _is_block_of_types(o) for o in others)
    if first.base is None or not _is_block_of_types(first):
        return True
    if any(o.scheme == "v2" for o in others):
        return True
    # Blocks that are not written as writers write them may be a part of the model's name.
    written = [token for block in blocks_of(first.groups) for token in block]
    tokens = stem.replace(" ", "").split("-")[-len(written) :] if written else []
    return [_long(token) for token in tokens] != written


def _long(token: str) -> str:
    """``Q8``, the only other spelling in use, as the blocks of names spell it."""
    return "Q8_0" if token == "Q8" else token


def _as_type(name: QuantName) -> QuantName:
    return replace(name, base="MXFP4") if name.scheme == "v1" and name.base == _MOE_PRESET else name


def _parse_known(text: str, stem: str, model: str) -> ParsedName:
    prefix = f"{model}-"
    if not stem.startswith(prefix):
        raise QuantNameError(
            f"{text!r} is no name of {model!r}: it does not begin with {prefix!r}", name=text, part=model
        )
    rest = stem.removeprefix(prefix)
    tokens = rest.split("-")
    v2 = _read_v2(tokens)
    found = [r for r in _read_v1(text, tokens) if r.model is None]
    if v2 is not None and v2.model is None:
        found.append(v2)
    legacy = read_legacy(rest)
    if legacy is not None and legacy[0].model is None:
        return ParsedName(text, replace(_as_type(legacy[0]), model=model), unlisted=legacy[1])
    if not found:
        raise (
            _no_quant(text, tokens)
            if read_quant(tokens[-1]) is None
            else QuantNameError(
                f"{rest!r} after {model!r} is no base with blocks and no provider with a family; write "
                "base-letters-quantization",
                name=text,
                part=rest,
            )
        )
    return ParsedName(text, replace(_as_type(found[0]), model=model))


def _no_quant(text: str, tokens: list[str]) -> QuantNameError:
    near = near_quants(tokens[-1])
    hint = f"did you mean {' or '.join(near)}?" if near else "names end in one, such as Model-Q4_K_M"
    return QuantNameError(
        f"{text!r} is no name of a mix: {tokens[-1]!r} is no quantization; {hint}", name=text, part=tokens[-1]
    )
