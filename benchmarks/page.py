"""How fast the page is with 1,000 tensors x 20 types: first paint, scrolling, feedback on an override.

    python benchmarks/page.py

Prints a Markdown table. Needs Chromium and its driver, as the browser tests do.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from browser_page import Page, serving
from mqnative.formats.qtypes import all_types
from mqnative.report.jsonform import to_json
from mqnative.report.summary import CurvePoint, LinkRow, Report, TensorRow
from report_samples import dense

N_TENSORS, N_TYPES = 1000, 20
ROLES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "ffn_gate_inp")
_WIDTH, _HEIGHT = 4096, 4096
# Overrides, one after the other: each is another type than the one before.
_TYPES = ("Q8_0", "Q6_K", "Q5_K", "Q4_K", "IQ4_XS", "Q3_K", "Q8_0", "Q4_K", "Q6_K")
# Scrolls the grid for two seconds and keeps the length of every frame.
_SCROLL = """
const done = arguments[0];
const body = document.querySelector(".ag-body-viewport");
const frames = [];
const start = performance.now();
let last = start;
function frame(now) {
  frames.push(now - last);
  last = now;
  body.scrollTop = ((now - start) * 6) % (body.scrollHeight - body.clientHeight);
  if (now - start < 2000) requestAnimationFrame(frame);
  else done(frames.slice(1));
}
requestAnimationFrame(frame);
"""
_TO_TOP = 'document.querySelector(".ag-body-viewport").scrollTop = 0'
# Clicks a type in the side plot; figures, plot and row have to show it before the frame that ends the time.
_OVERRIDE = """
const [name, type, done] = arguments;
const tiles = () => document.querySelector(".tiles").textContent;
const spot = () => document.querySelector(`svg g.pick[data-type="${type}"]`);
const cell = () => document.querySelector(`.ag-row[row-id="${name}"] [col-id="type"]`);
const before = tiles();
const start = performance.now();
function look() {
  const shown = tiles() !== before && spot().ariaPressed === "true" && cell().textContent === type;
  if (shown) setTimeout(() => done(performance.now() - start), 0);
  else requestAnimationFrame(look);
}
spot().dispatchEvent(new MouseEvent("click", { bubbles: true }));
requestAnimationFrame(look);
"""


def large() -> Report:
    """A finished run of 1,000 tensors with damages at 20 types each."""
    rng = random.Random(1)
    types = [t for t in all_types().values() if t.is_target and t.is_quantized]
    types = sorted(types, key=lambda t: t.bpw)[-N_TYPES:]
    tensors = []
    for i in range(N_TENSORS):
        layer, role = i // len(ROLES), ROLES[i % len(ROLES)]
        scale = rng.lognormvariate(-9, 1)
        curve = tuple(
            CurvePoint(t.name, t.bpw, d := scale * 4 ** (4 - t.bpw), 0.9 * d, 1.1 * d, error=0.01, rmse=0.001)
            for t in types
        )
        chosen = rng.choice(curve)
        size = int(_WIDTH * _HEIGHT * chosen.bpw / 8)
        name = f"blk.{layer}.{role}.weight"
        shape, n_weights = (_WIDTH, _HEIGHT), _WIDTH * _HEIGHT
        row = TensorRow(name, layer, role, shape, n_weights, "BF16", chosen.qtype, size, chosen.damage)
        tensors.append(replace(row, importance_percentile=rng.uniform(0, 100), curve=curve))
    total = sum(t.size_bytes for t in tensors) + 1_000_000
    run = dense()
    mixes = (replace(run.mixes[0], size_bytes=total), *run.mixes[1:])
    return replace(run, tensors=tuple(tensors), mixes=mixes, link=LinkRow(1.0, 0.0, 0.05, 1e-5))


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "given"
        (folder / "run").mkdir(parents=True)
        (folder / "run" / "report.json").write_text(json.dumps(to_json(large())))
        with serving(folder, Path(scratch) / "home") as address:
            page = Page(address)
            try:
                rows = measure(page)
            finally:
                page.close()
    print(f"| {N_TENSORS:,} tensors x {N_TYPES} types | measured | bar |\n|---|---:|---:|")
    for name, value, bar in rows:
        print(f"| {name} | {value:.0f} ms | {bar} ms |")


def measure(page: Page) -> list[tuple[str, float, int]]:
    """Every figure with its bar."""
    page.open("/")
    page.fill("Hub id, folder or file", "run")
    page.click("Add")
    page.until(lambda: page.path.startswith("/model/"), "the run")
    recipe = page.path.partition("?")[0] + "/recipe"
    page.open(recipe)  # the server has read the run and the browser holds the scripts from here on
    page.driver.get("about:blank")
    started = time.monotonic()
    page.driver.get(page.address + recipe)
    page.until(lambda: page.all(".ag-row"), "rows")
    rows_ms = 1000 * (time.monotonic() - started)
    # Rows may be there a moment before the frame that shows them is.
    paint = page.until(
        lambda: page.driver.execute_script(
            "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
        ),
        "the first paint",
    )
    page.until(lambda: page.driver.execute_script("return !!window.socket?.connected"), "its connection")
    page.until(lambda: page.all("svg g.pick"), "the side plot")
    page.driver.set_script_timeout(60)
    at_once = max(page.driver.execute_async_script(_SCROLL))
    page.driver.execute_script(_TO_TOP)
    time.sleep(1.0)
    frames = sorted(page.driver.execute_async_script(_SCROLL))
    page.driver.execute_script(_TO_TOP)
    name = "blk.0.attn_q.weight"  # the side plot shows the first tensor
    page.until(lambda: page.all(f'.ag-row[row-id="{name}"] [col-id="type"]'), "its row")
    overrides = sorted(page.driver.execute_async_script(_OVERRIDE, name, t) for t in _TYPES)
    return [
        ("first paint", paint, 2000),
        ("rows of the grid", rows_ms, 2000),
        ("median frame of a scroll", frames[len(frames) // 2], 50),
        ("longest frame of a scroll", frames[-1], 50),
        ("longest frame, if the scroll begins while the page still loads", at_once, 50),
        ("median feedback on an override", overrides[len(overrides) // 2], 200),
        ("longest feedback on an override", overrides[-1], 200),
    ]


if __name__ == "__main__":
    main()
