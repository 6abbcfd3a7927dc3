"""The report: one set of facts, four renderings, none of which loses, invents or lets anything through."""

from __future__ import annotations

import io
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from mqnative.core.memory import MemoryRow
from mqnative.errors import FormatError
from mqnative.report import (
    CurvePoint,
    Figures,
    MixRow,
    Report,
    StepTime,
    TensorRow,
    from_json,
    print_text,
    to_html,
    to_json,
    to_markdown,
)
from mqnative.report.memory import MemoryFacts
from mqnative.report.summary import MEAN_OF_TEXTS, TextRow
from report_samples import SAMPLES, dense, tensors, tiny

VOID = {"meta", "link", "br", "wbr", "hr", "img", "input"}
HOSTILE = "<script>alert('x')</script>\"'`|*_[a](b)&amp;\\ \x1b[31m\u202e\ud800\0"


class Page(HTMLParser):
    """Checks that elements nest, and keeps what a reader or a browser would find."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.rows: list[list[list[str]]] = []  # tables, rows, cells
        self.feed(source)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if tag == "table":
            self.rows.append([])
        if tag == "tr":
            self.rows[-1].append([])
        if tag in ("td", "th"):
            self.rows[-1][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] not in ("script", "style"):
            self.texts.append(data)
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def values(self, attribute: str) -> list[str]:
        return [attrs[attribute] or "" for _, attrs in self.tags if attribute in attrs]


def text_lines(report: Report, width: int = 140) -> list[str]:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    print_text(report, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def with_names(report: Report, name: str) -> Report:
    """The same report with ``name`` in every place that holds text."""
    return replace(
        report,
        title=name,
        model={name: name},
        target=name,
        mixes=tuple(replace(m, name=f"{name}{i}", why=name) for i, m in enumerate(report.mixes)),
        tensors=tuple(
            replace(
                t,
                name=f"{name}{i}",
                role=name,
                qtype=name,
                source_type=name,
                curve=tuple(replace(p, qtype=f"{name}{j}") for j, p in enumerate(t.curve)),
            )
            for i, t in enumerate(report.tensors)
        ),
        steps=tuple(replace(s, name=name, detail=name) for s in report.steps),
        notes=(name,),
        provenance={name: name},
        rebuild_command=name,
    )


def extremes() -> dict[str, Report]:
    base = tiny()
    curve = (
        CurvePoint("Q4_K", 4.5, 0.0, 0.0, 0.0),
        CurvePoint("Q8_0", 8.5, 1e300, math.nan, math.inf, legal=False),
    )
    blank = TensorRow("t", None, "t", (), 0, "F32", "F32", 0, math.nan)
    odd = TensorRow("x", 3, "x", (256, 2), 512, "F32", "Q4_K", 288, 0.0, None, curve)

    def scored(**changes: object) -> tuple[MixRow, ...]:
        f = replace(base.result.figures, **changes)  # type: ignore[arg-type]
        return (replace(base.result, figures=f), *(replace(m, figures=f) for m in base.baselines))

    inf, nan = math.inf, math.nan
    return {
        "kld 0": replace(base, mixes=scored(kld_mean=0.0, kld_ci95=(0.0, 0.0), kld_se=0.0)),
        "kld below 0": replace(base, mixes=scored(kld_mean=-1e-9, kld_ci95=(-2e-9, 1e-9))),
        "huge": replace(base, mixes=scored(kld_mean=1e300, kld_ci95=(1e-300, 1e308), ppl=1e300)),
        "smallest": replace(base, mixes=scored(kld_mean=5e-324, kld_ci95=(0.0, 5e-324))),
        "infinite": replace(base, mixes=scored(kld_mean=inf, kld_ci95=(inf, inf), ppl=inf)),
        "not a number": replace(base, mixes=scored(kld_mean=nan, kld_ci95=(nan, nan))),
        "no size": replace(base, mixes=tuple(replace(m, size_bytes=0, bpw=0.0) for m in base.mixes)),
        "alone": replace(base, mixes=base.mixes[:1], tensors=(), ppl_ref=0.0),
        "odd tensors": replace(base, tensors=(blank, odd), gap=math.inf, steps=(StepTime("s", 0.0),)),
        "negative time": replace(base, steps=(StepTime("s", math.nan), StepTime("t", -1.0, reused=True))),
        "no names": with_names(base, ""),
        "hostile": with_names(dense(), HOSTILE),
    }  # fmt: skip


ALL = {**{name: make() for name, make in SAMPLES.items()}, **extremes()}
every_report = pytest.mark.parametrize("name", ALL)


@cache
def source_of(name: str) -> str:
    return to_html(ALL[name])


@cache
def page_of(name: str) -> Page:
    return Page(source_of(name))


# The page


@every_report
def test_page_is_balanced_and_its_ids_are_unique_and_found(name: str) -> None:
    page = page_of(name)
    ids = page.values("id")
    assert len(set(ids)) == len(ids)
    wanted = {i for names in page.values("aria-labelledby") for i in names.split()}
    wanted |= {href[1:] for href in page.values("href") if href.startswith("#")}
    assert wanted <= set(ids)


@every_report
def test_page_refers_to_nothing_outside_itself(name: str) -> None:
    source, page = source_of(name), page_of(name)
    assert not {"img", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.tags}
    assert all(href.startswith("#") or href == "data:," for href in page.values("href"))
    for attribute in ("src", "srcset", "action", "style-src", "xmlns", "onclick", "onload"):
        assert page.values(attribute) == []
    assert not re.search(r"https?:|//\w|@import|url\(", source)


@every_report
def test_tables_are_rectangular_and_their_headings_have_a_scope(name: str) -> None:
    page = page_of(name)
    for rows in page.rows:
        assert len({len(row) for row in rows}) == 1
    assert all(attrs.get("scope") in ("row", "col") for tag, attrs in page.tags if tag == "th")
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert drawings
    assert all(attrs["role"] == "img" and attrs["aria-labelledby"] for attrs in drawings)


@every_report
def test_plots_hold_only_finite_coordinates(name: str) -> None:
    page = page_of(name)
    coordinates = [
        v for a in ("x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "d") for v in page.values(a)
    ]
    numbers = [float(n) for c in coordinates for n in re.split(r"[MLZ ]", c) if n]
    assert all(-50 <= n <= 1000 for n in numbers)


@pytest.mark.parametrize("name", SAMPLES)
def test_page_names_every_mix_tensor_step_and_note(name: str) -> None:
    report, page = ALL[name], page_of(name)
    cells = {cell for rows in page.rows for row in rows for cell in row}
    text = page.text
    for m in report.mixes:
        assert m.name + m.why in cells
    assert {t.name for t in report.tensors} <= cells
    assert {s.name for s in report.steps} <= cells
    for sentence in (
        *report.notes,
        *report.model.values(),
        *report.provenance.values(),
        report.rebuild_command,
    ):
        assert sentence in text


def test_page_answers_first() -> None:
    text = page_of("dense").text.replace("\N{NO-BREAK SPACE}", " ")
    answer = "This 5.34 MB file loses 0.00361 nats per token against the original; "
    assert answer + "Q4_K_M of the same size loses 0.00656: 45 % less." in text
    assert text.index(answer) < text.index("Against the others")


def test_heat_map_has_a_row_for_each_layer_and_the_type_in_each_cell() -> None:
    report = ALL["moe"]
    blocks = [block for block in page_of("moe").rows if block[0][0] == "layer"]
    rows = [row for block in blocks for row in block]
    roles = rows[0][1:]
    assert roles == ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate_inp", *roles[5:]]
    shown = {
        (int(r[0]), role): cell
        for r in rows
        if r[0].isdigit()
        for role, cell in zip(roles, r[1:], strict=True)
    }
    wanted = {
        (t.layer, t.role): t.qtype for t in report.tensors if t.layer is not None and t.role != "attn_norm"
    }
    assert shown == wanted


def test_tensors_that_share_a_cell_are_counted() -> None:
    rows = tensors(("attn_q",), 1, 256, 1e-9, ())
    twice = replace(rows[-1], name="blk.0.attn_q.extra", n_weights=1)
    page = Page(to_html(replace(tiny(), tensors=(*rows, twice))))
    assert [r for t in page.rows if t[0][0] == "layer" for r in t][1][1] == f"{rows[-1].qtype}+1"


def test_hostile_names_stay_text() -> None:
    page = page_of("hostile")
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "<script>alert('x')</script>\"'`|*_[a](b)&amp;\\" in page.text
    for rendered in (
        to_html(ALL["hostile"]),
        to_markdown(ALL["hostile"]),
        "\n".join(text_lines(ALL["hostile"])),
    ):
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e\ud800]", rendered)
        rendered.encode("utf-8")


def test_the_policy_allows_exactly_the_script_of_the_page() -> None:
    import base64
    import hashlib

    source = to_html(tiny())
    script = re.search(r"<script>(.*)</script>", source, re.S)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in source


def test_renderings_are_the_same_bytes_in_every_process() -> None:
    code = (
        "import hashlib, sys; sys.path.insert(0, sys.argv[1]); from report_samples import dense;"
        "from mqnative.report import to_html, to_markdown;"
        "print(hashlib.sha256((to_html(dense()) + to_markdown(dense())).encode()).hexdigest())"
    )
    folder = str(Path(__file__).parent)
    seen = {
        subprocess.run(
            [sys.executable, "-c", code, folder],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(seen) == 1


# Markdown


@every_report
def test_markdown_tables_have_equal_rows_and_no_html(name: str) -> None:
    tokens = MarkdownIt("commonmark").enable("table").parse(to_markdown(ALL[name]))
    assert [t.type for t in tokens if t.type == "html_block"] == []
    children = [c for t in tokens for c in t.children or ()]
    assert {c.type for c in children} <= {"text", "strong_open", "strong_close", "softbreak"}
    n_tables = sum(t.type == "table_open" for t in tokens)
    assert n_tables >= 1
    columns, width = 0, None
    for token in tokens:
        if token.type == "table_open":
            width = None
        elif token.type == "tr_open":
            columns = 0
        elif token.type in ("th_open", "td_open"):
            columns += 1
        elif token.type == "tr_close":
            assert width in (None, columns)
            width = columns


def test_markdown_answers_first() -> None:
    answer = (
        "This **5.34 MB file loses 0.00361 nats per token** against the original; Q4_K_M of the same size"
    )
    assert to_markdown(dense()).splitlines()[2] == f"{answer} loses 0.00656: **45 % less.**"


def test_markdown_shows_every_mix_as_it_is_called() -> None:
    report = replace(dense(), mixes=with_names(dense(), "a|b*c_d_ <i> `e`").mixes)
    tokens = MarkdownIt("commonmark").enable("table").parse(to_markdown(report))
    shown = ["".join(c.content for c in t.children or ()) for t in tokens]
    for m in report.mixes:
        assert m.name in shown


def test_rebuild_command_cannot_close_its_block() -> None:
    command = "mqnative build \\\n  '```' -o x\n```\n# not a heading"
    tokens = MarkdownIt("commonmark").parse(to_markdown(replace(tiny(), rebuild_command=command)))
    assert [t.content for t in tokens if t.type == "fence"] == [f"{command}\n"]
    assert f"<code>{command}</code>".replace("'", "&#x27;") in to_html(
        replace(tiny(), rebuild_command=command)
    )


# Terminal


@every_report
@pytest.mark.parametrize("width", [140, 100, 80])
def test_text_fits(name: str, width: int) -> None:
    lines = text_lines(ALL[name], width)
    assert max(map(len, lines)) <= min(width, 100)
    assert [line for line in lines if line.endswith("…")] == []


def test_text_has_every_mix_and_three_facts() -> None:
    text = "\n".join(text_lines(dense()))
    for m in dense().mixes:
        assert re.search(rf"^│ {re.escape(m.name)} .*│", text, re.M)
    for fact in ("45 % less", "Predicted 0.0035, measured 0.00361", "15,300 held-out tokens in 60 \nchunks"):
        assert fact in text


def test_importing_the_report_loads_no_table_library() -> None:
    code = (
        "import sys; from mqnative.report import Report, from_json, to_html, to_json, to_markdown; "
        "print(sorted({'rich', 'numpy', 'mqnative._core'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# JSON


numbers = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=12)
intervals = st.tuples(numbers, numbers)
naturals = st.integers(0, 2**63)
all_figures = st.builds(
    Figures, naturals, naturals, numbers, numbers, intervals, *([numbers] * 8)
)  # fmt: skip
baselines = st.builds(
    MixRow,
    name=texts,
    kind=st.sampled_from(["preset", "uniform"]),
    size_bytes=naturals,
    bpw=numbers,
    figures=all_figures,
    verdict=st.sampled_from(["better", "worse", "tie", None]),
    kld_difference=st.none() | st.tuples(numbers, numbers, numbers),
    predicted_kld=st.none() | numbers,
    predicted_ci95=st.none() | intervals,
    why=texts,
)
points = st.builds(CurvePoint, texts, numbers, numbers, numbers, numbers, st.booleans(), st.booleans())
tensor_rows = st.builds(
    TensorRow,
    name=texts,
    layer=st.none() | naturals,
    role=texts,
    shape=st.lists(naturals, max_size=4).map(tuple),
    n_weights=naturals,
    source_type=texts,
    qtype=texts,
    size_bytes=naturals,
    damage=numbers,
    importance_percentile=st.none() | numbers,
    curve=st.lists(points, max_size=2).map(tuple),
)
reports = st.builds(
    Report,
    title=texts,
    model=st.dictionaries(texts, texts, max_size=2),
    target=texts,
    ppl_ref=numbers,
    mixes=st.lists(baselines, min_size=1, max_size=3).map(
        lambda ms: (replace(ms[0], kind="result"), *ms[1:])
    ),
    tensors=st.lists(tensor_rows, max_size=3).map(tuple),
    steps=st.lists(st.builds(StepTime, texts, numbers, texts, st.booleans()), max_size=2).map(tuple),
    notes=st.lists(texts, max_size=2).map(tuple),
    provenance=st.dictionaries(texts, texts, max_size=2),
    rebuild_command=texts,
    gap=st.none() | numbers,
)


@settings(max_examples=60, deadline=None)
@given(reports)
def test_any_report_survives_json(report: Report) -> None:
    assert from_json(json.loads(json.dumps(to_json(report), allow_nan=False))) == report


@settings(max_examples=40, deadline=None)
@given(reports)
def test_any_report_can_be_rendered(report: Report) -> None:
    Page(to_html(report))
    to_markdown(report)
    text_lines(report)


@every_report
def test_a_report_read_back_renders_the_same_page(name: str) -> None:
    again = from_json(json.loads(json.dumps(to_json(ALL[name]), allow_nan=False)))
    if "∞" not in source_of(name):
        assert to_html(again) == source_of(name)


def test_json_is_flat_and_its_keys_carry_units() -> None:
    value = to_json(dense())
    assert (value["name"], value["size_bytes"], value["kld_mean"]) == (
        "mqnative 4.50 bpw",
        5_341_952,
        0.003612,
    )
    assert value["kld_ci95"] == list(dense().result.figures.kld_ci95)
    wanted = {
        "name",
        "kind",
        "size_bytes",
        "bpw",
        "kld_mean",
        "kld_se",
        "kld_ci95",
        "kld_median",
        "kld_p99",
        "ppl",
    }
    wanted |= {
        "ppl_se",
        "ppl_ratio",
        "ppl_cor_ln",
        "top1_agreement",
        "top1_agreement_se",
        "n_tokens",
        "n_chunks",
    }
    wanted |= {
        "verdict",
        "kld_difference",
        "kld_difference_ci95",
        "predicted_kld",
        "predicted_kld_ci95",
        "why",
    }
    assert [set(b) for b in value["baselines"]] == [wanted] * 4
    assert [b["verdict"] for b in value["baselines"]] == ["worse", "worse", "better", "better"]
    assert {"name", "type", "size_bytes"} <= set(value["tensors"][0])


@pytest.mark.parametrize(
    ("path", "wrong", "key"),
    [
        (("mqnative",), "report/2", "mqnative"),
        (("title",), 3, "title"),
        (("size_bytes",), "5 MB", "size_bytes"),
        (("baselines", 0, "kld_mean"), "small", "baselines[0].kld_mean"),
        (("baselines", 1, "kind"), "result", "kind"),
        (("tensors", 2, "curve"), None, "tensors[2].curve"),
        (("steps", 0), [], "steps[0]"),
        (("notes", 0), 1, "notes[0]"),
        (("model", "name"), None, "model.name"),
        (("baselines", 0, "n_tokens"), True, "baselines[0].n_tokens"),
    ],
)
def test_a_wrong_value_is_named(path: tuple[str | int, ...], wrong: object, key: str) -> None:
    value = to_json(dense())
    *parents, last = path
    inner: object = value
    for part in parents:
        inner = inner[part]  # type: ignore[index]
    inner[last] = wrong  # type: ignore[index]
    with pytest.raises(FormatError) as raised:
        from_json(value)
    assert raised.value.key == key  # type: ignore[attr-defined]


def test_numbers_beyond_float_are_read_as_infinite() -> None:
    value = to_json(tiny()) | {"ppl_ref": 10**400}
    assert from_json(value).ppl_ref == math.inf


def test_a_report_has_one_result_and_it_comes_first() -> None:
    report = dense()
    for mixes in ((), report.mixes[1:], report.mixes + report.mixes[:1]):
        with pytest.raises(ValueError, match="one result"):
            replace(report, mixes=mixes)


# Text by text, and the machine


def with_texts() -> Report:
    rows = [
        TextRow(text, m.name, 100, kld := m.figures.kld_mean * scale, (0.9 * kld, 1.1 * kld), 12.5, 0.95)
        for text, scale in (("prose.txt", 0.5), ("code <b>.txt", 2.0), (MEAN_OF_TEXTS, 1.25))
        for m in dense().mixes
    ]
    return replace(dense(), texts=tuple(rows))


def test_figures_of_each_text_stand_in_every_form() -> None:
    report = with_texts()
    assert from_json(json.loads(json.dumps(to_json(report)))).texts == report.texts
    page, card = to_html(report), to_markdown(report)
    assert "Text by text" in page
    assert "code &lt;b&gt;.txt" in page
    assert "<b>.txt" not in page
    section = card.partition("## Text by text")[2].partition("## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert all(line.count("|") == len(report.mixes) + 2 for line in lines)


def test_one_text_has_no_table_of_texts_and_older_reports_are_read() -> None:
    value = to_json(dense())
    del value["texts"]
    assert from_json(value).texts == ()
    assert "Text by text" not in to_html(dense()) + to_markdown(dense())


def test_a_link_of_an_older_form_counts_as_none() -> None:
    value = to_json(dense()) | {"link": {"slope": 1.0, "intercept": 0.1, "spread": 0.1, "floor": 0.0}}
    assert from_json(value).link is None


def with_memory() -> Report:
    lines = (
        MemoryRow("CUDA0", "CUDA0", False, 7_000_000_000, 600_000_000, 300_000_000),
        MemoryRow("CPU", "CPU <pinned>", True, 0, 0, 12_345_678),
    )
    flags = ("-ngl", "999", "-c", "16384")
    return replace(dense(), memory=MemoryFacts("--vram 8589934592", lines, flags, 41.25, 40.0))


def test_bytes_by_device_stand_in_every_form() -> None:
    report = with_memory()
    assert from_json(json.loads(json.dumps(to_json(report)))).memory == report.memory
    page, card = to_html(report), to_markdown(report)
    section = card.partition("## On the machine asked for")[2].partition("## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 2 + 1  # heading, devices, all
    assert "7,000,000,000" in rows[2]
    assert "7,900,000,000" in rows[2]  # its total
    assert "7,912,345,678" in rows[4]
    assert "llama-server -m FILE -ngl 999 -c 16384" in section
    for text in ("41.2 tokens per second predicted", "40.0 measured"):
        assert text in section
    assert "CPU &lt;pinned&gt;" in page
    assert "<pinned>" not in page
    assert "7,912,345,678" in page.replace("\u202f", ",").replace("\u00a0", " ")


def test_without_a_machine_there_is_no_table_of_memory() -> None:
    value = to_json(dense())
    del value["memory"]
    assert from_json(value).memory is None
    assert "On the machine" not in to_html(dense()) + to_markdown(dense())
