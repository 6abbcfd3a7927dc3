"""Makes a finetune of a small dense Qwen3 in GGUF form: a few dozen steps of AdamW on a text.

    python benchmarks/finetune.py MODEL-bf16.gguf TEXT OUT-bf16.gguf [--steps 60] [--lr 3e-4]

Needs torch, which nothing else here does. All tensors are trained; names, shapes, types and metadata stay,
but for general.name.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from mqnative.core.model import Model
from mqnative.formats.gguf import GGUFFile, MetaValue
from mqnative.formats.gguf_writer import GGUFLayout, write_gguf
from mqnative.measure.corpus import read_corpus

_N_CTX = 512


class Qwen3:
    """The forward pass, on tensors by GGUF name."""

    def __init__(self, file: GGUFFile) -> None:
        self.weights = {name: torch.nn.Parameter(_floats(file, name)) for name in file.tensors}
        architecture = file.architecture
        if architecture != "qwen3":
            raise SystemExit(f"{file.path} is {architecture}, and this script knows qwen3 only")
        number = lambda key: file.integer(f"qwen3.{key}") or 0  # noqa: E731 - one line, used thrice
        self.n_layers, self.n_head = number("block_count"), number("attention.head_count")
        self.n_kv, self.n_rot = number("attention.head_count_kv"), number("attention.key_length")
        self.eps = float(file.get("qwen3.attention.layer_norm_rms_epsilon", 1e-6))
        base = float(file.get("qwen3.rope.freq_base", 10000.0))
        angles = torch.outer(
            torch.arange(_N_CTX), base ** (-torch.arange(0, self.n_rot, 2) / self.n_rot)
        )  # fmt: skip
        self.cos, self.sin = torch.cos(angles), torch.sin(angles)

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        """(batch, n) tokens in, (batch, n, n_vocab) logits out."""
        w = self.weights
        x = w["token_embd.weight"][tokens]
        for i in range(self.n_layers):
            x = x + self._attention(self._norm(x, w[f"blk.{i}.attn_norm.weight"]), i)
            h = self._norm(x, w[f"blk.{i}.ffn_norm.weight"])
            gate, up = (h @ w[f"blk.{i}.ffn_{name}.weight"].T for name in ("gate", "up"))
            x = x + (F.silu(gate) * up) @ w[f"blk.{i}.ffn_down.weight"].T
        head = w.get("output.weight", w["token_embd.weight"])
        return self._norm(x, w["output_norm.weight"]) @ head.T

    def _attention(self, x: torch.Tensor, i: int) -> torch.Tensor:
        w, (batch, n, _) = self.weights, x.shape
        heads = {}
        for name, count in (("q", self.n_head), ("k", self.n_kv), ("v", self.n_kv)):
            h = (x @ w[f"blk.{i}.attn_{name}.weight"].T).view(batch, n, count, self.n_rot)
            if name != "v":
                h = self._rotate(self._norm(h, w[f"blk.{i}.attn_{name}_norm.weight"]), n)
            heads[name] = h.transpose(1, 2).repeat_interleave(self.n_head // count, 1)
        found = F.scaled_dot_product_attention(heads["q"], heads["k"], heads["v"], is_causal=True)
        return found.transpose(1, 2).reshape(batch, n, -1) @ w[f"blk.{i}.attn_output.weight"].T

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def _rotate(self, x: torch.Tensor, n: int) -> torch.Tensor:
        a, b = x.chunk(2, -1)
        cos, sin = self.cos[:n, None], self.sin[:n, None]
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def _floats(file: GGUFFile, name: str) -> torch.Tensor:
    array = np.array(file.array(name))
    if file.tensors[name].qtype.name == "BF16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16).float()
    return torch.from_numpy(array.astype(np.float32))


def train(model: Qwen3, inputs: torch.Tensor, targets: torch.Tensor, steps: int, rate: float) -> None:
    """AdamW with a short warm-up and a linear fall to zero; one chunk a step."""
    optimizer = torch.optim.AdamW(model.weights.values(), lr=rate, weight_decay=0.0)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 5) * (1 - step / steps)
        chunk = step % len(inputs)
        loss = F.cross_entropy(model.logits(inputs[chunk, None, :-1])[0], targets[chunk, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0 or step == steps - 1:
            print(f"step {step}: {loss.item():.3f} nats per token", flush=True)


def write(path: Path, file: GGUFFile, model: Qwen3) -> None:
    """The same file with other weights."""
    metadata = dict(file.metadata) | {"general.name": MetaValue.string(f"{file.get('general.name')} tuned")}
    layout = GGUFLayout.plan(metadata, [(t.name, t.shape, t.qtype) for t in file.tensors.values()])

    def data(name: str) -> bytes:
        weights = model.weights[name].detach()
        if file.tensors[name].qtype.name == "BF16":
            return weights.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
        return weights.numpy().tobytes()

    write_gguf(path, layout, lambda slot, out: out.write(data(slot.name)), force=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-4)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    with Model(arguments.model) as loaded:
        corpus = read_corpus(loaded, arguments.text, n_ctx=_N_CTX)
    inputs, targets = (torch.from_numpy(np.array(t, np.int64)) for t in (corpus.inputs, corpus.tokens))
    with GGUFFile.open(arguments.model) as file:
        model = Qwen3(file)
        train(model, inputs, targets, arguments.steps, arguments.lr)
        write(arguments.output, file, model)


if __name__ == "__main__":
    main()
