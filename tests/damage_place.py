"""A model whose damages were measured once, for many commands that choose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli_process import DONE, Finished, mqnative, succeed
from mqnative.builtin import CALIB_TEXT, MODEL

TYPES = "Q8_0,Q6_K,Q5_K,Q4_K,IQ3_S,Q3_K,Q2_K"
# Small chunks keep a pass at a fraction of a second.
EFFORT = ("--ctx", 64, "--probe-chunks", 2)


class Workplace:
    """Damage tables of the built-in model, with an imatrix and without, measured once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"MQNATIVE_HOME": str(folder / "home")}
        self.text = folder / "calib.txt"
        self.text.write_text(CALIB_TEXT.read_text(encoding="utf-8")[:12_000], encoding="utf-8")
        self.table, self.imatrix = folder / "damages.json", folder / "imatrix.gguf"
        succeed(
            "solve", MODEL, "-f", self.text, "--bpw", 4.5, "--types", TYPES, "-o", folder / "first.yaml",
            "--save-damages", self.table, "--save-imatrix", self.imatrix, *EFFORT, env=self.env,
        )  # fmt: skip

    def solve(self, *arguments: object) -> Finished:
        """`mqnative solve` on the table."""
        return mqnative(
            "solve", MODEL, "--damages", self.table, "--imatrix", self.imatrix, "--types", TYPES,
            "-o", self.folder / "recipe.yaml", "--force", "--json", *arguments, env=self.env,
        )  # fmt: skip

    def frontier(self, *arguments: object) -> Finished:
        """`mqnative frontier` on the table."""
        return mqnative(
            "frontier", MODEL, "--damages", self.table, "--imatrix", self.imatrix, "--types", TYPES,
            *arguments, env=self.env,
        )  # fmt: skip

    def solved(self, *arguments: object) -> dict[str, Any]:
        """What a solve that must end well says."""
        done = self.solve(*arguments)
        assert done.code == DONE, done.err
        found: dict[str, Any] = done.json
        return found
