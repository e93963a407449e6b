"""Reading what is known of certificates: where a read is a journey to a database server, those that are asked
for at once are one journey."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from certloom.status.ocsp_lookup import UNKNOWN, Found, look_up
from certloom.status.ocsp_sources import Source
from certloom.store.base import Store, StoreError, Tx

Asked = Sequence[tuple[Source | None, bytes]]
"""Who issued it, None for a stranger, and its serial number."""
_MOST = 64
_AT_ONCE = 2


class Readings:
    """Looks certificates up. On a database server at most two reads are under way, and what comes meanwhile
    waits for the next: each sees all that was committed before it was asked for."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._alone = store.dialect == "sqlite"
        self._waiting: list[tuple[Asked, asyncio.Future[list[Found]]]] = []
        self._running: set[asyncio.Task[None]] = set()
        self.reads = 0
        """Reads of the database so far."""

    async def look_up(self, asked: Asked) -> list[Found]:
        """The status of each. Raises ``StoreError``."""
        if self._alone:
            self.reads += 1
            return await self._store.read(lambda tx: _each(tx, asked))
        future: asyncio.Future[list[Found]] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, future))
        if len(self._running) < _AT_ONCE:
            task = asyncio.create_task(self._run())
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def _run(self) -> None:
        while self._waiting:
            batch = self._waiting[:_MOST]
            del self._waiting[:_MOST]
            await self._read([(asked, future) for asked, future in batch if not future.done()])

    async def _read(self, batch: list[tuple[Asked, asyncio.Future[list[Found]]]]) -> None:
        self.reads += 1
        try:
            found = await self._store.read(lambda tx: [_each(tx, asked) for asked, _ in batch])
        except BaseException as error:
            known = error if isinstance(error, StoreError) else StoreError(f"{type(error).__name__}: {error}")
            for _, future in batch:
                if not future.done():
                    future.set_exception(known)
            if not isinstance(error, Exception):
                raise
            return
        for (_, future), each in zip(batch, found, strict=True):
            if not future.done():
                future.set_result(each)


def _each(tx: Tx, asked: Asked) -> list[Found]:
    return [UNKNOWN if source is None else look_up(tx, source, serial) for source, serial in asked]
