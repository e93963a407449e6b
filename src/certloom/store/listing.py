"""Pages of long tables: every one an indexed read whose work is bounded, whatever is asked.

A listing walks one index in the order wanted (``Index``) and sifts what it meets by the other conditions. It
looks at so many rows (``EXAMINED``) and no more: a page may be short or empty and still say where to go on.
Where some condition leaves so few rows (``FEW``) that they can all be looked at, these are fetched and
sorted instead (``of_few``), and the page is full. Both ways order alike, so a listing may change from one to
the other between two pages.

Planners are not trusted with the choice: a value that one believes common may stand only where a million rows
must be passed to come to it. So conditions on an index are ranges over the very columns that are ordered by,
which only that index serves, and the rest is sifted outside a subquery with a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from certloom.store.base import Row, Tx

EXAMINED = 2000
"""Rows looked at for one page at most."""
FEW = 1000
"""Rows that are fetched and sorted for one page at most."""

MOST_PARTS = 16
"""Owners and teams that are each walked for themselves; where there are more, rows are sifted by them."""

Within = Sequence[tuple[str, str]] | None
"""What somebody sees: rows where one of these columns has that value. None is every row, empty is none."""

Position = tuple[Any, ...]
"""Where a listing goes on: the values of the ordering columns of the last row seen."""


class Sift(msgspec.Struct, frozen=True):
    """A condition on a row's columns: constant text, with the values as parameters."""

    sql: str
    params: tuple[Any, ...] = ()


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one table by one of its indexes: ``fixed`` (if any), then ``order``."""

    table: str
    order: tuple[str, ...]
    """Columns; the last is unique."""
    fixed: tuple[str, Any] | None = None
    """A column held to one value."""
    where: str = ""
    """The condition of a partial index, as constant text."""
    low: Any = None
    """The least value of the first ordering column, if there is one."""
    high: Any = None
    """The value that the first ordering column stays below."""

    def subquery(
        self,
        columns: str,
        limit: int,
        *,
        after: Position | None = None,
        descending: bool = False,
        offset: int | None = None,
    ) -> Sift:
        """A SELECT of these columns in this order, beginning after a position."""
        lead, values = ((self.fixed[0],), (self.fixed[1],)) if self.fixed is not None else ((), ())
        first = self.order[:1]
        low = (lead + first, ">=", (*values, self.low)) if self.low is not None else (lead, ">=", values)
        high = (lead + first, "<", (*values, self.high)) if self.high is not None else (lead, "<=", values)
        if after is not None:
            if len(after) != len(self.order):
                raise ValueError("a position of another order")
            going_on = (lead + self.order, "<" if descending else ">", (*values, *after))
            low, high = (low, going_on) if descending else (going_on, high)
        conditions = [self.where] if self.where else []
        params: list[Any] = []
        for names, operator, bounds in (low, high):
            if names:
                marks = ", ".join("?" * len(names))
                conditions.append(
                    f"({', '.join(names)}) {operator} ({marks})"
                    if len(names) > 1
                    else f"{names[0]} {operator} ?"
                )
                params.extend(bounds)
        direction = " DESC" if descending else ""
        sql = f"SELECT {columns} FROM {self.table}"
        if conditions:
            sql += f" WHERE {' AND '.join(conditions)}"
        sql += f" ORDER BY {', '.join(name + direction for name in (*lead, *self.order))} LIMIT {limit:d}"
        if offset is not None:
            sql += f" OFFSET {offset:d}"
        return Sift(sql, tuple(params))


class Batch(msgspec.Struct, frozen=True):
    """A part of a listing."""

    rows: list[Row]
    """The columns asked for."""
    ends: list[Position]
    """The position of each."""
    after: Position | None
    """Where to go on; None when nothing can follow."""


def page(
    tx: Tx,
    index: Index,
    columns: str,
    sifts: Sequence[Sift],
    limit: int,
    *,
    after: Position | None = None,
    descending: bool = False,
    examined: int = EXAMINED,
) -> Batch:
    """At most ``limit`` rows of an index that pass every sift, in its order."""
    keys = ", ".join(f"{name} AS order_{i}" for i, name in enumerate(index.order))
    asked = f"{keys}, {columns}"
    if sifts:
        walk = index.subquery(asked, examined, after=after, descending=descending)
        conditions, params = _all_of(sifts)
        # What a subquery in order hands out stays in order: neither database sorts it again.
        sql = f"SELECT * FROM ({walk.sql}) AS walk WHERE {conditions} LIMIT {limit + 1:d}"
        found = tx.all(sql, (*walk.params, *params))
    else:
        walk = index.subquery(asked, limit + 1, after=after, descending=descending)
        found = tx.all(walk.sql, walk.params)
    width = len(index.order)
    if len(found) > limit:
        found = found[:limit]
        following: Position | None = found[-1][:width]
    elif sifts:
        last = index.subquery(
            ", ".join(index.order), 1, after=after, descending=descending, offset=examined - 1
        )
        following = tx.one(last.sql, last.params)
    else:
        following = None
    return _batch(found, width, following)


def of_few(
    tx: Tx,
    table: str,
    ids: Sift,
    order: Sequence[str],
    columns: str,
    sifts: Sequence[Sift],
    limit: int,
    *,
    after: Position | None = None,
    descending: bool = False,
) -> Batch:
    """The same out of few rows: ``ids`` selects their ids, in a column named ``id``."""
    keys = ", ".join(f"{name} AS order_{i}" for i, name in enumerate(order))
    ordered = [f"order_{i}" for i in range(len(order))]
    if after is not None:
        if len(after) != len(order):
            raise ValueError("a position of another order")
        marks = ", ".join("?" * len(order))
        sifts = (*sifts, Sift(f"({', '.join(ordered)}) {'<' if descending else '>'} ({marks})", after))
    conditions, params = _all_of(sifts)
    direction = " DESC" if descending else ""
    sql = (
        f"WITH few AS MATERIALIZED (SELECT {keys}, {columns} FROM {table}"
        f" WHERE id IN (SELECT id FROM ({ids.sql}) AS chosen))"
        f" SELECT * FROM few{f' WHERE {conditions}' if conditions else ''}"
        f" ORDER BY {', '.join(name + direction for name in ordered)} LIMIT {limit + 1:d}"
    )
    found = tx.all(sql, (*ids.params, *params))
    width = len(order)
    following = None
    if len(found) > limit:
        found = found[:limit]
        following = found[-1][:width]
    return _batch(found, width, following)


def are_few(tx: Tx, ids: Sift, few: int) -> bool:
    """Whether a subquery that was limited to ``few + 1`` rows has no more than ``few``."""
    row = tx.one(f"SELECT count(*) FROM ({ids.sql}) AS counted", ids.params)
    assert row is not None
    return bool(row[0] <= few)


def parts(within: Within) -> tuple[Sequence[tuple[str, str] | None], list[Sift]]:
    """What is walked each for itself (None: everything), and by what rows are sifted instead."""
    if within is None:
        return [None], []
    if len(within) <= MOST_PARTS:
        return within, []
    return [None], [
        Sift(f"({' OR '.join(f'{name} = ?' for name, _ in within)})", tuple(value for _, value in within))
    ]


def merge(batches: Sequence[Batch], limit: int, *, descending: bool = False) -> Batch:
    """One batch out of several of the same order, which may hold the same rows."""
    if len(batches) == 1:
        return batches[0]
    rows: dict[Position, Row] = {}
    for batch in batches:
        rows.update(zip(batch.ends, batch.rows, strict=True))
    # What one batch has not come to yet may belong before what another one holds.
    stops = [batch.after for batch in batches if batch.after is not None]
    stop = (max(stops) if descending else min(stops)) if stops else None
    ends = sorted(rows, reverse=descending)
    if stop is not None:
        ends = [end for end in ends if (end >= stop if descending else end <= stop)]
    following = stop
    if len(ends) > limit:
        ends = ends[:limit]
        following = ends[-1]
    return Batch([rows[end] for end in ends], ends, following)


def _all_of(sifts: Iterable[Sift]) -> tuple[str, tuple[Any, ...]]:
    sifts = tuple(sifts)
    return " AND ".join(sift.sql for sift in sifts), tuple(value for sift in sifts for value in sift.params)


def _batch(found: list[Row], width: int, after: Position | None) -> Batch:
    return Batch([row[width:] for row in found], [row[:width] for row in found], after)
