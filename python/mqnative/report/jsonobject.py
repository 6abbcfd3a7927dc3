"""Reading JSON values with their types checked: what is missing or of another kind is named."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from mqnative.errors import FormatError
from mqnative.report.summary import Interval


class JSONObject:
    """Takes typed values out of a JSON object and says where one is missing or of another kind."""

    def __init__(self, value: object, path: str = "") -> None:
        self._path = path
        self._value: Mapping[str, Any] = self.of("", value, Mapping)

    def of(self, key: str, value: Any, *kinds: type) -> Any:
        """``value`` if it is of one of these kinds; ``key`` names it in the error."""
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            where = f"{self._path}.{key}".strip(".") or "the whole value"
            wanted = " or ".join(k.__name__ for k in kinds)
            raise FormatError(f"{where} of a report must be {wanted}, got {value!r:.80}", key=where)
        return value

    def get(self, key: str) -> Any:
        """The value as it is; None if it is missing."""
        return self._value.get(key)

    def text(self, key: str) -> str:
        """A string."""
        return str(self.of(key, self.get(key), str))

    def integer(self, key: str) -> int:
        """A whole number."""
        return int(self.of(key, self.get(key), int))

    def flag(self, key: str) -> bool:
        """True or false."""
        return bool(self.of(key, self.get(key), bool))

    def number(self, key: str) -> float:
        """A number; null and missing are not a number."""
        found = self.optional(key)
        return math.nan if found is None else found

    def optional(self, key: str) -> float | None:
        """A number, or None for null and missing."""
        found = self.get(key)
        return None if found is None else self._float(key, found)

    def interval(self, key: str) -> Interval | None:
        """Two numbers, or None."""
        if self.get(key) is None:
            return None
        low, high = (
            math.nan if v is None else self._float(key, v) for v in (*self.array(key), None, None)[:2]
        )
        return low, high

    def choice(self, key: str, choices: Any) -> Any:
        """One of the strings of a Literal."""
        found = self.text(key)
        if found not in get_args(choices):
            raise FormatError(f"{key} must be one of {', '.join(get_args(choices))}, got {found!r}", key=key)
        return found

    def array(self, key: str) -> list[Any]:
        """A list."""
        return list(self.of(key, self.get(key), list, tuple))

    def strings(self, key: str) -> tuple[str, ...]:
        """A list of strings."""
        return tuple(self.of(f"{key}[{i}]", v, str) for i, v in enumerate(self.array(key)))

    def texts(self, key: str) -> dict[str, str]:
        """An object that holds only strings."""
        items = self.of(key, self.get(key), Mapping).items()
        return {str(k): str(self.of(f"{key}.{k}", v, str)) for k, v in items}

    def part(self, key: str) -> JSONObject | None:
        """An object, or None for null and missing."""
        found = self.get(key)
        return None if found is None else JSONObject(found, f"{self._path}.{key}".strip("."))

    def objects(self, key: str) -> Iterator[JSONObject]:
        """The objects of a list."""
        return (JSONObject(v, f"{self._path}.{key}[{i}]".strip(".")) for i, v in enumerate(self.array(key)))

    def _float(self, key: str, value: object) -> float:
        number: float = self.of(key, value, int, float)
        try:
            return float(number)
        except OverflowError:
            return math.inf if number > 0 else -math.inf
