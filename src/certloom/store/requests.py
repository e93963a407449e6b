"""Enrolment requests: statements."""

from __future__ import annotations

import msgspec

from certloom.policy.decisions import Reason
from certloom.store.base import Row, Tx


class EnrolmentRequest(msgspec.Struct, frozen=True):
    """One ask for one certificate."""

    id: str
    state: str
    protocol: str
    channel: str
    requester: str
    """``kind:id`` of who asks."""
    profile: str
    profile_version: int
    ask: str
    """JSON of what was asked beyond the CSR; ``enrollment`` alone reads it."""
    csr: bytes
    reasons: tuple[Reason, ...] = ()
    idempotency_key: str | None = None
    certificate_id: int | None = None
    created: int = 0
    updated: int = 0
    expires: int | None = None
    owner: str | None = None
    """On whose behalf."""
    team: str | None = None
    approval_id: str | None = None
    """The approval it waits under, or was issued under."""


class RequestState(msgspec.Struct, frozen=True):
    """The little of a request that a protocol derives its own state from."""

    state: str
    certificate_id: int | None
    reasons: tuple[Reason, ...]
    updated: int


COLUMNS = (
    "id, state, protocol, channel, requester, profile, profile_version, ask, csr, reasons,"
    " idempotency_key, certificate_id, created, updated, expires, owner, team, approval_id"
)
# The foundation counted agreements here; since then approvals have a table of their own.
_INSERT = (
    f"INSERT INTO enrolment_requests ({COLUMNS}, approvals_needed, approvals)"
    f" VALUES ({', '.join('?' * 18)}, 0, '[]')"
)
_encode = msgspec.json.Encoder().encode
_reasons = msgspec.json.Decoder(tuple[Reason, ...]).decode


def _text(values: tuple[Reason, ...]) -> str:
    return _encode(values).decode() if values else "[]"


def of_row(row: Row) -> EnrolmentRequest:
    return EnrolmentRequest(*(*row[:9], _reasons(row[9]), *row[10:]))


def insert(tx: Tx, r: EnrolmentRequest) -> None:
    """Raises ``Conflict`` when the idempotency key is taken."""
    tx.run(
        _INSERT,
        (
            r.id,
            r.state,
            r.protocol,
            r.channel,
            r.requester,
            r.profile,
            r.profile_version,
            r.ask,
            r.csr,
            _text(r.reasons),
            r.idempotency_key,
            r.certificate_id,
            r.created,
            r.updated,
            r.expires,
            r.owner,
            r.team,
            r.approval_id,
        ),
    )


def get(tx: Tx, id: str, *, lock: bool = False) -> EnrolmentRequest | None:
    """The request; with ``lock`` its row is held until the unit ends."""
    row = tx.one(
        f"SELECT {COLUMNS} FROM enrolment_requests WHERE id = ?{tx.for_update if lock else ''}",
        (id,),
    )
    return of_row(row) if row else None


def by_idempotency_key(tx: Tx, key: str) -> EnrolmentRequest | None:
    row = tx.one(f"SELECT {COLUMNS} FROM enrolment_requests WHERE idempotency_key = ?", (key,))
    return of_row(row) if row else None


def state(tx: Tx, id: str) -> RequestState | None:
    row = tx.one(
        "SELECT state, certificate_id, reasons, updated FROM enrolment_requests WHERE id = ?",
        (id,),
    )
    return RequestState(row[0], row[1], _reasons(row[2]), row[3]) if row else None


def listing(tx: Tx, states: tuple[str, ...], limit: int, after: str = "") -> list[EnrolmentRequest]:
    """Requests in these states, by id (that is, by age), after the id ``after``."""
    marks = ", ".join("?" * len(states))
    return [
        of_row(row)
        for row in tx.all(
            f"SELECT {COLUMNS} FROM enrolment_requests WHERE state IN ({marks}) AND id > ?"
            " ORDER BY id LIMIT ?",
            (*states, after, limit),
        )
    ]


def ids_waiting_of(tx: Tx, requester: str) -> list[str]:
    """Requests that can still be withdrawn. They are few: an index holds those that are open."""
    rows = tx.all(
        "SELECT id FROM enrolment_requests WHERE state IN ('awaiting_approval', 'approved')"
        " AND requester = ? ORDER BY id",
        (requester,),
    )
    return [row[0] for row in rows]


def waiting_under(tx: Tx, approval_id: str) -> list[EnrolmentRequest]:
    """Requests that wait under an approval, locked, oldest first. A requester may have only so many."""
    return [
        of_row(row)
        for row in tx.all(
            f"SELECT {COLUMNS} FROM enrolment_requests WHERE approval_id = ?"
            f" AND state = 'awaiting_approval' ORDER BY id{tx.for_update}",
            (approval_id,),
        )
    ]


def under(tx: Tx, approval_id: str, limit: int) -> list[EnrolmentRequest]:
    """The newest requests of an approval, newest first, in whatever state."""
    return [
        of_row(row)
        for row in tx.all(
            f"SELECT {COLUMNS} FROM enrolment_requests WHERE approval_id = ? ORDER BY id DESC LIMIT ?",
            (approval_id, limit),
        )
    ]


def count_waiting(tx: Tx, requester: str, owner: str | None, most: int) -> int:
    """How many of an owner's requests wait for people, or of a requester's who has none; up to ``most``."""
    column, whose = ("requester", requester) if owner is None else ("owner", owner)
    row = tx.one(
        "SELECT count(*) FROM (SELECT 1 FROM enrolment_requests WHERE state = 'awaiting_approval'"
        f" AND {column} = ? LIMIT ?) AS found",
        (whose, most),
    )
    assert row is not None
    return int(row[0])


def waiting_under_nothing(tx: Tx, limit: int) -> list[EnrolmentRequest]:
    """Requests that wait for people since before approvals had a table of their own."""
    return [
        of_row(row)
        for row in tx.all(
            f"SELECT {COLUMNS} FROM enrolment_requests WHERE state = 'awaiting_approval'"
            " AND approval_id IS NULL ORDER BY id LIMIT ?",
            (limit,),
        )
    ]


def update(tx: Tx, r: EnrolmentRequest, was: str) -> bool:
    """Write what a transition may change, if the request is still in state ``was``."""
    return (
        tx.run(
            "UPDATE enrolment_requests SET state = ?, reasons = ?, certificate_id = ?, profile_version = ?,"
            " updated = ?, approval_id = ? WHERE id = ? AND state = ?",
            (
                r.state,
                _text(r.reasons),
                r.certificate_id,
                r.profile_version,
                r.updated,
                r.approval_id,
                r.id,
                was,
            ),
        )
        == 1
    )
