"""A release of hybrids as a run would publish it, made without one."""

from __future__ import annotations

from mqnative.report.hybrid_summary import BaselineRow, Below, FileRow, HybridReport
from mqnative.report.summary import StepTime
from report_samples import figures


def release(model_hash: str = "") -> HybridReport:
    """Two files: a hybrid that took a baseline's place, and a baseline."""
    below = Below(-0.001, (-0.0014, -0.0006), 0.006)
    hybrid = FileRow(
        "MQ-Q4_K_M_1", "tiny-MQ-Q4_K_M_1.gguf", "MQ", "Q4_K_M", "tensor", 5_000_000, 4.7, figures(0.005),
        "Q4_K_M", "26 % below its chord", ("LM-Q4_K_M",), {"E": "Q4_K", "H": "Q6_K"}, below, below,
    )  # fmt: skip
    kept = FileRow(
        "LM-Q8_0", "tiny-LM-Q8_0.gguf", "LM", "Q8_0", "baseline", 9_000_000, 8.5, figures(0.0002), "Q8_0",
        "the best of its size", (), {"E": "Q8_0", "H": "Q8_0"},
    )  # fmt: skip
    gone = BaselineRow(
        "LM-Q4_K_M", 5_300_000, figures(0.0063), False, "DOMINATED", hybrid.name, "worse and larger",
        Below(0.0013, (0.001, 0.0016), 0.005), "llama.cpp",
    )  # fmt: skip
    here = BaselineRow("LM-Q8_0", 9_000_000, figures(0.0002), True, "", "", "", None, "llama.cpp")
    small = BaselineRow("LM-Q3_K_M", 4_400_000, figures(0.02), True, "", "", "", None, "llama.cpp")
    return HybridReport(
        "tiny: hybrids worth their size",
        {"file": "tiny.gguf", "sha256 of the weights": model_hash},
        16.6,
        (hybrid, kept),
        (small, gone, here),
        {"n_asked": 8, "n_patterns": 4, "n_whole": 2, "share": 0.25, "n_chunks": 4},
        ("a note",),
        (StepTime("sweep", 1.0),),
        {"llama.cpp": "0"},
        "mqnative hybrids tiny.gguf -o OUT",
    )
