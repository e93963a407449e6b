"""Approvals: statements. What they are and how they live: ``enrollment.approvals``, ``enrollment.states``."""

from __future__ import annotations

import msgspec

from certloom.policy.decisions import Reason, Stage
from certloom.store.base import Row, Tx


class PersonDecision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one person said."""

    person: str
    """What counts as one human being, however they came in."""
    actor: str
    """As the audit log names them."""
    name: str
    """For people's eyes."""
    at: int
    stage: int
    """Counted from 0."""
    agreed: bool
    reason: str = ""
    void: bool = False
    """It was said before somebody changed what is agreed to, and does not count."""


class Change(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an approver changed; None where nothing was."""

    person: str
    actor: str
    name: str
    at: int
    lifetime_before: int | None = None
    """Seconds; None where none was asked for."""
    lifetime: int | None = None
    names_before: tuple[str, ...] | None = None
    names: tuple[str, ...] | None = None
    """``type:value``."""


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the first ask said beyond what has columns of its own."""

    subject: str = ""
    """As the certificate would have it, RFC 4514."""
    lifetime: int | None = None
    """Seconds, where one was asked for."""
    not_before: int | None = None
    not_after: int | None = None
    key: str = ""
    """``P-256``, ``rsa-3072`` ..."""
    comment: str = ""
    """What the requester wanted approvers to know."""
    address: str = ""
    """The IP address it came from."""
    replaces: int | None = None
    may_change: tuple[str, ...] = ()
    """Of ``validity`` and ``names``: what an approver may change."""
    warnings: tuple[Reason, ...] = ()
    """What policy rules want said, although they do not stand in the way."""


class StoredApproval(msgspec.Struct, frozen=True):
    """What people are asked to agree to, and what they said. Times are Unix seconds."""

    id: str
    binding: bytes
    """A hash over all that the agreement covers."""
    state: str
    protocol: str
    channel: str
    requester: str
    """``kind:id`` of who asks."""
    owner: str | None
    """On whose behalf; that person may not approve it."""
    team: str | None
    profile: str
    profile_version: int
    names: tuple[str, ...]
    """What was asked for, ``type:value``; for what would be issued see ``effective_names``."""
    asked: Asked
    stages: tuple[Stage, ...]
    stage: int
    """The stage it is in, from 0; ``len(stages)`` once all have agreed."""
    decisions: tuple[PersonDecision, ...]
    changes: tuple[Change, ...]
    reasons: tuple[Reason, ...]
    """Why people are asked: what the profile and policy rules said; then how it ended, if it did not well."""
    created: int
    updated: int
    expires: int
    """Until when it waits for people."""
    good_seconds: int
    """How long an agreement serves further asks for the same."""
    good_until: int | None = None

    @property
    def effective_names(self) -> tuple[str, ...]:
        """What a certificate would be issued for."""
        for change in reversed(self.changes):
            if change.names is not None:
                return change.names
        return self.names

    @property
    def changed_lifetime(self) -> int | None:
        """Seconds that an approver set, if one did."""
        for change in reversed(self.changes):
            if change.lifetime is not None:
                return change.lifetime
        return None

    @property
    def agreements(self) -> tuple[PersonDecision, ...]:
        """Those that count."""
        return tuple(d for d in self.decisions if d.agreed and not d.void)


COLUMNS = (
    "id, binding, state, protocol, channel, requester, owner, team, profile, profile_version, names, asked,"
    " stages, stage, decisions, changes, reasons, created, updated, expires, good_seconds, good_until"
)
_INSERT = f"INSERT INTO approvals ({COLUMNS}) VALUES ({', '.join('?' * 22)})"
_encode = msgspec.json.Encoder().encode
_names = msgspec.json.Decoder(tuple[str, ...]).decode
_asked = msgspec.json.Decoder(Asked).decode
_stages = msgspec.json.Decoder(tuple[Stage, ...]).decode
_decisions = msgspec.json.Decoder(tuple[PersonDecision, ...]).decode
_changes = msgspec.json.Decoder(tuple[Change, ...]).decode
_reasons = msgspec.json.Decoder(tuple[Reason, ...]).decode


def _text(value: object) -> str:
    return _encode(value).decode()


def of_row(row: Row) -> StoredApproval:
    decoded = (_names(row[10]), _asked(row[11]), _stages(row[12]), row[13], _decisions(row[14]))
    return StoredApproval(*(*row[:10], *decoded, _changes(row[15]), _reasons(row[16]), *row[17:]))


def insert(tx: Tx, a: StoredApproval) -> None:
    """Raises ``Conflict`` when an approval with that binding waits or is granted."""
    tx.run(
        _INSERT,
        (
            *msgspec.structs.astuple(a)[:10],
            _text(a.names),
            _text(a.asked),
            _text(a.stages),
            a.stage,
            _text(a.decisions),
            _text(a.changes),
            _text(a.reasons),
            a.created,
            a.updated,
            a.expires,
            a.good_seconds,
            a.good_until,
        ),
    )


def get(tx: Tx, id: str, *, lock: bool = False) -> StoredApproval | None:
    """The approval; with ``lock`` its row is held until the unit ends."""
    row = tx.one(f"SELECT {COLUMNS} FROM approvals WHERE id = ?{tx.for_update if lock else ''}", (id,))
    return of_row(row) if row else None


def in_force(tx: Tx, binding: bytes, *, lock: bool = False) -> StoredApproval | None:
    """The one approval with this binding that waits or is granted, if there is one."""
    row = tx.one(
        f"SELECT {COLUMNS} FROM approvals WHERE binding = ? AND state IN ('waiting', 'granted')"
        f"{tx.for_update if lock else ''}",
        (binding,),
    )
    return of_row(row) if row else None


def update(tx: Tx, a: StoredApproval, was: str) -> bool:
    """Write what may change, if the approval is still in state ``was``."""
    return (
        tx.run(
            "UPDATE approvals SET state = ?, stages = ?, stage = ?, decisions = ?, changes = ?, reasons = ?,"
            " updated = ?, good_until = ? WHERE id = ? AND state = ?",
            (
                a.state,
                _text(a.stages),
                a.stage,
                _text(a.decisions),
                _text(a.changes),
                _text(a.reasons),
                a.updated,
                a.good_until,
                a.id,
                was,
            ),
        )
        == 1
    )


def made_since(tx: Tx, requester: str, owner: str | None, since: int, most: int) -> int:
    """How many came about for an owner since then, or for a requester who has none; up to ``most``."""
    column, whose = ("requester", requester) if owner is None else ("owner", owner)
    row = tx.one(
        f"SELECT count(*) FROM (SELECT 1 FROM approvals WHERE {column} = ? AND created > ? LIMIT ?) AS found",
        (whose, since, most),
    )
    assert row is not None
    return int(row[0])


def expired(tx: Tx, now: int, limit: int) -> list[str]:
    """Ids of approvals that waited for people for too long."""
    rows = tx.all(
        "SELECT id FROM approvals WHERE state = 'waiting' AND expires <= ? ORDER BY expires LIMIT ?",
        (now, limit),
    )
    return [row[0] for row in rows]


def lapsed(tx: Tx, now: int, limit: int) -> list[str]:
    """Ids of approvals whose agreement is no longer good."""
    rows = tx.all(
        "SELECT id FROM approvals WHERE state = 'granted' AND good_until <= ? ORDER BY good_until LIMIT ?",
        (now, limit),
    )
    return [row[0] for row in rows]


def prune(tx: Tx, ended_before: int, limit: int) -> int:
    """Delete up to ``limit`` approvals that ended before then; how many it was."""
    return tx.run(
        "DELETE FROM approvals WHERE id IN (SELECT id FROM approvals WHERE updated < ?"
        " AND state IN ('denied', 'expired', 'withdrawn', 'lapsed') LIMIT ?)",
        (ended_before, limit),
    )
