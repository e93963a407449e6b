"""What the inventory knows of one name, for policy rules that ask about it: statements."""

from __future__ import annotations

from collections.abc import Sequence

from certloom.pki.identifiers import Identifier
from certloom.policy.decisions import NameHistory
from certloom.store.base import Tx
from certloom.store.name_keys import key_of

MOST_COUNTED = 100
"""Valid certificates counted at most."""
_LOOKED_AT = 1_000
"""Newest certificates of a name that are looked at: a name renewed every day for years costs no more."""


def of_name(tx: Tx, name: Identifier, now: int) -> NameHistory:
    """Indexed reads of at most so many rows."""
    key = (key_of(name),)
    last = tx.one(
        "SELECT c.team, c.owner, c.requester, c.profile, c.issued FROM certificate_names n"
        " JOIN certificates c ON c.id = n.certificate_id WHERE n.key = ?"
        " ORDER BY n.certificate_id DESC LIMIT 1",
        key,
    )
    if last is None:
        return NameHistory(name, 0)
    row = tx.one(
        "SELECT count(*) FROM (SELECT 1 FROM (SELECT certificate_id FROM certificate_names"
        " WHERE key = ? ORDER BY certificate_id DESC LIMIT ?) AS n"
        " JOIN certificates c ON c.id = n.certificate_id"
        " WHERE c.not_after >= ? AND c.revoked IS NULL AND c.replaced_by IS NULL LIMIT ?) AS live",
        (*key, _LOOKED_AT, now, MOST_COUNTED),
    )
    assert row is not None
    return NameHistory(name, int(row[0]), *last)


def of_names(tx: Tx, names: Sequence[Identifier], now: int) -> tuple[NameHistory, ...]:
    """As ``of_name``, in their order."""
    return tuple(of_name(tx, name, now) for name in names)
