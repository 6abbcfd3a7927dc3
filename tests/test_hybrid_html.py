"""The page of a release: its tables sort, and its policy allows the one script that does it."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

from mqnative.report.hybrid_html import release_tables
from mqnative.report.hybrid_pages import to_html
from release_samples import release

EVIL = "<script>alert(1)</script>"


def sort_keys(table: str, column: int) -> list[str]:
    rows = re.findall(r"<tr>(.*?)</tr>", table.partition("<tbody>")[2])
    return [re.findall(r'<t[hd][^>]*?data-sort="([^"]*)"', row)[column] for row in rows]


def test_tables_sort_by_what_stands_behind_the_text() -> None:
    tables = dict(release_tables(release()))
    assert sort_keys(tables["Files"], 0) == ["MQ-Q4_K_M_1", "LM-Q8_0"]
    assert list(map(float, sort_keys(tables["Files"], 3))) == [5_000_000, 9_000_000]
    assert list(map(float, sort_keys(tables["Files"], 5))) == [0.005, 0.0002]
    assert list(map(float, sort_keys(tables["Baselines that were removed"], 1))) == [5_300_000]


def test_the_policy_allows_the_pages_own_script_only() -> None:
    page = to_html(replace(release(), title=EVIL, notes=(EVIL,)))
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert page.count("&lt;script&gt;alert(1)") >= 2


def test_a_release_without_removed_baselines_has_no_table_of_them() -> None:
    kept = replace(release(), baselines=tuple(b for b in release().baselines if not b.reason))
    assert dict(release_tables(kept))["Baselines that were removed"] == ""
    assert "None." in to_html(kept)
