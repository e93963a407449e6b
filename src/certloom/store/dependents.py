"""What still stands on a generation of an authority: statements, over the whole inventory in chunks."""

from __future__ import annotations

from functools import partial

import msgspec

from certloom.store.base import Store, Tx

_CHUNK = 20_000


class Counted(msgspec.Struct, frozen=True):
    """Certificates of one profile that are neither expired nor revoked."""

    profile: str
    certificates: int
    last_expires: int
    """Unix seconds."""


class Dependents(msgspec.Struct, frozen=True):
    """What one generation has issued that is still valid."""

    counted: tuple[Counted, ...]
    """End entities' certificates, by profile."""
    cas: tuple[bytes, ...]
    """CA certificates, DER."""


async def dependents(store: Store, authority: str, generation: int, now: int) -> Dependents:
    """Counted over the whole inventory."""
    counts: dict[str, tuple[int, int]] = {}
    cas: list[bytes] = []
    after: int | None = 0
    while after is not None:
        found, ders, after = await store.scan(partial(_chunk, authority, generation, now, after))
        cas += ders
        for profile, count, last in found:
            before = counts.get(profile, (0, 0))
            counts[profile] = (before[0] + count, max(before[1], last))
    counted = tuple(Counted(profile, *counts[profile]) for profile in sorted(counts))
    return Dependents(counted, tuple(cas))


_VALID = (
    " FROM certificates WHERE id > ? AND id <= ? AND authority = ? AND generation = ? AND not_after >= ?"
    # What is on hold may be good again.
    " AND (revoked IS NULL OR revocation_reason = 6) AND profile_version"
)


def _chunk(
    authority: str, generation: int, now: int, after: int, tx: Tx
) -> tuple[list[tuple[str, int, int]], list[bytes], int | None]:
    """Counts and CA certificates among the next ids, and the last of these; None at the end."""
    row = tx.one(
        "SELECT max(id) FROM (SELECT id FROM certificates WHERE id > ? ORDER BY id LIMIT ?) AS ids",
        (after, _CHUNK),
    )
    if row is None or row[0] is None:
        return [], [], None
    which = (after, row[0], authority, generation, now)
    rows = tx.all(f"SELECT profile, count(*), max(not_after){_VALID} > 0 GROUP BY profile", which)
    cas = tx.all(f"SELECT der{_VALID} = 0 ORDER BY id", which)
    return [(r[0], int(r[1]), int(r[2])) for r in rows], [r[0] for r in cas], int(row[0])


def status_kept(tx: Tx, authority: str, generation: int, now: int) -> tuple[int, int]:
    """How many CRLs are published for a generation, and how many OCSP responders speak for it."""
    crls = tx.one(
        "SELECT count(*) FROM crls WHERE authority = ? AND generation = ? AND next_update >= ?",
        (authority, generation, now),
    )
    responders = tx.one(
        "SELECT count(*) FROM delegates WHERE purpose = 'ocsp' AND authority = ?"
        " AND generation = ? AND not_after >= ?",
        (authority, generation, now),
    )
    assert crls is not None
    assert responders is not None
    return int(crls[0]), int(responders[0])
