"""YAML and JSON without surprises: plain data, every key once, no aliases, lines for messages.

YAML scalars follow JSON's rules: only ``null``, ``true``, ``false`` and decimal numbers are not
text. So ``2026-01-31``, ``yes``, ``0x10`` and ``12:30`` stay the text they look like, and a
document means the same in both notations.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from numbers import Integral, Real
from typing import Any

import yaml

MAX_BYTES = 4 << 20
"""Largest text taken: far more than a line for every tensor of any model."""

MAX_DEPTH = 32

MAX_INTEGER = 2**64
"""What other programs read; a longer number, such as a hash, is text."""

Path = tuple[str | int, ...]
"""Where a value lies: keys and list positions from the top."""


class DocumentError(ValueError):
    """A text is not one plain document; callers turn this into the error of their own format.

    Attributes:
        problem: what is wrong, in words.
        line: where, counted from 1, if it is known.
        key: the key at fault, if there is one.
    """

    def __init__(self, problem: str, line: int | None = None, key: str | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.line = line
        self.key = key


@dataclass(frozen=True)
class Document:
    """Parsed data (dict, list, str, int, float, bool, None) and the lines it came from.

    Attributes:
        data: the value.
        lines: line of each value by its path, counted from 1; empty for JSON, whose parser tells
            none.
    """

    data: Any
    lines: Mapping[Path, int] = field(default_factory=dict)


class OneLine(dict[str, Any]):
    """A mapping that YAML output keeps on one line."""


class Quoted(str):
    """A text that YAML output puts in quotes, so that a regular expression needs no second look."""

    __slots__ = ()


def parse_document(text: str) -> Document:
    """The one document in ``text``: JSON if it begins with a brace, YAML otherwise.

    Raises:
        DocumentError: it is too large, malformed or nested too deeply, repeats a key, uses an alias
            or a tag, has a key that is not text, or holds a value that JSON cannot express.
    """
    if len(text) > MAX_BYTES:
        raise DocumentError(f"it has {len(text)} characters and {MAX_BYTES} are allowed; shorten its notes")
    if text.lstrip().startswith("{"):
        return Document(plain(_parse_json(text)))
    return _parse_yaml(text)


def format_yaml(data: Any) -> str:
    """``data``, which is ``plain`` but for ``OneLine`` and ``Quoted``, as YAML in block style."""
    text: str = yaml.dump(
        data,
        Dumper=_Dumper,
        default_flow_style=False,
        sort_keys=False,
        allow_unicode=True,
        width=math.inf,
    )
    return text


def format_json(data: Any) -> str:
    """``data``, which is ``plain``, as indented JSON with its keys in their order."""
    return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def plain(value: Any, path: Path = ()) -> Any:
    """A deep copy of ``value`` in built-in types, which YAML and JSON both give back unchanged.

    Raises:
        DocumentError: a part has another type, is not finite, is nested too deeply or cannot be
            stored.
    """
    where = ".".join(map(str, path)) or "the document"
    if len(path) > MAX_DEPTH:
        raise DocumentError(f"{path[0]} is nested more than {MAX_DEPTH} levels deep; flatten it")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, Integral):
        if abs(int(value)) >= MAX_INTEGER:
            raise DocumentError(f"{where} is a number beyond 64 bits; put it in quotes")
        return int(value)
    if isinstance(value, Real):
        if not math.isfinite(value):
            raise DocumentError(f"{where} is {value}, which JSON cannot hold; leave it out")
        return float(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise DocumentError(f"the key {key!r} in {where} is not text; put it in quotes")
        return {_text(k, where): plain(item, (*path, k)) for k, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, (*path, index)) for index, item in enumerate(value)]
    raise DocumentError(f"{where} is a {type(value).__name__}; keep to text, numbers, lists and mappings")


def _text(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DocumentError(f"{where} holds half a character (a lone surrogate); remove it") from None
    return str(text)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(
            text, object_pairs_hook=_unique_pairs, parse_int=_whole, parse_constant=_refuse_constant
        )
    except json.JSONDecodeError as error:
        raise DocumentError(
            f"as JSON (it begins with a brace): {error.msg}; fix the notation there", error.lineno
        ) from None
    except RecursionError:
        raise DocumentError(f"it is nested more than {MAX_DEPTH} levels deep; flatten it") from None


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise DocumentError(f"the key {key!r} appears twice in one mapping; keep one", key=key)
        result[key] = value
    return result


def _refuse_constant(name: str) -> Any:
    raise DocumentError(f"{name} is not a JSON number; leave it out")


def _parse_yaml(text: str) -> Document:
    lines: dict[Path, int] = {}
    try:
        node = _Loader(text).get_single_node()
        return Document(None if node is None else _build(node, (), lines), lines)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DocumentError(
            f"the character U+{ord(text[error.position]):04X} is not allowed; remove it", line
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise DocumentError(
            f"as YAML: {problem}; fix the notation there", mark.line + 1 if mark else None
        ) from None


def _build(node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    """The value of ``node``; notes the lines of everything inside on the way."""
    line = lines[path] = node.start_mark.line + 1
    if isinstance(node, yaml.ScalarNode):
        try:
            return plain(_scalar(node), path)
        except DocumentError as error:
            raise DocumentError(error.problem, line) from None
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, (*path, index), lines) for index, item in enumerate(node.value)]
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        key = _build(key_node, (*path, ""), {})
        if not isinstance(key, str):
            raise DocumentError("a key is not text; put it in quotes", key_line)
        if key in result:
            raise DocumentError(f"the key {key!r} appears twice in one mapping; keep one", key_line, key)
        at = (*path, key)
        result[key] = _build(value_node, at, lines)
        lines[at] = key_line
    return result


def _scalar(node: yaml.ScalarNode) -> Any:
    if node.tag == _INT:
        return _whole(node.value)
    if node.tag == _FLOAT:
        return float(node.value)
    if node.tag == _BOOL:
        return node.value == "true"
    return None if node.tag == _NULL else node.value


def _whole(digits: str) -> int:
    # Python's own limit on the length of numbers depends on its version.
    return int(digits) if len(digits) <= len(str(MAX_INTEGER)) + 1 else MAX_INTEGER


_NULL, _BOOL, _INT, _FLOAT, _STR, _MAP = (
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "map")
)

# Tag, what a bare scalar must look like, and the characters it can begin with.
_RESOLVERS = (
    (_NULL, re.compile(r"(?:null|~|)$"), ["n", "~", ""]),
    (_BOOL, re.compile(r"(?:true|false)$"), ["t", "f"]),
    (_INT, re.compile(r"-?(?:0|[1-9][0-9]*)$"), list("-0123456789")),
    (
        _FLOAT,
        re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?$"),
        list("-0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """Composes what our rules allow; everything else ends here, with its line."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise DocumentError("aliases (*name) are not allowed; write the value out", line)
        if event.tag is not None:
            raise DocumentError(f"the tag {event.tag} is not allowed; remove it", line)
        if self.depth > MAX_DEPTH:
            raise DocumentError(f"it is nested more than {MAX_DEPTH} levels deep; flatten it", line)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Dumper(yaml.SafeDumper):
    """Quotes whatever YAML 1.1 or our own loader would not read as text."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - a part used twice is written twice
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        # Lists are indented under their key, as people write them.
        super().increase_indent(flow, indentless=False)


# YAML 1.1 would turn dates, `yes` and `12:30` into something else.
_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(_tag, _pattern, _first)
    _Dumper.add_implicit_resolver(_tag, _pattern, _first)
_Dumper.add_representer(OneLine, lambda dumper, data: dumper.represent_mapping(_MAP, data, flow_style=True))
# Double quotes escape what the other styles fold or lose, such as unusual line ends.
_Dumper.add_representer(
    str,
    lambda dumper, data: dumper.represent_scalar(_STR, data, None if data.isprintable() else '"'),
)
_Dumper.add_representer(
    Quoted,
    lambda dumper, data: dumper.represent_scalar(_STR, data, "'" if data.isprintable() else '"'),
)
