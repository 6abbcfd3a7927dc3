"""From a hub on the loopback to proven files, with what each step costs.

    python benchmarks/hub.py FIXTURES [--out DIR] [--fast]

FIXTURES holds small checkpoints, GGUFs and texts: tiny-qwen3/ tiny-llama-tied/ tiny-qwen3moe-bf16.gguf
text/calib.txt text/eval.txt. Prints Markdown: a remote look at 100 GB of holes, `auto` from hub ids, and
`convert -r` beside convert and build. Needs torch and transformers, and the tests' hub beside this folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from hf_models import header_of, llama_config, random_tensors, tensor_shapes, write_checkpoint
from hub_content import Content, sparse
from hub_server import HubServer
from mqnative.formats.gguf import GGUFFile, MetaType, MetaValue
from mqnative.formats.gguf_layout import GGUFLayout
from mqnative.formats.recipe import Recipe, write_recipe

_SHARDS = 30
_HUGE = llama_config(layers=80, heads=64, kv_heads=8, tie_word_embeddings=False) | {
    "hidden_size": 8192, "intermediate_size": 28672, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
# What the converter's process loads before it sees a model.
_IMPORTS = "import torch, transformers.models.auto, sentencepiece"


class Machine:
    """A user's machine: caches and stores of its own, and one hub."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.env = os.environ | {
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(folder / "hf"),
            "MQNATIVE_HOME": str(folder / "home"),
            "HF_TOKEN": "",
        }

    def run(self, *arguments: object) -> tuple[dict[str, Any], float]:
        """A command's JSON, and its seconds."""
        call = [sys.executable, "-m", "mqnative", *map(str, arguments), "--json"]
        begin = time.perf_counter()
        done = subprocess.run(call, env=self.env, stdout=subprocess.PIPE, text=True, check=False)
        elapsed_s = time.perf_counter() - begin
        if done.returncode:
            raise SystemExit(f"{' '.join(call)} ended with {done.returncode}:\n{done.stdout}")
        found: dict[str, Any] = json.loads(done.stdout)
        return found, elapsed_s


def huge_checkpoint() -> dict[str, bytes | str | Path | Content]:
    """Seventy billion weights that are holes, in shards."""
    shapes = tensor_shapes(_HUGE)
    names, weight_map = list(shapes), {}
    files: dict[str, bytes | str | Path | Content] = {"config.json": json.dumps(_HUGE)}
    for i in range(_SHARDS):
        part = names[i * len(names) // _SHARDS : (i + 1) * len(names) // _SHARDS]
        file = f"model-{i + 1:05}-of-{_SHARDS:05}.safetensors"
        files[file] = sparse(*header_of({n: shapes[n] for n in part}))
        weight_map |= dict.fromkeys(part, file)
    files["model.safetensors.index.json"] = json.dumps({"weight_map": weight_map})
    return files


def huge_gguf(model: Path) -> dict[str, bytes | str | Path | Content]:
    """The same as one GGUF with a vocabulary of 128,256 tokens and 280,000 merges."""
    with GGUFFile.open(model) as file:
        metadata = dict(file.metadata)
        some = next(t for t in file.tensors.values() if len(t.shape) == 2).qtype
    metadata["tokenizer.ggml.tokens"] = MetaValue.array(MetaType.STRING, [f"{i:06}" for i in range(128_256)])
    metadata["tokenizer.ggml.merges"] = MetaValue.array(
        MetaType.STRING, [f"{i:03} {i:04}" for i in range(280_000)]
    )
    shapes = [(f"blk.{i}.ffn_up.weight", (8192, 28672 * 8), some) for i in range(28)]
    plan = GGUFLayout.plan(metadata, shapes)
    return {"huge-bf16.gguf": sparse(plan.header_bytes, plan.file_bytes)}


def looks(machine: Machine, fixtures: Path) -> None:
    """A look from afar."""
    print("| remote inspect | size | time | read |\n|---|---:|---:|---:|")
    for name, files in (
        ("safetensors", huge_checkpoint()),
        ("GGUF", huge_gguf(fixtures / "tiny-qwen3-bf16.gguf")),
    ):
        machine.hub.add(f"acme/huge-{name}", files)
        before = machine.hub.sent_bytes
        found, elapsed_s = machine.run("inspect", f"acme/huge-{name}")
        read = machine.hub.sent_bytes - before
        print(
            f"| {name} | {found['download_bytes'] / 1e9:.1f} GB | {elapsed_s:.2f} s | {read / 1e6:.2f} MB |"
        )


def searches(machine: Machine, fixtures: Path, *effort: str) -> None:
    """One `auto` command for each fixture."""
    machine.hub.add_folder("acme/dense", fixtures / "tiny-qwen3")
    machine.hub.add_folder("acme/tied", fixtures / "tiny-llama-tied")
    machine.hub.add("acme/experts", {"experts-BF16.gguf": fixtures / "tiny-qwen3moe-bf16.gguf"})
    texts = ("--calib", fixtures / "text" / "calib.txt", "--eval", fixtures / "text" / "eval.txt")
    print("\n| auto from the hub | size | bpw | KLD | 95 % | nearest rival | its KLD | verdict | time |")
    print("|---|---:|---:|---:|---|---|---:|---|---:|")
    for name in ("dense", "tied", "experts"):
        out = machine.folder / "out" / name
        found, elapsed_s = machine.run("auto", f"acme/{name}", "--bpw", "4.5", *texts, "-o", out, *effort)
        rival = min(found["baselines"], key=lambda m: abs(m["size_bytes"] - found["size_bytes"]))
        low, high = found["kld_ci95"]
        print(
            f"| {name} | {found['size_bytes']:,} | {found['bpw']:.3f} | {found['kld_mean']:.5f} | "
            f"{low:.5f} .. {high:.5f} | {rival['name']}, {rival['size_bytes']:,} | {rival['kld_mean']:.5f} | "
            f"{rival['verdict']} | {elapsed_s:.0f} s |"
        )


def conversions(machine: Machine, fixtures: Path) -> None:
    """Straight to the recipe, and by way of a reference."""
    print("\n| convert -r | reference | result | same bytes as convert + build | time | by way of a file |")
    print("|---|---:|---:|---|---:|---:|")
    work = machine.folder / "convert"
    work.mkdir()
    for name, folder in (("dense", "tiny-qwen3"), ("tied", "tiny-llama-tied")):
        recipe = machine.folder / "out" / name / "recipe.yaml"
        imatrix = machine.folder / "out" / name / "work" / "imatrix.gguf"
        reference, built, straight = (work / f"{name}-{n}.gguf" for n in ("reference", "built", "straight"))
        common = ("-r", recipe, "--imatrix", imatrix)
        first, convert_s = machine.run("convert", fixtures / folder, "-o", reference)
        _, build_s = machine.run("build", reference, *common, "-o", built, "--no-cache")
        _, straight_s = machine.run("convert", fixtures / folder, *common, "-o", straight)
        same = "yes" if straight.read_bytes() == built.read_bytes() else "NO"
        print(
            f"| {name} | {first['size_bytes']:,} | {built.stat().st_size:,} | {same} | {straight_s:.1f} s | "
            f"{convert_s + build_s:.1f} s |"
        )


def memory(machine: Machine) -> None:
    """A tensor of 400 MB on its way to several types."""
    print("\n| convert -r of a 410 MB tensor to | peak over imports | bar |\n|---|---:|---:|")
    config = llama_config(layers=1) | {"hidden_size": 1024, "vocab_size": 200_000}
    tensors = random_tensors(config | {"vocab_size": 8})
    big = np.zeros((200_000, 1024), np.uint16)
    big[:] = np.arange(1024, dtype=np.uint16) + 0x3C00
    tensors["model.embed_tokens.weight"] = ("BF16", big)
    folder = write_checkpoint(machine.folder / "large", config, tensors)
    imports = imports_bytes()
    for qtype in ("Q8_0", "Q4_K", "IQ4_XS"):
        recipe = machine.folder / f"{qtype}.yaml"
        write_recipe(recipe, Recipe(base=qtype, tensors={}))
        found, _ = machine.run("convert", folder, "-r", recipe, "-o", machine.folder / f"{qtype}.gguf")
        bar = 3 * big.nbytes + 500_000_000
        peak = found["peak_memory_bytes"] - imports
        print(f"| {qtype} | {peak / 1e6:.0f} MB | {bar / 1e6:.0f} MB |")


def imports_bytes() -> int:
    """What a process holds after the converter's imports."""
    tell = "\nimport re; print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS + tell], stdout=subprocess.PIPE, text=True, check=True
    )
    return 1024 * int(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("fixtures", type=Path)
    parser.add_argument("--out", type=Path, help="Default: a folder that is removed at the end.")
    parser.add_argument("--only", choices=["look", "auto", "convert", "memory"])
    parser.add_argument("--fast", action="store_true", help="Probe nothing in auto.")
    given = parser.parse_args()
    with HubServer() as hub, tempfile.TemporaryDirectory() as scratch:
        machine = Machine(hub, given.out or Path(scratch))
        machine.folder.mkdir(parents=True, exist_ok=True)
        if given.only in (None, "look"):
            looks(machine, given.fixtures)
        if given.only in (None, "auto", "convert"):
            searches(machine, given.fixtures, *(("--fast",) if given.fast else ()))
        if given.only in (None, "convert"):
            conversions(machine, given.fixtures)
        if given.only in (None, "memory"):
            memory(machine)


if __name__ == "__main__":
    main()
