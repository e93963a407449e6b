"""Serial numbers: 128 bits from the CSPRNG, durably reserved before anything is signed under them.

Reserving one serial at a time would cost a synchronous commit per certificate, so a pool reserves many in one
unit and hands them out. What a crash leaves reserved is burned when the node (or, on a shared database, any
node, after ``LIFE``) finds it: something may have been signed under it, so it is never used again and counts
as revoked. A reservation older than half of ``LIFE`` is not handed out any more, so that no node can burn a
serial that another is about to use.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque

from certloom.clock import Clock
from certloom.store import authorities as statements
from certloom.store.base import Store

LIFE = 3600
"""Seconds after which a reservation without a certificate is burned, on a database that nodes share."""
_BATCH = 128
_LOW = 32


def new_serial() -> bytes:
    """16 octets, the first never zero, so that all serials have one length (RFC 5280 section 4.1.2.2)."""
    while True:
        serial = os.urandom(16)
        if serial[0]:
            return serial


class SerialPool:
    """Reserved serials of one authority in this process."""

    def __init__(self, store: Store, clock: Clock, authority: str, node: str) -> None:
        self._store = store
        self._clock = clock
        self._authority = authority
        self._node = node
        self._ready: deque[tuple[int, bytes]] = deque()
        self._refilling: asyncio.Task[None] | None = None

    async def take(self) -> bytes:
        """A reserved serial, for one certificate. Raises ``StoreError`` when none can be reserved."""
        while True:
            self._drop_stale()
            if len(self._ready) < _LOW and self._refilling is None:
                self._refilling = asyncio.create_task(self._refill())
                self._refilling.add_done_callback(self._refilled)
            if self._ready:
                return self._ready.popleft()[1]
            assert self._refilling is not None
            await asyncio.shield(self._refilling)

    def _drop_stale(self) -> None:
        oldest_fit = self._clock.now() - LIFE // 2
        while self._ready and self._ready[0][0] < oldest_fit:
            self._ready.popleft()

    async def _refill(self) -> None:
        now = self._clock.now()
        serials = [new_serial() for _ in range(_BATCH)]
        await self._store.write(
            lambda tx: statements.reserve_serials(tx, self._authority, serials, self._node, now)
        )
        self._ready.extend((now, serial) for serial in serials)

    def _refilled(self, task: asyncio.Task[None]) -> None:
        self._refilling = None
        if not task.cancelled():
            task.exception()  # whoever awaits the task is told; a background refill is simply tried again

    async def burn(self, serial: bytes) -> None:
        """Mark a serial under which something was signed that will not be recorded."""
        await self._store.write(lambda tx: statements.burn_serial(tx, self._authority, serial))

    async def close(self) -> None:
        """Give back what was never signed under."""
        if self._refilling is not None:
            await asyncio.wait([self._refilling])
        unused = [serial for _, serial in self._ready]
        self._ready.clear()
        if unused:
            await self._store.write(lambda tx: statements.release_serials(tx, self._authority, unused))


async def burn_abandoned(store: Store, clock: Clock, *, alone: bool) -> int:
    """Burn what crashed processes left reserved; answer how many.

    ``alone``: no other process can be using this database, and this one has reserved nothing yet.
    """
    reserved_before = clock.now() + 1 if alone else clock.now() - LIFE
    return await store.write(lambda tx: statements.burn_reserved(tx, reserved_before))
