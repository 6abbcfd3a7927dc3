"""Reports as real studies would give them, made without a model; and some that nothing good would give."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from choice_samples import choice, frontier
from mqnative.report.summary import CurvePoint, Figures, MixRow, Report, StepTime, TensorRow, Verdict

# Bits per weight, and the relative error a K-quant or IQ type has on a typical tensor.
TYPES = {
    "IQ1_M": (1.75, 0.26), "IQ2_XXS": (2.0625, 0.15), "IQ2_XS": (2.3125, 0.11), "IQ2_S": (2.5625, 0.078),
    "Q2_K": (2.625, 0.088), "IQ3_XXS": (3.0625, 0.041), "IQ3_S": (3.4375, 0.021), "Q3_K": (3.4375, 0.024),
    "IQ4_XS": (4.25, 0.0076), "Q4_K": (4.5, 0.0061), "Q5_0": (5.5, 0.0021), "Q5_K": (5.5, 0.0016),
    "Q6_K": (6.5625, 0.0004), "Q8_0": (8.5, 0.00003),
}  # fmt: skip
DENSE = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
MOE = (*DENSE[:4], "ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")
_SHAPES = {
    "attn_q": (1, 1), "attn_k": (1, 0.25), "attn_v": (1, 0.25), "attn_output": (1, 1), "ffn_gate": (1, 3),
    "ffn_up": (1, 3), "ffn_down": (3, 1), "ffn_gate_exps": (1, 0.375, 128), "ffn_up_exps": (1, 0.375, 128),
    "ffn_down_exps": (0.375, 1, 128),
}  # fmt: skip
_SENSITIVITY = {
    "attn_v": 6.0,
    "ffn_down": 3.0,
    "attn_output": 2.0,
    "output": 20.0,
    "token_embd": 4.0,
    "attn_k": 0.7,
}


def figures(kld: float, *, ppl_ref: float = 16.66, error: float = 0.012, n_chunks: int = 60) -> Figures:
    return Figures(
        n_tokens=255 * n_chunks,
        n_chunks=n_chunks,
        kld_mean=kld,
        kld_se=kld * error,
        kld_ci95=(kld * (1 - 1.9 * error), kld * (1 + 2.0 * error)),
        kld_median=kld * 0.46,
        kld_p99=kld * 8.1,
        ppl=ppl_ref * math.exp(0.95 * kld),
        ppl_se=ppl_ref * 0.021,
        ppl_ratio=math.exp(0.95 * kld),
        ppl_cor_ln=1 - 0.19 * kld,
        top1_agreement=max(0.0, 1 - 0.62 * math.sqrt(kld)),
        top1_agreement_se=0.0019,
    )


def mix(name: str, size_bytes: int, kld: float, result: MixRow | None = None, **changes: object) -> MixRow:
    """A mix; with ``result`` a baseline that is compared with it."""
    values: dict[str, object] = {"name": name, "kind": "result", "size_bytes": size_bytes}
    values |= {"bpw": size_bytes / 1.187e6, "figures": figures(kld), "predicted_kld": kld * 0.96}
    values["predicted_ci95"] = (kld * 0.88, kld * 1.05)
    if result is not None:
        difference = kld - result.figures.kld_mean
        half = 0.03 * (kld + result.figures.kld_mean)
        verdict: Verdict = "tie" if abs(difference) < half else ("better" if difference > 0 else "worse")
        values |= {"kind": "preset", "verdict": verdict, "predicted_kld": None, "predicted_ci95": None}
        values["kld_difference"] = (difference, difference - half, difference + half)
    return MixRow(**(values | changes))  # type: ignore[arg-type]


def tensors(
    roles: Sequence[str], n_layers: int, width: int, price: float, outer: Sequence[str]
) -> tuple[TensorRow, ...]:
    rng = random.Random(7)
    rows = [
        _tensor(f"{name}.weight", None, name, (width, 16 * width), rng, price, n_layers) for name in outer
    ]
    for layer in range(n_layers):
        rows.append(_kept(f"blk.{layer}.attn_norm.weight", layer, "attn_norm", (width,)))
        for role in roles:
            name = f"blk.{layer}.{role}.weight"
            if role == "ffn_gate_inp":
                rows.append(_kept(name, layer, role, (width, 128)))
                continue
            columns, n_rows, *experts = _SHAPES[role]
            shape = (int(width * columns), int(width * n_rows), *(int(n) for n in experts))
            rows.append(_tensor(name, layer, role, shape, rng, price, n_layers))
    return tuple(rows)


def _tensor(
    name: str,
    layer: int | None,
    role: str,
    shape: tuple[int, ...],
    rng: random.Random,
    price: float,
    n_layers: int,
) -> TensorRow:
    depth = (
        1.0 if layer is None else 1.6 - 1.2 * layer / max(n_layers, 1) + (0.8 if layer == n_layers - 1 else 0)
    )
    sensitivity = 0.05 * _SENSITIVITY.get(role, 1.0) * depth * rng.lognormvariate(0, 0.4) / n_layers
    imatrix = role != "token_embd"
    curve = []
    for qtype, (bpw, error) in TYPES.items():
        damage = sensitivity * error * rng.lognormvariate(0, 0.12)
        legal = imatrix or not qtype.startswith(("IQ1", "IQ2"))
        curve.append(CurvePoint(qtype, bpw, damage, damage * 0.9, damage * 1.1, qtype == "Q3_K", legal))
    n_weights = math.prod(shape)
    best = min((p for p in curve if p.legal), key=lambda p: p.damage + price * p.bpw * n_weights)
    importance = rng.uniform(0, 100) if imatrix else None
    size = int(n_weights * best.bpw / 8)
    return TensorRow(
        name, layer, role, shape, n_weights, "BF16", best.qtype, size, best.damage, importance, tuple(curve)
    )


def _kept(name: str, layer: int, role: str, shape: tuple[int, ...]) -> TensorRow:
    n_weights = math.prod(shape)
    return TensorRow(name, layer, role, shape, n_weights, "F32", "F32", 4 * n_weights, 0.0)


STEPS = (
    StepTime("hash model", 0.1, "91 tensors, 16.8 MB"),
    StepTime("imatrix", 5.8, "60 chunks", reused=True),
    StepTime("sweep", 11.4, "58 tensors, 14 types"),
    StepTime("probe", 42.7, "58 tensors, 12 chunks"),
    StepTime("solve", 0.4, "gap proven"),
    StepTime("select preset", 6.2, "9 presets, 20 chunks"),
    StepTime("build", 0.9, "5.34 MB"),
    StepTime("verify", 21.6, "5 mixes, 60 chunks"),
)
PROVENANCE = {
    "mqnative": "0.1.0",
    "llama.cpp": "0c1e5709",
    "compiler": "GNU 12.2.0, Release, isa native",
    "model sha256": "6f1d6c0f" * 8,
    "imatrix sha256": "a0b1c2d3" * 8,
    "held-out text": "eval.txt, sha256 " + "93c7e5aa" * 8,
}
NOTES = (
    "token_embd.weight: rows are looked up, so that no importances exist; types that need them are excluded.",
    "The held-out text was cut after 60 of 169 chunks: the relative half-width of the KLD was below 3 %.",
)
MODEL = {"name": "tiny-qwen3", "architecture": "qwen3", "parameters": "8.4 M", "layers": "8", "type": "BF16"}


def dense() -> Report:
    """The dense fixture at the size of Q4_K_M."""
    result = mix("mqnative 4.50 bpw", 5_341_952, 0.003612, why="the result")
    return Report(
        title="tiny-qwen3 in the bytes of Q4_K_M",
        model=MODEL,
        target="5,342,592 bytes, the size of Q4_K_M",
        ppl_ref=16.6593,
        mixes=(
            result,
            mix("Q8_0", 9_030_016, 0.000171, result, why="asked for"),
            mix("Q6_K", 6_998_400, 0.000954, result, why="asked for"),
            mix("Q4_K_M", 5_342_592, 0.006556, result, why="asked for; best preset of at most equal size"),
            mix("all Q4_K", 4_906_000, 0.00892, result, kind="uniform", predicted_kld=0.0091, why="one type"),
        ),
        tensors=tensors(DENSE, 8, 256, 2.5e-10, ("token_embd", "output")),
        steps=STEPS,
        notes=NOTES,
        provenance=PROVENANCE,
        rebuild_command="mqnative build tiny-qwen3-bf16.gguf -r recipe.yaml --imatrix imatrix.gguf "
        "-o tiny-qwen3-4.50bpw.gguf",
        gap=0.0,
        choice=choice(),
        frontier=frontier(),
    )


def moe() -> Report:
    """A large MoE model against a ladder of presets, some nearly equal."""
    size = 18_556_686_336
    result = mix("mqnative 4.83 bpw", size, 0.0102, bpw=4.83, figures=figures(0.0102, ppl_ref=7.0712))
    ladder = {
        "Q8_0": (1.75, 0.0013), "Q6_K": (1.353, 0.0026), "Q5_K_M": (1.17, 0.0051), "Q5_K_S": (1.134, 0.0059),
        "Q4_K_M": (0.9999, 0.0163), "Q4_K_S": (0.942, 0.0191), "IQ4_NL": (0.935, 0.0196),
        "IQ4_XS": (0.885, 0.0208), "Q3_K_L": (0.858, 0.0421), "Q3_K_M": (0.793, 0.0517),
        "IQ3_M": (0.728, 0.0603), "IQ3_XXS": (0.638, 0.098), "Q2_K": (0.607, 0.171), "IQ2_M": (0.544, 0.22),
    }  # fmt: skip
    return Report(
        title="Qwen3-30B-A3B-Instruct-2507 at 4.83 bits per weight",
        model={
            **MODEL,
            "name": "Qwen3-30B-A3B-Instruct-2507",
            "architecture": "qwen3moe",
            "parameters": "30.5 B",
        },
        target="4.83 bits per weight",
        ppl_ref=7.0712,
        mixes=(
            result,
            *(
                mix(
                    name,
                    int(size * share),
                    kld,
                    result,
                    bpw=4.83 * share,
                    figures=figures(kld, ppl_ref=7.0712),
                )
                for name, (share, kld) in ladder.items()
            ),
            mix("all Q4_K", int(size * 0.93), 0.0201, result, kind="uniform", bpw=4.5, predicted_kld=0.0188),
        ),
        tensors=tensors(MOE, 48, 2048, 3e-14, ("token_embd", "output")),
        steps=(*STEPS[:3], StepTime("probe", 25_310.0, "386 tensors, 12 chunks"), *STEPS[4:]),
        notes=(
            *NOTES,
            "blk.17.ffn_up_exps.weight: expert 93 never ran on the calibration text; default damage.",
        ),
        provenance=PROVENANCE,
        rebuild_command="mqnative clone manifest.json Qwen/Qwen3-30B-A3B-Instruct-2507 -o out/",
        gap=0.00041,
    )


def tied() -> Report:
    """A tied model where the result ties with one mix and loses to another; wide intervals, long names."""
    long_name = (
        "unsloth-style dynamic mix with a very long descriptive name (UD-Q3_K_XL, imatrix v5, 2026-05)"
    )
    result = mix("mqnative knee", 3_204_000, 0.0312, figures=figures(0.0312, error=0.24, n_chunks=20))
    return Report(
        title="tiny-llama-tied at the knee",
        model={**MODEL, "name": "tiny-llama-tied"},
        target="the knee of the frontier",
        ppl_ref=16.66,
        mixes=(
            result,
            mix(long_name, 3_199_100, 0.0305, result, figures=figures(0.0305, error=0.21, n_chunks=20)),
            mix("Q4_K_M", 4_105_000, 0.0121, result, figures=figures(0.0121, error=0.4, n_chunks=20)),
            mix("Q3_K_S", 3_020_000, 0.0333, result, figures=figures(0.0333, error=0.62, n_chunks=20)),
            mix("IQ3_S", 3_022_000, 0.0331, result, figures=figures(0.0331, error=0.62, n_chunks=20)),
        ),
        tensors=tensors(DENSE, 6, 256, 4e-9, ("token_embd",)),
        steps=STEPS[:4],
        notes=NOTES[:1],
        provenance=PROVENANCE,
        rebuild_command="mqnative auto tiny-llama-tied-bf16.gguf -o out",
    )


def tiny() -> Report:
    """One baseline, one tensor, nothing else."""
    result = mix("mqnative 6.00 bpw", 1_204_000, 0.00121, predicted_kld=None, predicted_ci95=None)
    return Report(
        title="stories260K",
        model={},
        target="",
        ppl_ref=16.66,
        mixes=(result, mix("Q4_K_M", 1_320_000, 0.0011, result)),
        tensors=tensors((), 0 + 1, 64, 1e-8, ("output",))[:1],
    )


def deep() -> Report:
    """Eighty layers."""
    result = mix("mqnative 3.50 bpw", 30_900_000_000, 0.042, bpw=3.5)
    return Report(
        title="Llama-3.3-70B-Instruct in 32 GB of VRAM",
        model={**MODEL, "name": "Llama-3.3-70B-Instruct", "architecture": "llama", "parameters": "70.6 B"},
        target="31 GB",
        ppl_ref=16.66,
        mixes=(
            result,
            mix("Q3_K_M", 34_267_000_000, 0.058, result, bpw=3.88),
            mix("IQ3_M", 31_937_000_000, 0.061, result, bpw=3.62),
            mix("IQ3_XS", 29_308_000_000, 0.083, result, bpw=3.32),
            mix("Q4_K_M", 42_520_000_000, 0.019, result, bpw=4.82),
        ),
        tensors=tensors(DENSE, 80, 8192, 2e-13, ("token_embd", "output")),
        steps=STEPS,
        provenance=PROVENANCE,
    )


SAMPLES = {"dense": dense, "moe": moe, "tied": tied, "tiny": tiny, "deep": deep}
