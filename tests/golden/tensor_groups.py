"""Rewrites tensor_groups.txt: where every tensor name of the pinned llama.cpp tree lands.

    python tests/golden/tensor_groups.py

Run this when the pin moves or a group changes, and review the difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from upstream_names import groups_text  # noqa: E402, after the path is set

if __name__ == "__main__":
    (HERE / "tensor_groups.txt").write_text(groups_text(), encoding="utf-8")
