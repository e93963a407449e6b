"""Listings of enrolment requests and approvals: statements. Newest first, each an indexed read."""

from __future__ import annotations

import msgspec

from certloom.store import approvals, requests
from certloom.store.approvals import StoredApproval
from certloom.store.base import Tx
from certloom.store.listing import Batch, Index, Position, Sift, Within, merge, page, parts
from certloom.store.requests import EnrolmentRequest


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What is looked for; None does not narrow."""

    state: str | None = None
    owner: str | None = None
    team: str | None = None
    profile: str | None = None
    requester: str | None = None
    approval: str | None = None


class FoundRequests(msgspec.Struct, frozen=True):
    """A page."""

    rows: list[EnrolmentRequest]
    after: Position | None
    """Where to go on."""


class FoundApprovals(msgspec.Struct, frozen=True):
    """A page."""

    rows: list[StoredApproval]
    after: Position | None
    """Where to go on."""


def find_requests(
    tx: Tx, filters: Filters, within: Within, limit: int, after: Position | None = None
) -> FoundRequests:
    """Requests that somebody may see, narrowed by filters."""
    by_approval = ("approval_id", filters.approval) if filters.approval is not None else None
    found = _find(tx, "enrolment_requests", requests.COLUMNS, filters, within, limit, after, by_approval)
    return FoundRequests([requests.of_row(row) for row in found.rows], found.after)


def find_approvals(
    tx: Tx, filters: Filters, within: Within, limit: int, after: Position | None = None
) -> FoundApprovals:
    """Approvals that somebody may see, narrowed by filters."""
    found = _find(tx, "approvals", approvals.COLUMNS, filters, within, limit, after, None)
    return FoundApprovals([approvals.of_row(row) for row in found.rows], found.after)


def _find(
    tx: Tx,
    table: str,
    columns: str,
    filters: Filters,
    within: Within,
    limit: int,
    after: Position | None,
    first: tuple[str, str] | None,
) -> Batch:
    walked, sifts = parts(within)
    equal = [
        (name, value)
        for name in ("state", "owner", "team", "profile", "requester")
        if (value := getattr(filters, name)) is not None
    ]
    # The column that leaves fewest rows is walked by; the others are sifted.
    order = ("owner", "team", "state")
    found = []
    for part in walked:
        fixed = first or part
        if fixed is None:
            by_name = {name: value for name, value in equal if name in order and _indexed(table, name, value)}
            fixed = next(((name, by_name[name]) for name in order if name in by_name), None)
        narrowing = [*equal, *([part] if part is not None else [])]
        more = [Sift(f"{name} = ?", (value,)) for name, value in narrowing if (name, value) != fixed]
        found.append(
            page(
                tx,
                Index(table=table, order=("id",), fixed=fixed, where=_where(table, fixed)),
                columns,
                [*sifts, *more],
                limit,
                after=after,
                descending=True,
            )
        )
    return merge(found, limit, descending=True) if found else Batch([], [], None)


def _indexed(table: str, name: str, value: str) -> bool:
    return not (table == "enrolment_requests" and name == "state" and value == "issued")


def _where(table: str, fixed: tuple[str, str] | None) -> str:
    """The condition of the partial index that is walked."""
    if fixed is None:
        return ""
    if fixed[0] in ("owner", "team", "approval_id"):
        return f"{fixed[0]} IS NOT NULL"
    return "state <> 'issued'" if table == "enrolment_requests" else ""
