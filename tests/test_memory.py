"""What is said to be taken is what llama.cpp takes once it has loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from mqnative.build.header_only import bare_header, header_only
from mqnative.build.plan import model_tensors, plan_build
from mqnative.build.writer import build_gguf
from mqnative.core.memory import (
    ALL_LAYERS,
    CPU_ALONE,
    PLANNED,
    Context,
    MemoryTable,
    Placement,
    allocated_bytes,
    gpu_to_plan_for,
    memory_use,
)
from mqnative.errors import BackendError, UnsupportedTypeError
from mqnative.formats.gguf import GGUFFile
from mqnative.formats.recipe_data import Recipe
from tiny_models import SLIDING_WINDOW, TinyModels

KINDS = ("dense", "moe", "sliding", "latent", "recurrent", "split")
CONTEXTS = (
    Context(n_ctx=512),
    Context(n_ctx=2048, n_parallel=2, n_ubatch=128),
    Context(n_ctx=1024, type_k="Q8_0", type_v="Q8_0"),
)
# The share by which a prediction may miss what llama.cpp reports of the loaded model.
TOLERANCE = 0.02


def totals(table: MemoryTable) -> dict[str, tuple[int, int]]:
    """(is_host, kind) -> bytes."""
    return {
        kind: (
            sum(getattr(r, f"{kind}_bytes") for r in table.rows if r.is_host),
            sum(getattr(r, f"{kind}_bytes") for r in table.rows if not r.is_host),
        )
        for kind in ("weights", "cache", "compute")
    }


def mixed_type(name: str) -> str:
    """A mix of a type that is repacked, one that is not, and an unquantized one."""
    if "ffn_" in name or "ssm_" in name:
        return "Q8_0"
    return "Q4_0" if "attn_" in name else "F16"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "placement",
    [CPU_ALONE, Placement(), Placement(2), Placement(n_cpu_moe=1)],
    ids=lambda p: " ".join(p.flags),
)
def test_what_is_predicted_is_what_the_loaded_model_takes(
    tiny_models: TinyModels, tmp_path: Path, kind: str, placement: Placement
) -> None:
    source: Path = getattr(tiny_models, kind)
    contexts = CONTEXTS[:2] if kind == "recurrent" else CONTEXTS
    with GGUFFile.open(source) as file:
        types = {n: mixed_type(n) for n, t in model_tensors(file).items() if t.quantizable}
        plan = plan_build(file, Recipe(base="F16", tensors=types))
        with header_only(plan) as planned:
            predicted = memory_use(planned, placement, contexts)
        built = tmp_path / "built.gguf"
        build_gguf(file, plan, built, n_threads=1)
    loaded = memory_use(built, placement, contexts, load=True)
    for ours, theirs in zip(predicted.tables, loaded.tables, strict=True):
        expected = totals(theirs)
        for what, (host, device) in totals(ours).items():
            assert host == pytest.approx(expected[what][0], rel=TOLERANCE), what
            assert device == pytest.approx(expected[what][1], rel=TOLERANCE), what
    assert sum(t.size_bytes for t in predicted.tensors if not t.is_host) == sum(
        r.weights_bytes for r in predicted.tables[0].rows if not r.is_host
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_takes_no_memory_of_weights_caches_and_buffers(
    tiny_models: TinyModels, kind: str
) -> None:
    path: Path = getattr(tiny_models, kind)
    contexts = CONTEXTS[:2]
    with bare_header(path) as bare:
        assert memory_use(bare, Placement(2), contexts) == memory_use(path, Placement(2), contexts)


def test_a_window_keeps_the_cache_small(tiny_models: TinyModels) -> None:
    short, long = (Context(n_ctx=n, n_ubatch=128) for n in (512, 2048))
    sliding = memory_use(tiny_models.sliding, Placement(), (short, long)).tables
    dense = memory_use(tiny_models.dense, Placement(), (short, long)).tables
    growth = [t.rows[-1].cache_bytes / s.rows[-1].cache_bytes for s, t in (sliding, dense)]
    assert growth[1] == 4
    assert growth[0] < 4  # half of its layers keep SLIDING_WINDOW tokens
    assert short.n_ctx > SLIDING_WINDOW


def test_a_cache_of_fewer_bits_is_smaller(tiny_models: TinyModels) -> None:
    wide, narrow = (Context(n_ctx=1024, type_k=t, type_v=t) for t in ("F16", "Q8_0"))
    tables = memory_use(tiny_models.dense, CPU_ALONE, (wide, narrow)).tables
    caches = [sum(r.cache_bytes for r in t.rows) for t in tables]
    assert caches[1] == caches[0] * 34 // 64  # 34 bytes for 32 numbers instead of 64


def test_a_states_memory_does_not_grow_with_the_context(tiny_models: TinyModels) -> None:
    tables = memory_use(tiny_models.recurrent, Placement(), [Context(n_ctx=n) for n in (512, 4096)]).tables
    caches = [sum(r.cache_bytes for r in t.rows) for t in tables]
    assert caches[0] == caches[1] > 0


def test_everything_but_the_embedding_is_on_the_device(tiny_models: TinyModels, builtin_model: Path) -> None:
    host = {t.name for t in memory_use(builtin_model, Placement()).tensors if t.is_host}
    assert host == {"token_embd.weight"}
    tied = [
        t.is_host for t in memory_use(tiny_models.dense, Placement()).tensors if t.name == "token_embd.weight"
    ]
    assert sorted(tied) == [False, True]  # the head is the same weights, once more


def test_experts_of_the_first_layers_stay_with_the_cpu(tiny_models: TinyModels) -> None:
    host = {t.name for t in memory_use(tiny_models.moe, Placement(n_cpu_moe=1)).tensors if t.is_host}
    assert {n for n in host if "_exps" in n} == {f"blk.0.ffn_{r}_exps.weight" for r in ("up", "gate", "down")}


def test_layers_are_offloaded_from_the_last(tiny_models: TinyModels) -> None:
    host = {t.name for t in memory_use(tiny_models.dense, Placement(2)).tensors if t.is_host}
    assert all(n.startswith(("blk.0.", "token_embd")) for n in host)
    assert "blk.0.attn_q.weight" in host


def test_a_gpu_pads_short_rows_of_blocks() -> None:
    shape = (256, 3)
    cpu, gpu = (allocated_bytes(d, [("Q4_K", shape)])[0] for d in ("", PLANNED))
    assert cpu == 448  # 3 x 144, aligned to 32
    assert gpu == 3 * 144 + 144 + 64  # a row of 256 more, aligned to 128


def test_flags_are_llama_cpps() -> None:
    context = Context(n_ctx=2048, n_parallel=3, type_v="Q4_0")
    assert " ".join(context.flags) == "-c 6144 -np 3 -ub 512 -ctv q4_0"
    assert " ".join(Placement(ALL_LAYERS, n_cpu_moe=2).flags) == "-ngl 999 --n-cpu-moe 2"
    assert " ".join(CPU_ALONE.flags) == "-ngl 0"


def test_unknown_devices_and_cache_types_are_refused() -> None:
    with pytest.raises(BackendError, match="no GPU called Nemo0"):
        gpu_to_plan_for("Nemo0")
    with pytest.raises(UnsupportedTypeError, match="Q6_K"):
        Context(type_k="Q6_K")
