"""How far the audit log has been sent to syslog, and which node sends: statements.

Both are one row, so that a node that lost its turn cannot move the place on.
"""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx

_KEY = "audit.syslog"


class Turn(msgspec.Struct, frozen=True):
    """Who sends, until when, and what the receiver has."""

    sequence: int
    node: str
    until_ms: int


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Turn).decode


def sent(tx: Tx) -> int | None:
    """The last event that was sent; None where nothing was ever sent."""
    row = tx.one("SELECT value FROM facts WHERE key = ?", (_KEY,))
    return None if row is None else _decode(row[0]).sequence


def take(tx: Tx, node: str, now_ms: int, until_ms: int) -> int | None:
    """Take (or keep) the turn; answer the last event sent. None while it is another node's."""
    tx.run(
        "INSERT INTO facts (key, value) VALUES (?, ?) ON CONFLICT (key) DO NOTHING",
        (_KEY, _encode(Turn(0, node, until_ms)).decode()),
    )
    row = tx.one(f"SELECT value FROM facts WHERE key = ?{tx.for_update}", (_KEY,))
    assert row is not None
    turn = _decode(row[0])
    if turn.node != node and turn.until_ms > now_ms:
        return None
    _put(tx, Turn(turn.sequence, node, until_ms))
    return turn.sequence


def advance(tx: Tx, node: str, sequence: int, until_ms: int) -> bool:
    """Note that events up to this one were sent. False when the turn is another node's by now."""
    row = tx.one(f"SELECT value FROM facts WHERE key = ?{tx.for_update}", (_KEY,))
    if row is None or _decode(row[0]).node != node:
        return False
    _put(tx, Turn(sequence, node, until_ms))
    return True


def _put(tx: Tx, turn: Turn) -> None:
    tx.run("UPDATE facts SET value = ? WHERE key = ?", (_encode(turn).decode(), _KEY))
