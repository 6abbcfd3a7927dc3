"""The grid of tensors: sortable, filterable, fast at a thousand rows."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from mqnative.app.views.structure import Row

_NUMBER = {"filter": "agNumberColumnFilter", "type": "rightAligned"}


def columns(*, compare: bool = False, pins: bool = False) -> list[dict[str, Any]]:
    """The columns; formatting happens in the browser, values stay numbers."""
    found: list[dict[str, Any]] = [
        {"field": "name", "headerName": "tensor", "pinned": "left", "width": 215, "cellClass": "name-cell"},
        {"field": "type", "headerName": "type", "width": 102, ":cellClass": "mq.typeClass"},
    ]
    if compare:
        found.append(
            {
                "field": "other",
                "headerName": "other",
                "width": 100,
                "cellClassRules": {"differs-cell": "data && data.differs"},
            }
        )
    if pins:
        found.append(
            {
                "field": "pin", "headerName": "pin", "width": 84, ":valueFormatter": "mq.pin",
                "cellClass": "pin-cell", "cellDataType": "text", "filter": False,
            }
        )  # fmt: skip
    found += [
        {"field": "size", "headerName": "size", "width": 96, ":valueFormatter": "mq.bytes", **_NUMBER},
        {"field": "bpw", "headerName": "bpw", "width": 82, ":valueFormatter": "mq.fixed2", **_NUMBER},
        {
            "field": "damage",
            "headerName": "damage, nats",
            "width": 146,
            ":valueFormatter": "mq.small",
            **_NUMBER,
        },
        {
            "field": "importance",
            "headerName": "importance, pct",
            "width": 160,
            ":valueFormatter": "mq.whole",
            **_NUMBER,
        },
        {"field": "group", "headerName": "group", "width": 112},
        {"field": "role", "headerName": "role", "width": 116},
        {"field": "layer", "headerName": "layer", "width": 82, **_NUMBER},
        {"field": "shape", "headerName": "shape", "width": 128, "sortable": False},
        {"field": "weights", "headerName": "weights", "width": 112, ":valueFormatter": "mq.count", **_NUMBER},
        {"field": "source", "headerName": "source", "width": 90},
    ]
    return found


def tensor_grid(rows: list[Row], *, select: bool, compare: bool = False, pins: bool = False) -> ui.aggrid:
    """A grid of rows that `mqnative.app.views.structure` made."""
    options: dict[str, Any] = {
        "columnDefs": columns(compare=compare, pins=pins),
        "defaultColDef": {
            "sortable": True,
            "filter": "agTextColumnFilter",
            "resizable": True,
            "suppressHeaderMenuButton": False,
        },
        "rowData": rows,
        ":getRowId": "mq.rowId",
        ":onCellKeyDown": "mq.key",
        "rowHeight": 30,
        "headerHeight": 36,
        "animateRows": False,
        "suppressColumnVirtualisation": False,
        # Rows are made as they come into view: made ahead, in slices of 60 ms, they hold up the frame.
        "rowBuffer": 2,
        "suppressAnimationFrame": True,
        "ensureDomOrder": False,
        "suppressDragLeaveHidesColumns": True,
    }
    if select:
        options["rowSelection"] = {
            "mode": "multiRow",
            "selectAll": "filtered",
            "enableClickSelection": False,
        }
        options["selectionColumnDef"] = {"pinned": "left", "width": 44}
    return ui.aggrid(options, auto_size_columns=False).classes("grid-tall")
