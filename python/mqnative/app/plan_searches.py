"""Plans of the commands that look for a mix or carry one over."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mqnative.app.memory_options import budget_of
from mqnative.app.plan_steps import LINK, RIVALS, VERIFIED, Params, steps_of, target_bytes
from mqnative.jobs.estimate import Plan
from mqnative.jobs.planning import Steps, text_stamps
from mqnative.jobs.work import Units

_MOVE_SHARE = 0.6
# How and where a command runs, which none of its numbers depends on.
_NOT_DECIDING = (
    "output", "force", "as_json", "plan", "detach", "queue", "n_threads", "memory_bytes", "offline", "token",
)  # fmt: skip

_OF_HYBRIDS = (
    "sizes", "n_ctx", "probe_chunks", "select_chunks", "verify_chunks", "refine_rounds", "spacing",
    "collapse", "max_bytes",
)  # fmt: skip


def auto(params: Params, units: Units) -> Plan | None:
    """The main job."""
    calib, evaluation = params["calib"], params.get("evaluation")
    steps = steps_of(params, units, texts=(calib, evaluation))
    if steps is None or calib is None:
        return None
    return _whole_job(steps, params, calib, evaluation)


def demo(params: Params, units: Units) -> Plan | None:
    """The main job on the built-in model."""
    from mqnative.app import auto
    from mqnative.builtin import CALIB_TEXT, EVAL_TEXT, MODEL

    own = {
        "model": MODEL,
        "probe_chunks": auto._DEMO_PROBE_CHUNKS,
        "refine_rounds": auto._DEMO_REFINE_ROUNDS,
        "verify_chunks": auto._DEMO_VERIFY_CHUNKS,
    }
    merged = {**params, **own}
    steps = steps_of(merged, units, texts=(CALIB_TEXT, EVAL_TEXT))
    assert steps is not None
    return _whole_job(steps, merged, CALIB_TEXT, EVAL_TEXT, select_chunks=auto._DEMO_SELECT_CHUNKS)


def _pairs(steps: Steps, params: Params, size_bytes: int) -> Sequence[tuple[str, str]]:
    """What is probed near a budget; which types a tensor may get hardly depends on the importances."""
    from mqnative.formats.gguf import GGUFFile
    from mqnative.jobs.candidates import default_targets
    from mqnative.jobs.measure_plan import anchor_for, lossless_for, plan_of_file

    bpw = 8.0 * size_bytes / steps.model.n_weights
    types = params.get("types") or params.get("targets") or default_targets()
    with GGUFFile.open(params["model"]) as file:
        lossless = lossless_for(bpw)
        return plan_of_file(file, None, types, anchor_for(bpw), lossless=lossless, bpw=bpw).pairs


def _caches(steps: Steps, params: Params, chunks: int) -> None:
    """The types of KV caches that are measured, if they are a decision."""
    memory = budget_of(params)
    if memory is not None and memory.any_cache:
        steps.caches(len(memory.offered) - 1, chunks)


def _whole_job(
    steps: Steps, params: Params, calib: Path, evaluation: Path | None, *, select_chunks: int | None = None
) -> Plan:
    from mqnative.build.feedback import MAX_CHUNKS
    from mqnative.jobs.candidates import default_targets
    from mqnative.jobs.options import PRECISION, PROBE_CHUNKS, SELECT_CHUNKS
    from mqnative.jobs.refinement import MOST_MOVES, MOST_ROUNDS, MOVE_CHUNKS
    from mqnative.jobs.verify import MIN_CHUNKS
    from mqnative.measure.parts import SHARES_ALONE, SHARES_WITH_EVAL

    shares = SHARES_ALONE if evaluation is None else SHARES_WITH_EVAL
    n = steps.chunks([calib])
    part = {name: max(2, round(share * n)) for name, share in shares.items()}
    held_out = part["held_out"] if evaluation is None else steps.chunks([evaluation])
    types = params.get("types") or params.get("targets") or default_targets()
    probe_chunks = min(part["probe"], params.get("probe_chunks") or PROBE_CHUNKS)
    select = min(part["select"], select_chunks or SELECT_CHUNKS)
    verified = min(held_out, params.get("verify_chunks") or MIN_CHUNKS)
    deciding = {k: v for k, v in params.items() if k not in _NOT_DECIDING}
    size = target_bytes(steps, params)
    steps.load()
    steps.imatrix(part["imatrix"])
    steps.sweep(types, None)
    if not params.get("fast"):
        precision = params.get("precision", PRECISION)
        steps.probes(_pairs(steps, params, size), probe_chunks, precision, None)
        rounds = params.get("refine_rounds")
        if rounds is None:
            rounds = MOST_ROUNDS if params.get("like") is None else 0
        rounds = 0 if params.get("gptq") else rounds
        moves = rounds * (MOST_MOVES + 1)
        steps.mixes("refine", moves, min(MOVE_CHUNKS, probe_chunks), deciding, share=_MOVE_SHARE)
    _caches(steps, params, probe_chunks)
    if not params.get("fast"):
        steps.mixes("link", LINK, select, deciding)
    steps.mixes("rivals", RIVALS, select, deciding)
    steps.build(size)
    if params.get("gptq"):
        # The moments of the activations take about as long as the passes.
        steps.mixes("feedback", 2, min(MAX_CHUNKS, part["imatrix"]) + probe_chunks, deciding)
        steps.mixes("rounding", 2, select, deciding)
    steps.mixes("verify", VERIFIED, verified, deciding)
    note = "chunks are counted by the text's size, and rounds that may end early are counted in full"
    return Plan(tuple(steps.found), (note,))


def solve(params: Params, units: Units) -> Plan | None:
    """Measuring for a recipe."""
    text = params.get("text")
    steps = steps_of(params, units, texts=(text,))
    if steps is None or text is None:
        return None if steps is None else Plan((), ("a damage table is given: nothing is measured",))
    from mqnative.jobs.candidates import default_targets
    from mqnative.jobs.options import PRECISION
    from mqnative.measure.parts import SHARES_ALONE

    n = steps.chunks([text])
    steps.load()
    if params.get("imatrix_path") is None:
        steps.imatrix(max(2, round(SHARES_ALONE["imatrix"] * n)))
    types = params.get("types") or params.get("targets") or default_targets()
    steps.sweep(types, text_stamps([params.get("imatrix_path")]))
    chunks = min(max(2, round(SHARES_ALONE["probe"] * n)), int(params.get("probe_chunks") or 16))
    if not params.get("fast"):
        kept = text_stamps([params.get("imatrix_path")])
        steps.probes(_pairs(steps, params, target_bytes(steps, params)), chunks, PRECISION, kept)
    _caches(steps, params, chunks)
    return Plan(tuple(steps.found))


def hybrids(params: Params, units: Units) -> Plan | None:
    """A release of mixes."""
    from mqnative.builtin import CALIB_TEXT, EVAL_TEXT
    from mqnative.formats.gguf import GGUFFile
    from mqnative.jobs.candidates import default_targets
    from mqnative.jobs.hybrids.ground import check_sizes
    from mqnative.jobs.hybrids.request import PRESETS, External, HybridOptions
    from mqnative.jobs.hybrids.steps import plan_steps

    calib, evaluation = params.get("calib"), params.get("evaluation")
    texts = (CALIB_TEXT, EVAL_TEXT) if calib is None else (calib, evaluation)
    steps = steps_of(params, units, texts=texts)
    if steps is None:
        return None
    options = HybridOptions(
        presets=params["presets"] or PRESETS,
        externals=tuple(External(Path(text), text) for text in params["externals"]),
        targets=params["types"],
        providers=tuple(p.upper() for p in params["providers"]),
        **{name: params[name] for name in _OF_HYBRIDS},
    )
    options.check()
    with GGUFFile.open(params["model"]) as file:
        check_sizes(file, options)
        found = plan_steps(file, options)
    deciding = {k: v for k, v in params.items() if k not in _NOT_DECIDING}
    steps.load()
    for step in found:
        if step.unit == "pairs":
            steps.sweep(options.targets or default_targets(), None)
        elif step.unit == "bytes":
            n_files = step.n_units / (0.5 * steps.model.file_bytes)
            seconds = n_files * steps.encoding() + step.n_units * units.byte_s
            steps.add(
                step.name,
                int(n_files * steps.model.n_weights),
                "weights",
                seconds,
                size_bytes=int(step.n_units),
            )
        else:
            steps.add(step.name, round(step.n_units), step.unit, steps.passes(step.n_units), kept=deciding)
    return Plan(tuple(steps.found), tuple(f"{step.name}: {step.says}" for step in found))


def clone(params: Params, units: Units) -> Plan | None:
    """Another model's mix."""
    from mqnative.builtin import CALIB_TEXT, EVAL_TEXT
    from mqnative.jobs.verify import MIN_CHUNKS
    from mqnative.measure.parts import SHARES_ALONE, SHARES_WITH_EVAL

    calib, evaluation = params.get("calib"), params.get("evaluation")
    if calib is None:
        calib, evaluation = CALIB_TEXT, EVAL_TEXT
    steps = steps_of(params, units, texts=(calib, evaluation))
    if steps is None:
        return None
    shares = SHARES_ALONE if evaluation is None else SHARES_WITH_EVAL
    n = steps.chunks([calib])
    held_out = round(shares["held_out"] * n) if evaluation is None else steps.chunks([evaluation])
    steps.load()
    if params.get("imatrix_path") is None:
        steps.imatrix(max(2, round(shares["imatrix"] * n)))
    steps.build(target_bytes(steps, params))
    verified = min(held_out, params.get("verify_chunks") or MIN_CHUNKS)
    steps.mixes("verify", VERIFIED, verified, text_stamps([params["mix"]]))
    return Plan(tuple(steps.found), ("the size of the clone is that of 4.5 bits per weight here",))
