"""Searching the inventory: statements. How a page's work is bounded: ``store.listing``."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import msgspec

from certloom.pki.identifiers import Identifier
from certloom.store.base import Row, Tx
from certloom.store.certificates import HOLD, StoredCertificate, as_identifier
from certloom.store.listing import (
    EXAMINED,
    FEW,
    Batch,
    Index,
    Position,
    Sift,
    Within,
    are_few,
    merge,
    of_few,
    page,
    parts,
)
from certloom.store.name_keys import key_of, under


class State(StrEnum):
    """What a certificate is good for now. The first that fits, in this order."""

    HELD = "held"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLACED = "replaced"
    TO_BE_REPLACED = "to-be-replaced"
    VALID = "valid"


class Sort(StrEnum):
    """In which order to list."""

    ISSUED = "issued"
    EXPIRES = "expires"


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What to search for; everything that is given must hold. Times are Unix seconds."""

    name: Identifier | None = None
    under: str | None = None
    """A DNS name in canonical form: names that are it or end in it."""
    serial: bytes | None = None
    """Big-endian, without leading zeros."""
    fingerprint: bytes | None = None
    """SHA-256 of the DER."""
    spki_sha256: bytes | None = None
    profile: str | None = None
    authority: str | None = None
    requester: str | None = None
    owner: str | None = None
    team: str | None = None
    key_type: str | None = None
    state: State | None = None
    expires_from: int | None = None
    expires_before: int | None = None
    issued_from: int | None = None
    issued_before: int | None = None


class Listed(msgspec.Struct, frozen=True):
    """A certificate as listings have it: all of its row but the DER. Times are Unix seconds."""

    id: int
    authority: str
    serial: bytes
    spki_sha256: bytes
    not_before: int
    not_after: int
    profile: str
    profile_version: int
    requester: str
    request_id: str
    crl_shard: int
    issued: int
    revoked: int | None
    revocation_reason: int | None
    replace_since: int | None
    replace_why: str | None
    replaced_by: int | None
    names: tuple[str, ...]
    key_type: str
    fingerprint: bytes
    owner: str | None
    team: str | None
    channel: str

    @property
    def identifiers(self) -> tuple[Identifier, ...]:
        """Its names."""
        return tuple(as_identifier(name) for name in self.names)


class Found(msgspec.Struct, frozen=True):
    """A page. It may be short of what was asked and yet be followed by more."""

    certificates: list[Listed]
    ends: list[Position]
    """The position of each."""
    after: Position | None
    """Where to go on; None at the end."""


_COLUMNS = (
    "id, authority, serial, spki_sha256, not_before, not_after, profile, profile_version, requester,"
    " request_id, crl_shard, issued, revoked, revocation_reason, replace_since, replace_why, replaced_by,"
    " names, key_type, fingerprint, owner, team, channel"
)
_texts = msgspec.json.Decoder(tuple[str, ...]).decode
_TABLE = "certificates"
_ORDERS = {Sort.ISSUED: ("issued", "id"), Sort.EXPIRES: ("not_after", "id")}
_PARTIAL = {
    State.HELD: f"revocation_reason = {HOLD}",
    State.REVOKED: "revoked IS NOT NULL",
    State.TO_BE_REPLACED: "replace_since IS NOT NULL",
}
_NOT_NULL = {"owner": "owner IS NOT NULL", "team": "team IS NOT NULL"}
"""Said because these indexes are partial, and a comparison of rows does not prove it to a planner."""
_LIVE = "revoked IS NULL AND not_after >= ?"
_EQUAL = ("requester", "owner", "team", "profile", "authority")
"""Columns with an index of their own, the most telling first."""


def state_of(certificate: Listed | StoredCertificate, now: int) -> State:
    """What a certificate is good for. ``_of_state`` says the same in SQL."""
    if certificate.revoked is not None:
        return State.HELD if certificate.revocation_reason == HOLD else State.REVOKED
    if certificate.not_after < now:
        return State.EXPIRED
    if certificate.replaced_by is not None:
        return State.REPLACED
    return State.TO_BE_REPLACED if certificate.replace_since is not None else State.VALID


def search(
    tx: Tx,
    filters: Filters,
    sort: Sort,
    limit: int,
    *,
    now: int,
    within: Within = None,
    after: Position | None = None,
    descending: bool = False,
) -> Found:
    """The next page of what matches and is ``within`` what somebody sees.

    The parts of what they see share the page's work: to see through many teams costs no more.
    """
    branches, outside = parts(within)
    batches = [
        _branch(tx, filters, branch, sort, limit, now, after, descending, outside, len(branches))
        for branch in branches
    ]
    if not batches:
        return Found([], [], None)
    batch = merge(batches, limit, descending=descending)
    certificates = [_listed(row) for row in batch.rows]
    ends = batch.ends
    if filters.under is not None:
        kept = [i for i, one in enumerate(certificates) if _is_under(one, filters.under)]
        certificates, ends = [certificates[i] for i in kept], [ends[i] for i in kept]
    return Found(certificates, ends, batch.after)


def _is_under(certificate: Listed, domain: str) -> bool:
    return any(
        name == f"dns:{domain}" or (name.startswith("dns:") and name.endswith(f".{domain}"))
        for name in certificate.names
    )


def _branch(
    tx: Tx,
    filters: Filters,
    branch: tuple[str, str] | None,
    sort: Sort,
    limit: int,
    now: int,
    after: Position | None,
    descending: bool,
    outside: list[Sift],
    share: int,
) -> Batch:
    few = FEW // share
    order = _ORDERS[sort]
    low, high = _bounds(filters, sort, now)
    base = Index(table=_TABLE, order=order, low=low, high=high)
    equal = [(name, getattr(filters, name)) for name in _EQUAL if getattr(filters, name) is not None]
    if branch is not None and branch not in equal:
        equal.insert(0, branch)
    sifts = _sifts(filters, sort, now) + [Sift(f"{name} = ?", (value,)) for name, value in equal] + outside
    ways = _few_at_most(filters, few + 1) + _perhaps_few(filters, sort, equal, few + 1)
    alone = len(sifts) == 1 and len(equal) == 1 and sort is Sort.ISSUED
    if sifts and not alone:
        for ids in ways:
            if are_few(tx, ids, few):
                return of_few(
                    tx,
                    _TABLE,
                    ids,
                    order,
                    _COLUMNS,
                    [*sifts, *_range(filters, sort)],
                    limit,
                    after=after,
                    descending=descending,
                )
    if sort is Sort.ISSUED and filters.state in _PARTIAL:
        base = msgspec.structs.replace(base, where=_PARTIAL[filters.state])
    elif sort is Sort.ISSUED and equal:
        base = msgspec.structs.replace(base, fixed=equal[0], where=_NOT_NULL.get(equal[0][0], ""))
        sifts = [] if alone else sifts
    return page(
        tx, base, _COLUMNS, sifts, limit, after=after, descending=descending, examined=EXAMINED // share
    )


def _bounds(filters: Filters, sort: Sort, now: int) -> tuple[int | None, int | None]:
    """Between what values of the ordering column a listing walks."""
    if sort is Sort.ISSUED:
        return filters.issued_from, filters.issued_before
    low, high = filters.expires_from, filters.expires_before
    if filters.state is State.EXPIRED:
        high = now if high is None else min(high, now)
    elif filters.state in (State.VALID, State.REPLACED, State.TO_BE_REPLACED):
        low = now if low is None else max(low, now)
    return low, high


def _range(filters: Filters, sort: Sort) -> list[Sift]:
    """The same as conditions, for rows that were not met by walking."""
    low, high = (
        (filters.issued_from, filters.issued_before)
        if sort is Sort.ISSUED
        else (filters.expires_from, filters.expires_before)
    )
    return _between("issued" if sort is Sort.ISSUED else "not_after", low, high)


def _between(column: str, low: int | None, high: int | None) -> list[Sift]:
    found = [] if low is None else [Sift(f"{column} >= ?", (low,))]
    return found if high is None else [*found, Sift(f"{column} < ?", (high,))]


def _sifts(filters: Filters, sort: Sort, now: int) -> list[Sift]:
    """Conditions beyond equality and the range that is walked."""
    found = []
    for column in ("serial", "fingerprint", "spki_sha256", "key_type"):
        value = getattr(filters, column)
        if value is not None:
            found.append(Sift(f"{column} = ?", (value,)))
    if filters.name is not None:
        found.append(Sift("names LIKE ? ESCAPE '!'", (f'%"{_literally(str(filters.name))}"%',)))
    if filters.under is not None:
        domain = _literally(filters.under)
        found.append(
            # Names as they are written: the whole, or what follows a dot. A URI or a mailbox may end
            # like that too: ``_is_under`` looks again.
            Sift(
                "(names LIKE ? ESCAPE '!' OR names LIKE ? ESCAPE '!')", (f'%"dns:{domain}"%', f'%.{domain}"%')
            )
        )
    if sort is Sort.ISSUED:
        found += _between("not_after", filters.expires_from, filters.expires_before)
    else:
        found += _between("issued", filters.issued_from, filters.issued_before)
    if filters.state is not None:
        found.append(_of_state(filters.state, now))
    return found


def _of_state(state: State, now: int) -> Sift:
    match state:
        case State.HELD:
            return Sift(f"revocation_reason = {HOLD}")
        case State.REVOKED:
            return Sift(f"revoked IS NOT NULL AND revocation_reason <> {HOLD}")
        case State.EXPIRED:
            return Sift("revoked IS NULL AND not_after < ?", (now,))
        case State.REPLACED:
            return Sift(f"{_LIVE} AND replaced_by IS NOT NULL", (now,))
        case State.TO_BE_REPLACED:
            return Sift(f"{_LIVE} AND replaced_by IS NULL AND replace_since IS NOT NULL", (now,))
        case State.VALID:
            return Sift(f"{_LIVE} AND replaced_by IS NULL AND replace_since IS NULL", (now,))


def _few_at_most(filters: Filters, most: int) -> list[Sift]:
    """Ways to ids that nearly always are few."""
    found = []
    if filters.serial is not None:
        found.append(
            Sift(
                "SELECT id FROM certificates WHERE authority IN (SELECT name FROM authorities) AND serial = ?"
                f" LIMIT {most}",
                (filters.serial,),
            )
        )
    for column in ("fingerprint", "spki_sha256"):
        value = getattr(filters, column)
        if value is not None:
            found.append(
                Sift(
                    f"SELECT id FROM certificates WHERE {column} >= ? AND {column} <= ? ORDER BY {column}"
                    f" LIMIT {most}",
                    (value, value),
                )
            )
    named = (
        "SELECT certificate_id AS id FROM certificate_names WHERE key >= ? AND key {} ? ORDER BY key LIMIT {}"
    )
    if filters.name is not None:
        key = key_of(filters.name)
        found.append(Sift(named.format("<=", most), (key, key)))
    if filters.under is not None:
        found.append(Sift(named.format("<", most), under(filters.under)))
    return found


def _perhaps_few(filters: Filters, sort: Sort, equal: Sequence[tuple[str, str]], most: int) -> list[Sift]:
    """Ways to ids that may be few."""
    issued = _ORDERS[Sort.ISSUED]
    found = []
    if filters.state in _PARTIAL:
        found.append(Index(table=_TABLE, order=issued, where=_PARTIAL[filters.state]))
    found += [
        Index(table=_TABLE, order=issued, fixed=pair, where=_NOT_NULL.get(pair[0], "")) for pair in equal
    ]
    if sort is Sort.ISSUED:
        low, high = filters.expires_from, filters.expires_before
        if low is not None or high is not None:
            found.append(Index(table=_TABLE, order=_ORDERS[Sort.EXPIRES], low=low, high=high))
    elif filters.issued_from is not None or filters.issued_before is not None:
        found.append(Index(table=_TABLE, order=issued, low=filters.issued_from, high=filters.issued_before))
    return [index.subquery("id", most) for index in found]


def _literally(text: str) -> str:
    """For LIKE: what stands for itself."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def _listed(row: Row) -> Listed:
    return Listed(*(*row[:17], _texts(row[17]), *row[18:]))
