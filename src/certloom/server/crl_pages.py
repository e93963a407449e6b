"""CRLs over plain HTTP: ``/crl/NAME/SHARD.crl`` and kin (see ``authorities.local.URLs``).

The newest ones are kept in memory, as a list may be megabytes long and is fetched by everybody at once;
whether what is kept is still the newest is a point read of its number.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from email.utils import formatdate, parsedate_to_datetime

import msgspec

from certloom.clock import Clock
from certloom.store import crls as statements
from certloom.store.base import Store
from certloom.store.crls import WHOLE, StoredCRL

_FILE = re.compile(r"(full|0|[1-9][0-9]{0,5})(-delta)?\.crl")
_GENERATION = re.compile(r"g([1-9][0-9]{0,5})")
_MOST_KEPT = 128 << 20
"""Octets."""
_FRESH_SECONDS = 300
"""A CRL stays good until nextUpdate, but a revocation should not wait that long in somebody's cache."""
_DELTA_FRESH_SECONDS = 60
_TYPE = b"application/pkix-crl"

Headers = Sequence[tuple[bytes, bytes]]


class CRLAnswer(msgspec.Struct, frozen=True):
    """What is answered."""

    body: bytes
    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    type: bytes = _TYPE


class CRLFiles:
    """Answers for CRLs."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._kept: OrderedDict[tuple[str, int, int, bool], StoredCRL] = OrderedDict()
        self._octets = 0

    async def answer(self, authority: str, path: Sequence[str], headers: Headers) -> CRLAnswer | None:
        """For the path below an authority that there is; None where there is no such file."""
        generation = 1
        if len(path) == 2 and (found := _GENERATION.fullmatch(path[0])) and path[0] != "g1":
            generation = int(found[1])
            path = path[1:]
        if len(path) != 1 or (named := _FILE.fullmatch(path[0])) is None:
            return None
        shard = WHOLE if named[1] == "full" else int(named[1])
        crl = await self._newest(authority, generation, shard, named[2] is not None)
        if crl is None:
            return None
        etag = b'"%x-%x"' % (crl.number, crl.this_update)
        fresh = _DELTA_FRESH_SECONDS if crl.delta else _FRESH_SECONDS
        left = max(0, min(fresh, crl.next_update - self._clock.now()))
        said = (
            (b"cache-control", b"public, max-age=%d" % left),
            (b"etag", etag),
            (b"last-modified", formatdate(crl.this_update, usegmt=True).encode()),
        )
        if _is_known(headers, etag, crl.this_update):
            return CRLAnswer(b"", 304, said)
        return CRLAnswer(crl.der, 200, said)

    async def _newest(self, authority: str, generation: int, shard: int, delta: bool) -> StoredCRL | None:
        key = (authority, generation, shard, delta)
        kept = self._kept.get(key)
        if kept is not None:
            number = await self._store.read(
                lambda tx: statements.number(tx, authority, generation, shard, delta=delta)
            )
            if number == kept.number:
                self._kept.move_to_end(key)
                return kept
            self._forget(key)
        crl = await self._store.read(lambda tx: statements.get(tx, authority, generation, shard, delta=delta))
        if crl is not None and len(crl.der) <= _MOST_KEPT:
            self._forget(key)
            self._kept[key] = crl
            self._octets += len(crl.der)
            while self._octets > _MOST_KEPT:
                self._forget(next(iter(self._kept)))
        return crl

    def _forget(self, key: tuple[str, int, int, bool]) -> None:
        dropped = self._kept.pop(key, None)
        if dropped is not None:
            self._octets -= len(dropped.der)


def _is_known(headers: Headers, etag: bytes, modified: int) -> bool:
    """Whether who asks has it (RFC 9110 section 13.2.2: If-None-Match first)."""
    values = dict(headers)
    wanted = values.get(b"if-none-match")
    if wanted is not None:
        tags = [tag.strip().removeprefix(b"W/") for tag in wanted.split(b",")]
        return etag in tags or b"*" in tags
    since = values.get(b"if-modified-since")
    if since is None:
        return False
    try:
        return parsedate_to_datetime(since.decode("ascii")).timestamp() >= modified
    except (ValueError, OverflowError):  # RFC 9110 section 13.1.3: what is no date is as if it were not there
        return False
