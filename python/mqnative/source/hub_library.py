"""huggingface_hub, set up before its first import: no telemetry, no bars of its own, no addresses in logs."""

from __future__ import annotations

import logging
import os
import sys
from functools import cache
from types import ModuleType
from typing import Any

_QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
}
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_TRUE = ("1", "ON", "YES", "TRUE")


def offline_by_environment() -> bool:
    """Whether the user has switched the network off for all programs that use the hub."""
    return any(os.environ.get(name, "").upper() in _TRUE for name in OFFLINE_VARIABLES)


@cache
def hub_library() -> ModuleType:
    """The library; imported here only, since it reads its settings from the environment when it is loaded."""
    os.environ.update(_QUIET)
    if os.environ.get("HF_ENDPOINT"):
        # A mirror or a server of one's own need not have Xet storage; everyone speaks LFS.
        os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
    import huggingface_hub.errors
    from huggingface_hub import constants, utils

    # Where a program has loaded it before us, the environment comes too late.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    # Its warnings quote addresses, and those of the hub's storage carry signatures.
    utils.logging.set_verbosity(logging.ERROR)
    return huggingface_hub


def session() -> Any:
    """The library's HTTP client: of httpx, or of requests before version 1."""
    hub_library()
    from huggingface_hub import utils

    return utils.get_session()  # type: ignore[attr-defined,unused-ignore]


@cache
def network_errors() -> tuple[type[Exception], ...]:
    """What the client raises when the network fails, whichever client it is."""
    client = sys.modules[type(session()).__module__.partition(".")[0]]
    if hasattr(client, "TransportError"):
        return (client.TransportError, client.StreamError)
    return (client.RequestException,)


def user_agent() -> str:
    """What we say we are: nothing of the machine."""
    from mqnative import __version__

    return f"mqnative/{__version__}"
