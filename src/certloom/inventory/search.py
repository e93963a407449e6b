"""Searching the inventory on somebody's behalf: they get the rows that they may see, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial

from certloom.clock import Clock
from certloom.identity.principals import Principal, Thing
from certloom.store.base import Store, Tx
from certloom.store.certificate_search import Filters, Found, Listed, Sort, search
from certloom.store.certificates import StoredCertificate
from certloom.store.listing import Position

PERMISSION = "certificate.read"
_ROUNDS = 4
"""Pages that are read to fill one, where most rows are not theirs to see."""
_CHUNK = 500


def thing_of(certificate: Listed | StoredCertificate) -> Thing:
    """What permissions are looked up for. What is of no team is outside every scope that names teams."""
    return Thing(
        owner=certificate.owner or "",
        team=certificate.team or "",
        profile=certificate.profile,
        channel=certificate.channel,
        names=certificate.identifiers,
    )


def find(
    tx: Tx,
    principal: Principal,
    filters: Filters,
    sort: Sort,
    limit: int,
    *,
    now: int,
    after: Position | None = None,
    descending: bool = False,
) -> Found:
    """The next page of what matches and ``principal`` may see. A short one may be followed by more."""
    within = principal.reach(PERMISSION).within
    certificates: list[Listed] = []
    ends: list[Position] = []
    for _ in range(_ROUNDS):
        page = search(tx, filters, sort, limit, now=now, within=within, after=after, descending=descending)
        for certificate, end in zip(page.certificates, page.ends, strict=True):
            if not principal.may(PERMISSION, thing_of(certificate)):
                continue
            certificates.append(certificate)
            ends.append(end)
            if len(certificates) == limit:
                more = end != page.ends[-1] or page.after is not None
                return Found(certificates, ends, end if more else None)
        after = page.after
        if after is None or len(page.certificates) < limit:
            break  # the end, or as many rows were looked at as one page may
    return Found(certificates, ends, after)


async def walk(
    store: Store,
    clock: Clock,
    principal: Principal,
    filters: Filters,
    sort: Sort,
    *,
    after: Position | None = None,
    descending: bool = False,
) -> AsyncIterator[Listed]:
    """Everything that matches and ``principal`` may see, in chunks with a snapshot each."""
    now = clock.now()
    while True:
        unit = partial(
            find,
            principal=principal,
            filters=filters,
            sort=sort,
            limit=_CHUNK,
            now=now,
            after=after,
            descending=descending,
        )
        page: Found = await store.scan(unit)
        for certificate in page.certificates:
            yield certificate
        after = page.after
        if after is None:
            return
