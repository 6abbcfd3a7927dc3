"""What must not be written anywhere: hub tokens, in arguments, logs, errors and rows."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
# Parameters of commands that hold a secret.
SECRET_OPTIONS = frozenset({"token"})
TOKEN_VARIABLE = "HF_TOKEN"
_VARIABLES = (TOKEN_VARIABLE, "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
# As the hub makes them; and whatever follows the word in a header.
_LOOKS_SECRET = re.compile(r"\bhf_[A-Za-z0-9_]{8,}|(?<=[Bb]earer )[^\s'\"]+")
_SHORTEST = 6


def redacted(text: str, *secrets: str) -> str:
    """``text`` with every secret replaced.

    Args:
        text: anything.
        secrets: values known besides those in the environment.
    """
    known = [*secrets, *(os.environ.get(name, "") for name in _VARIABLES)]
    # The longest first, since one may be a part of another; a short one would blot out words.
    for secret in sorted((s for s in known if len(s) >= _SHORTEST), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return _LOOKS_SECRET.sub(HIDDEN, text)


def redacted_values(values: Mapping[str, Any], *secrets: str) -> dict[str, Any]:
    """JSON values with every text in them `redacted`."""

    def clean(value: Any) -> Any:
        if isinstance(value, str):
            return redacted(value, *secrets)
        if isinstance(value, Mapping):
            return {str(k): clean(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [clean(v) for v in value]
        return value if value is None or isinstance(value, (int, float)) else redacted(str(value), *secrets)

    return {name: clean(value) for name, value in values.items()}
