"""Printing results: tables and records for people, JSON for programs. Nothing raw reaches a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from certloom.cli.terminal import fit, fit_json, fit_lines

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(?::\d\d)?(?:\.\d+)?(?:Z|\+00:00)")
_WIDEST = 100_000
_NARROW, _NARROWEST = 18, 10
"""Text is folded to so many columns before others are left out, and to so many when all are that can be."""
_NEVER_FOLDED = frozenset({"id", "state", "not_after", "expires", "created", "due", "last_used", "at"})
"""Half a time says nothing."""
_TO_COPY = re.compile(r"(?:[\w.-]+:)?[0-9a-f]{16,}")
"""Ids, serials, hashes, with what they are of."""


def json_text(result: Any) -> str:
    return fit_json(json.dumps(result, indent=2, ensure_ascii=False))


def as_json(result: Any) -> None:
    print(json_text(result))


def line(message: str) -> None:
    """Words for people, on standard output."""
    print(fit_lines(message))


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], nothing: str) -> None:
    """One line each, the named columns (``names`` or ``field=heading``).

    Where the terminal is narrow, those marked ``field?`` are left out, the last first, and text is folded;
    ids, serials and times are not, for they are there to be copied.
    """
    if not rows:
        print(nothing)
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    whole = {column: _whole(rows, _field(column)) for column in columns}

    def made(folded_to: int | None = None) -> Table:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
        for column in shown:
            heading = column.partition("=")[2] or _field(column).replace("_", " ")
            limit = None if whole[column] else folded_to
            table.add_column(heading, overflow="fold", no_wrap=whole[column], max_width=limit)
        for row in rows:
            table.add_row(*(Text(text(row.get(_field(column)))) for column in shown))
        return table

    def width(table: Table) -> int:
        return Console(width=_WIDEST).measure(table).maximum

    shown = list(columns)
    console = Console(highlight=False)
    if console.is_terminal:
        for column in reversed([each for each in columns if "?" in each.partition("=")[0]]):
            if width(made(_NARROW)) <= console.width:
                break
            shown.remove(column)
        # The terminal's own way with long lines spoils no id.
        console.width = max(console.width, width(made(_NARROWEST)))
    else:
        # For grep and its kin: a row is a line, however long.
        console.width = width(made())
    console.print(made())


def _field(column: str) -> str:
    return column.partition("=")[0].rstrip("?")


def _whole(rows: Sequence[Mapping[str, Any]], field: str) -> bool:
    """Whether a column's values must each stay on one line."""
    return field in _NEVER_FOLDED or any(
        isinstance(value := row.get(field), str) and _TO_COPY.fullmatch(value) is not None for row in rows
    )


def record(thing: Mapping[str, Any], first: Sequence[str] = ()) -> None:
    """One thing, a line for each of its fields, ``first`` first."""
    names = [name for name in first if name in thing] + [name for name in thing if name not in first]
    width = max(map(len, names), default=0)
    for name in names:
        value = thing[name]
        label = fit(name.replace("_", " "))
        if isinstance(value, str) and "\n" in value:
            print(f"{label}:\n{fit_lines(value).rstrip()}")
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            print(f"{label}:")
            for each in value:
                print(f"  - {_inline(each)}")
        else:
            print(f"{label + ':':<{width + 2}}{text(value)}")


def _inline(thing: Any) -> str:
    if not isinstance(thing, Mapping):
        return text(thing)
    told = {name: value for name, value in thing.items() if value not in (None, "", [], {}, False)}
    return "; ".join(f"{fit(name.replace('_', ' '))} {text(value)}" for name, value in told.items())


def text(value: Any) -> str:
    """A value as people read it, on one line."""
    if value is None or value in ([], "", {}):
        return "-"
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, str):
        return moment(value) if _TIME.fullmatch(value) else fit(value)
    if isinstance(value, list):
        return ", ".join(text(item) for item in value)
    if isinstance(value, Mapping):
        if {"type", "value"} == value.keys():
            return f"{text(value['type'])}:{text(value['value'])}"
        return _inline(value) or "-"
    return fit(str(value))


def moment(value: str) -> str:
    """An RFC 3339 time in UTC, to the minute."""
    found = _TIME.fullmatch(value)
    return f"{found[1]} {found[2]}Z" if found else fit(value)
