"""Looking through events: statements. Newest first, along one index, looking at so many rows and no more."""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx

EXAMINED = 5_000
"""Rows that one page looks at, at most: it may be short, or empty, and still say where to go on."""
_SKEW_MS = 60_000
"""By so much may an event with a higher id bear an earlier time: ids are given before the commit."""
_COMMON = frozenset(
    ("kind", kind) for kind in ("acme-order.created", "acme-authorization.valid", "certificate.issued")
)
"""What the index of kinds leaves out: so many that walking the log finds them as well."""
_NOT_COMMON = " AND kind NOT IN ('acme-order.created', 'acme-authorization.valid', 'certificate.issued')"
"""In the words of that partial index."""
_COLUMNS = "id, at_ms, kind, subject, actor, origin, trace, data, sequence"


class Filters(msgspec.Struct, frozen=True):
    """Which events; all that are given must fit."""

    kind: str | None = None
    subject: str | None = None
    actor: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class FoundEvent(msgspec.Struct, frozen=True):
    """One event."""

    id: int
    at_ms: int
    kind: str
    subject: str
    actor: str
    origin: str
    trace: str
    data: str
    sequence: int | None


class Found(msgspec.Struct, frozen=True):
    """One page."""

    rows: tuple[FoundEvent, ...]
    next: int | None
    """The id that the next page comes before; None at the end."""


def search(tx: Tx, filters: Filters, before: int | None, limit: int) -> Found:
    """The newest events that fit, of those with ids below ``before``."""
    top = _newest(tx) + 1 if before is None else before
    bottom = 0
    if filters.until_ms is not None:
        top = min(top, _first_at(tx, filters.until_ms + _SKEW_MS))
    if filters.since_ms is not None:
        bottom = _first_at(tx, filters.since_ms - _SKEW_MS) - 1
    # One condition is looked up, the rarest first; the others sift what it finds.
    wanted = [
        (column, value)
        for column, value in (("subject", filters.subject), ("actor", filters.actor), ("kind", filters.kind))
        if value is not None
    ]
    where, params, sifted = "", [], len(wanted) > 1 or _timed(filters)
    if wanted and wanted[0] in _COMMON:
        sifted = True
    elif wanted:
        where, params = f" AND {wanted[0][0]} = ?", [wanted[0][1]]
        if wanted[0][0] == "kind":
            where += _NOT_COMMON
    rows = tx.all(
        f"SELECT {_COLUMNS} FROM events WHERE id < ? AND id > ?{where} ORDER BY id DESC LIMIT ?",
        (top, bottom, *params, EXAMINED if sifted else limit + 1),
    )
    found: list[FoundEvent] = []
    for row in rows:
        event = FoundEvent(*row)
        if _fits(event, filters):
            if len(found) == limit:
                return Found(tuple(found), found[-1].id)
            found.append(event)
    following = rows[-1][0] if len(rows) == EXAMINED else None
    return Found(tuple(found), following)


def _timed(filters: Filters) -> bool:
    return filters.since_ms is not None or filters.until_ms is not None


def _fits(event: FoundEvent, filters: Filters) -> bool:
    return (
        (filters.kind is None or event.kind == filters.kind)
        and (filters.actor is None or event.actor == filters.actor)
        and (filters.subject is None or event.subject == filters.subject)
        and (filters.since_ms is None or event.at_ms >= filters.since_ms)
        and (filters.until_ms is None or event.at_ms < filters.until_ms)
    )


def _newest(tx: Tx) -> int:
    row = tx.one("SELECT id FROM events ORDER BY id DESC LIMIT 1")
    return int(row[0]) if row else 0


def _first_at(tx: Tx, at_ms: int) -> int:
    """The lowest id of an event from a time on, about, found by halving."""
    low, high = 1, _newest(tx) + 1
    while low < high:
        middle = (low + high) // 2
        row = tx.one("SELECT id, at_ms FROM events WHERE id >= ? ORDER BY id LIMIT 1", (middle,))
        if row is not None and row[1] < at_ms:
            low = row[0] + 1
        else:
            high = middle
    return low
