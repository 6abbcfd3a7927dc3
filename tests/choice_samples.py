"""Why a mix is as it is, and a frontier, as studies would give them; made without a model."""

from __future__ import annotations

from mqnative.report.choices import (
    MIB,
    ChoiceFacts,
    ConstraintRow,
    FrontierFacts,
    FrontierPoint,
    KneeRow,
    MoveRow,
    PlacedRow,
    WhyRow,
)

_PRICE = 4e-9


def choice() -> ChoiceFacts:
    """A mix under constraints, at the frontier's knee."""
    up = MoveRow("Q5_K", 8192, -3e-6, 3.7e-10)
    down = MoveRow("Q3_K", -8192, 6e-5, 7.3e-9)
    rows = [
        WhyRow(
            f"blk.{layer}.attn_v.weight",
            (f"blk.{layer}.attn_v.weight",),
            "Q4_K",
            36_864,
            2e-5,
            up,
            down,
            None,
            (),
            "Q5_K would save 3.00e-06 nats for 8,192 bytes, 0.9 times the price of a byte",
        )
        for layer in range(3)
    ]
    rows.append(
        WhyRow(
            "output.weight",
            ("output.weight", "token_embd.weight"),
            "Q6_K",
            840_000,
            4e-4,
            None,
            down,
            "Q8_0",
            ("--ceiling output.weight=Q6_K",),
            "--ceiling output.weight=Q6_K keeps it from Q8_0; no type does less damage",
        )
    )
    return ChoiceFacts(
        method="exact",
        budget="No budget was given, so the knee of the frontier was taken: 5,000,000 bytes.",
        weighing="",
        price=_PRICE,
        left_bytes=123,
        more_bytes=MIB,
        more_saves=1.5e-3,
        more_changes=(("output.weight", "Q6_K", "Q8_0"),),
        constraints=(
            ConstraintRow("--ceiling output.weight=Q6_K", binds=True, cost=2e-4, tensors=("output.weight",)),
            ConstraintRow("--no-iq", binds=False, cost=0.0),
            ConstraintRow("--max-types 3", binds=True, cost=None),
        ),
        tensors=tuple(rows),
    )


def frontier() -> FrontierFacts:
    """Sizes of a small model against predicted KLD, with presets that are worse."""
    sizes = [3_000_000 + 100_000 * i for i in range(60)]
    klds = [0.4 * 4.0 ** (-(s - 3_000_000) / 1_000_000) for s in sizes]
    points = tuple(
        FrontierPoint(s, s / 1.187e6, k, (0.9 * k, 1.1 * k)) for s, k in zip(sizes, klds, strict=True)
    )
    placed = [
        PlacedRow(name, kind, s, s / 1.187e6, None if k is None else 1.4 * k, None, k)
        for name, kind, s, k in (
            ("Q4_K_M", "preset", sizes[23], klds[23]),
            ("Q3_K_M <b>", "preset", sizes[12], klds[12]),
            ("mine.yaml", "candidate", sizes[30], klds[30]),
            ("IQ1_S", "preset", 2_000_000, None),
        )
    ]
    knees = (
        KneeRow("root", sizes[18], 4.0, klds[18], "it bends here", (sizes[15], sizes[21])),
        KneeRow("linear", sizes[10], 3.4, klds[10], "it bends here, too"),
    )
    return FrontierFacts(points, knees, tuple(placed))
