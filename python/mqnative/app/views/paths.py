"""Paths as people write them."""

from __future__ import annotations

import re
from pathlib import Path


def short(text: Path | str) -> str:
    """A path, or a text with paths in it, with ``~`` for the user's home folder."""
    try:
        home = str(Path.home())
    except RuntimeError:  # neither the environment nor the user database names one
        return str(text)
    if len(home) < 2:  # of some containers
        return str(text)
    # Neither /mnt/srv/ada nor /srv/adam is /srv/ada.
    return re.sub(rf"(?<![\w./-]){re.escape(home)}(?=/|$)", "~", str(text))
