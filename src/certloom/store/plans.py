"""Reading the whole inventory for a plan: statements.

A chunk leaves the database as one JSON text, which the worker that judges it decodes: so the process that
answers clients spends next to nothing on a million rows.
"""

from __future__ import annotations

import msgspec

from certloom.store.base import Tx


class Chunk(msgspec.Struct, frozen=True):
    """Some certificates in the order of their ids."""

    last: int
    """The id to go on after."""
    rows: int
    """How many certificates were looked at."""
    certificates: str
    """JSON list of those in use: neither revoked nor expired."""
    histories: str = "[]"
    """JSON list of what the inventory knows of each of their names, where that is needed."""


# CA certificates are of no profile: their version is 0.
_IN_USE = "(c.revoked IS NULL OR c.revocation_reason = 6) AND c.not_after >= ? AND c.profile_version > 0"
_FIELDS = (
    "c.id, c.authority, c.profile, c.profile_version, {names}, c.key_type, c.not_before, c.not_after,"
    " c.requester, coalesce(c.owner, ''), coalesce(c.team, ''), c.channel, {der}"
)
_DIALECTS = {
    "sqlite": ("json_group_array(json_array({fields}))", "json(c.names)", "hex(c.der)"),
    "postgresql": ("json_agg(json_build_array({fields}))", "c.names::json", "encode(c.der, 'hex')"),
}


def total(tx: Tx) -> int:
    """How many certificates there are."""
    row = tx.one("SELECT count(*) FROM certificates")
    assert row is not None
    return int(row[0])


def chunk(tx: Tx, dialect: str, after: int, limit: int, now: int, *, subjects: bool) -> Chunk | None:
    """The next certificates after an id, or None at the end. ``subjects`` adds their DER, in hexadecimal."""
    gather, names, der = _DIALECTS[dialect]
    fields = _FIELDS.format(names=names, der=der if subjects else "''")
    text = "" if dialect == "sqlite" else "::text"
    row = tx.one(
        f"SELECT max(c.id), count(*), ({gather.format(fields=fields)} FILTER (WHERE {_IN_USE})){text}"
        " FROM (SELECT * FROM certificates WHERE id > ? ORDER BY id LIMIT ?) c",
        (now, after, limit),
    )
    if row is None or row[0] is None:
        return None
    return Chunk(int(row[0]), int(row[1]), row[2] or "[]")


def histories(tx: Tx, dialect: str, keys: str, now: int, *, counted: bool) -> str:
    """What ``history.of_name`` would say of names by their keys (a JSON list), as a JSON list.

    Valid certificates are only ``counted`` where that is asked; else there are 0.
    """
    # A subquery for each certificate, since joined PostgreSQL may walk all that are in use, for each name.
    valid = (
        "(SELECT coalesce(sum((SELECT CASE WHEN o.not_after >= ? AND o.revoked IS NULL"
        " AND o.replaced_by IS NULL THEN 1 ELSE 0 END FROM certificates o WHERE o.id = w.certificate_id)), 0)"
        " FROM (SELECT v.certificate_id FROM certificate_names v WHERE v.key = n.key"
        " ORDER BY v.certificate_id DESC LIMIT 1000) AS w)"
    )
    fields = f"n.key, {valid if counted else '0'}, c.team, c.owner, c.requester, c.profile, c.issued"
    gather = _DIALECTS[dialect][0].format(fields=fields)
    text, each = (
        ("", "json_each(?)") if dialect == "sqlite" else ("::text", "json_array_elements_text(?::json)")
    )
    row = tx.one(
        f"SELECT ({gather}){text} FROM (SELECT k.value AS key, (SELECT max(a.certificate_id)"
        f" FROM certificate_names a WHERE a.key = k.value) AS newest FROM {each} AS k) AS n"
        " JOIN certificates c ON c.id = n.newest",
        (now, keys) if counted else (keys,),
    )
    return (row[0] if row else None) or "[]"
