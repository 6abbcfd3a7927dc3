"""Commands on a device: the same figures, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli_process import DONE, FAILED, mqnative

# Sums over the vocabulary are float32 on a device.
SHARE = 1e-4


def test_eval_gives_the_same_figures_on_a_device(builtin_model: Path, eval_text: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(eval_text[:6000], encoding="utf-8")
    build = mqnative("build", builtin_model, "--preset", "Q4_K_M", "-o", tmp_path / "q.gguf", "-t", 1)
    assert build.code == DONE, build.err
    figures = []
    for device in ("cpu", "planned"):
        given = ("--ctx", 128, "--chunks", 2, "--device", device, "-t", 1, "--json")
        done = mqnative("eval", tmp_path / "q.gguf", "--reference", builtin_model, "-f", text, *given)
        assert done.code == DONE, done.err
        figures.append(done.json)
    on_cpu, on_device = figures
    assert on_device["kld_mean"] != on_cpu["kld_mean"]
    for key in ("kld_mean", "kld_p99", "ppl", "ppl_ratio", "top1_agreement"):
        assert on_device[key] == pytest.approx(on_cpu[key], rel=SHARE), key


def test_a_device_that_is_not_there_is_named(builtin_model: Path, eval_text: str, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(eval_text[:6000], encoding="utf-8")
    done = mqnative("eval", builtin_model, "-f", text, "--device", "CUDA77", "--json")
    assert done.code == FAILED
    assert "there is no device called CUDA77; there is " in done.err + done.out
    assert "CPU" in done.err + done.out
