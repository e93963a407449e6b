"""Enrolment requests: statements."""

from __future__ import annotations

import msgspec

from certloom.policy.decisions import Reason
from certloom.store.base import Row, Tx


class Approval(msgspec.Struct, frozen=True):
    """One person's answer."""

    actor: str
    at: int
    agreed: bool
    message: str = ""


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
    approvals_needed: int = 0
    approvals: tuple[Approval, ...] = ()
    idempotency_key: str | None = None
    certificate_id: int | None = None
    created: int = 0
    updated: int = 0
    expires: int | None = None


class RequestState(msgspec.Struct, frozen=True):
    """The little of a request that a protocol derives its own state from."""

    state: str
    certificate_id: int | None
    reasons: tuple[Reason, ...]
    updated: int


_COLUMNS = (
    "id, state, protocol, channel, requester, profile, profile_version, ask, csr, reasons, approvals_needed,"
    " approvals, idempotency_key, certificate_id, created, updated, expires"
)
_INSERT = f"INSERT INTO enrolment_requests ({_COLUMNS}) VALUES ({', '.join('?' * 17)})"
_encode = msgspec.json.Encoder().encode
_reasons = msgspec.json.Decoder(tuple[Reason, ...]).decode
_approvals = msgspec.json.Decoder(tuple[Approval, ...]).decode


def _text(values: tuple[Reason, ...] | tuple[Approval, ...]) -> str:
    return _encode(values).decode() if values else "[]"


def _request(row: Row) -> EnrolmentRequest:
    return EnrolmentRequest(*(*row[:9], _reasons(row[9]), row[10], _approvals(row[11]), *row[12:]))


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
            r.approvals_needed,
            _text(r.approvals),
            r.idempotency_key,
            r.certificate_id,
            r.created,
            r.updated,
            r.expires,
        ),
    )


def get(tx: Tx, id: str, *, lock: bool = False) -> EnrolmentRequest | None:
    """The request; with ``lock`` its row is held until the unit ends."""
    row = tx.one(
        f"SELECT {_COLUMNS} FROM enrolment_requests WHERE id = ?{tx.for_update if lock else ''}",
        (id,),
    )
    return _request(row) if row else None


def by_idempotency_key(tx: Tx, key: str) -> EnrolmentRequest | None:
    row = tx.one(f"SELECT {_COLUMNS} FROM enrolment_requests WHERE idempotency_key = ?", (key,))
    return _request(row) if row else None


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
        _request(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM enrolment_requests WHERE state IN ({marks}) AND id > ?"
            " ORDER BY id LIMIT ?",
            (*states, after, limit),
        )
    ]


def waiting_of(tx: Tx, requester: str) -> list[EnrolmentRequest]:
    """Requests that can still be withdrawn, locked. They are few: an index holds those that are open."""
    return [
        _request(row)
        for row in tx.all(
            f"SELECT {_COLUMNS} FROM enrolment_requests WHERE state IN ('awaiting_approval', 'approved')"
            f" AND requester = ? ORDER BY id{tx.for_update}",
            (requester,),
        )
    ]


def update(tx: Tx, r: EnrolmentRequest, was: str) -> bool:
    """Write what a transition may change, if the request is still in state ``was``."""
    return (
        tx.run(
            "UPDATE enrolment_requests SET state = ?, reasons = ?, approvals = ?, certificate_id = ?,"
            " profile_version = ?, updated = ? WHERE id = ? AND state = ?",
            (
                r.state,
                _text(r.reasons),
                _text(r.approvals),
                r.certificate_id,
                r.profile_version,
                r.updated,
                r.id,
                was,
            ),
        )
        == 1
    )


def expired(tx: Tx, now: int, limit: int) -> list[str]:
    """Ids of requests that waited for a person for too long."""
    return [
        row[0]
        for row in tx.all(
            "SELECT id FROM enrolment_requests WHERE state = 'awaiting_approval' AND expires <= ? LIMIT ?",
            (now, limit),
        )
    ]
