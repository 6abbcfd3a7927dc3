"""A small trained model and two public-domain texts, so that everything can be tried without a download.

The model: Qwen3 architecture, 8 layers, 8.4 M weights in BF16, trained for this project on manuals, Python's
standard library and the King James Bible. The texts (King James Bible, SQLite documentation) come from
documents it was not trained on.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent
MODEL = _HERE / "model.gguf"
CALIB_TEXT = _HERE / "calib.txt"
EVAL_TEXT = _HERE / "eval.txt"
