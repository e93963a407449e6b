"""Printing results: tables and records for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

_TIMES = frozenset(
    {"not_before", "not_after", "created", "updated", "expires", "last_used", "revoked", "replace_since"}
)
_WIDEST = 100_000


def as_json(result: Any) -> None:
    print(json.dumps(result, indent=2, ensure_ascii=False))


def table(rows: list[dict[str, Any]], columns: Sequence[str], *, json: bool, nothing: str) -> None:
    """One line each, the named columns; or all of it as JSON."""
    if json:
        as_json(rows)
        return
    if not rows:
        print(nothing)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        # An id is there to be copied.
        made.add_column(column.replace("_", " "), overflow="fold", no_wrap=column == "id")
    for row in rows:
        made.add_row(*(Text(text(column, row.get(column))) for column in columns))
    console = Console()
    if not console.is_terminal:
        # For grep and its kin: a row is a line, however long.
        console.width = Console(width=_WIDEST).measure(made).maximum
    console.print(made)


def record(result: dict[str, Any], *, json: bool) -> None:
    """One thing, a line for each of its fields; or as JSON."""
    if json:
        as_json(result)
        return
    width = max(map(len, result), default=0)
    for name, value in result.items():
        shown = text(name, value)
        if "\n" in shown:
            print(f"{name}:\n{shown.rstrip()}")
        else:
            print(f"{name + ':':<{width + 2}}{shown}")


def text(name: str, value: Any) -> str:
    """A value as people read it."""
    if value is None or value == []:
        return "-"
    if value is True or value is False:
        return "yes" if value else "no"
    if name in _TIMES and isinstance(value, int):
        return datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    if isinstance(value, list):
        return ", ".join(text("", item) for item in value)
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
