"""llama.cpp's own tools as subprocesses, timed: the whole run, and the work after the model was loaded."""

from __future__ import annotations

import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

N_CTX = 512
# The tools stamp their log lines with minutes.seconds.milliseconds.microseconds since their start; this line
# is the first one after the model is loaded.
_LOADED = re.compile(r"^(\d+)\.(\d+)\.(\d+)\.(\d+) I system_info", re.MULTILINE)
_QUANTIZED = re.compile(r"total time = +([\d.]+) ms")
_KLD = re.compile(r"Mean +KLD: +(\S+)")


@dataclass(frozen=True)
class Took:
    """One run of a tool.

    Attributes:
        wall_s: of the whole process.
        work_s: without the model's loading, by the tool's own clock; the same as wall_s if it prints none.
        said: its output.
    """

    wall_s: float
    work_s: float
    said: str

    @property
    def kld(self) -> str:
        """The mean KLD it printed; the tool sometimes exits before its last lines are out."""
        found = _KLD.search(self.said)
        return found[1] if found else "?"


@dataclass(frozen=True)
class Tools:
    """The tools in one folder, with the settings every run shares.

    Attributes:
        more: further options of llama-perplexity and llama-imatrix, such as a device.
    """

    folder: Path
    n_threads: int
    more: tuple[str, ...] = ()

    @property
    def flags(self) -> str:
        """What llama-perplexity and llama-imatrix get besides files."""
        return (
            f"-c {N_CTX} -b {N_CTX} -ub {N_CTX} -t {self.n_threads} --no-repack {' '.join(self.more)}".strip()
        )

    @property
    def version(self) -> str:
        """The tools' own version line."""
        said = _run(self._command("llama-perplexity", "--version")).said
        return next(line for line in said.splitlines() if line.startswith("version"))

    def missing(
        self, names: tuple[str, ...] = ("llama-quantize", "llama-imatrix", "llama-perplexity")
    ) -> list[str]:
        """Tools that the folder lacks."""
        return [name for name in names if not (self.folder / name).is_file()]

    def base(self, model: Path, text: Path, n_chunks: int, output: Path) -> Took:
        """The reference's pass, which writes its log-probabilities."""
        return _after_load(_run(self.base_command(model, text, n_chunks, output)))

    def kld(self, model: Path, base: Path) -> Took:
        """KL divergence of a file from what `base` wrote."""
        return _after_load(_run(self.kld_command(model, base)))

    def imatrix(self, model: Path, text: Path, n_chunks: int, output: Path) -> Took:
        """An imatrix, without the perplexity that the tool prints otherwise."""
        return _after_load(_run(self.imatrix_command(model, text, n_chunks, output)))

    def base_command(self, model: Path, text: Path, n_chunks: int, output: Path) -> list[str]:
        given = ("-m", model, "-f", text, "--chunks", n_chunks, "--kl-divergence-base", output)
        return self._command("llama-perplexity", *given, "--no-warmup", *self.flags.split())

    def kld_command(self, model: Path, base: Path) -> list[str]:
        given = ("-m", model, "--kl-divergence-base", base, "--kl-divergence")
        return self._command("llama-perplexity", *given, "--no-warmup", *self.flags.split())

    def imatrix_command(self, model: Path, text: Path, n_chunks: int, output: Path) -> list[str]:
        # Its own default batch: the sums, whose order the batch decides, are then the ones that ours equal.
        given = ("-m", model, "-f", text, "--chunks", n_chunks, "-o", output, "--no-ppl")
        settings = ("-c", N_CTX, "-t", self.n_threads, "--no-repack", *self.more)
        return self._command("llama-imatrix", *given, *settings)

    def preset(self, model: Path, output: Path, name: str, imatrix: Path) -> Took:
        """A file of a preset."""
        return self._quantize("--imatrix", imatrix, model, output, name)

    def one_tensor(self, model: Path, output: Path, name: str, qtype: str, imatrix: Path) -> Took:
        """A file in which one tensor has another type and the rest is BF16 as before.

        The tool takes no overrides beside COPY or BF16, so they are what keeps the rest.
        """
        pattern = "^" + name.replace(".", r"\.") + "$"
        types = ("--tensor-type", f"{pattern}={qtype.lower()}", "--tensor-type", ".*=bf16")
        return self._quantize("--imatrix", imatrix, "--pure", *types, model, output, "Q8_0")

    def _quantize(self, *arguments: object) -> Took:
        took = _run(self._command("llama-quantize", *arguments, self.n_threads))
        total = _QUANTIZED.search(took.said)
        return Took(took.wall_s, float(total[1]) / 1000 if total else took.wall_s, took.said)

    def _command(self, name: str, *arguments: object) -> list[str]:
        return [str(self.folder / name), *map(str, arguments)]


def _run(command: list[str]) -> Took:
    started = time.perf_counter()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    wall = time.perf_counter() - started
    said = done.stdout.decode("utf-8", errors="replace")
    if done.returncode != 0:
        raise SystemExit(f"{command[0]} failed ({done.returncode}):\n{said[-3000:]}")
    return Took(wall, wall, said)


def _after_load(took: Took) -> Took:
    stamp = _LOADED.search(took.said)
    if stamp is None:
        return took
    minutes, seconds, ms, us = (int(part) for part in stamp.groups())
    return Took(took.wall_s, took.wall_s - (60 * minutes + seconds + ms / 1e3 + us / 1e6), took.said)
