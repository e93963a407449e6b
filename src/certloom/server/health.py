"""Whether this process is alive, and whether clients should be sent to it.

*Live* is who answers at all. *Ready* is who can do its work: the store takes writes, the signer answers, the
clock is not behind what was already recorded. What is worth an alert but would not get better by sending
clients elsewhere (CRLs out of date, a linter that fails) is reported and leaves it ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from certloom import __version__
from certloom.server.metrics import Metrics
from certloom.server.rooms import Rooms
from certloom.signing import SigningError
from certloom.status.ocsp_responders import RENEWED_BY
from certloom.store import configuration

_KEEP_SECONDS = 5.0
"""Whoever asks more often gets the same answer: asking must cost nothing."""
_STORE_SECONDS = 5.0
_SIGNER_SECONDS = 3.0
_BEHIND_SECONDS = 300

_log = structlog.get_logger("certloom.health")


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    ok: bool
    required: bool
    """Whether the process is not ready without it."""
    detail: str = ""


class Health(msgspec.Struct, frozen=True):
    """What was found."""

    ready: bool
    version: str
    checks: tuple[Check, ...]


class Doctor:
    """Looks at one process, at most every five seconds."""

    def __init__(self, rooms: Rooms, metrics: Metrics, is_serving: Callable[[], bool]) -> None:
        self._rooms = rooms
        self._metrics = metrics
        self._is_serving = is_serving
        self._checks: tuple[Check, ...] = ()
        self._looked_at = -1e9
        self._looking: asyncio.Task[None] | None = None

    async def look(self) -> Health:
        """How it is."""
        loop = asyncio.get_running_loop()
        if self._looking is None and loop.time() >= self._looked_at + _KEEP_SECONDS:
            self._looking = loop.create_task(self._look())
        if self._looking is not None:
            await asyncio.wait((self._looking,))
        checks = self._checks
        if not self._is_serving():
            checks = (Check("serving", False, True, "stopping"), *checks)
        return Health(all(check.ok for check in checks if check.required), __version__, checks)

    async def _look(self) -> None:
        try:
            store = await self._store()
            signer = await self._signer()
            standing = await self._standing(store.ok)
            self._checks = (store, signer, *standing, self._linter(), *self._ct_logs())
        finally:
            self._looked_at = asyncio.get_running_loop().time()
            self._looking = None

    async def _store(self) -> Check:
        """Read, and write: a disk that is full still reads."""
        store, now = self._rooms.store, self._rooms.clock.now()
        try:
            async with asyncio.timeout(_STORE_SECONDS):
                await store.read(configuration.generation)
                await store.write(lambda tx: configuration.note_health(tx, now))
        except TimeoutError:
            return Check("store", False, True, "the store cannot be used: it does not answer")
        except Exception as error:
            _log.warning("health.store", error=str(error))
            return Check("store", False, True, "the store cannot be used")
        return Check("store", True, True)

    async def _signer(self) -> Check:
        """Whether it answers, and all of its keys can be used."""
        try:
            async with asyncio.timeout(_SIGNER_SECONDS):
                status = await self._rooms.signing.status()
        except TimeoutError:
            return Check("signer", False, True, "the signer does not answer")
        except SigningError as error:
            return Check("signer", False, True, str(error))
        troubled = sorted({f"{key.authority}: {key.trouble}" for key in status.keys if key.trouble})
        return Check("signer", not troubled, False, "; ".join(troubled))

    async def _standing(self, store_is_good: bool) -> tuple[Check, ...]:
        seen = await self._metrics.standing() if store_is_good else None
        if seen is None:
            return ()
        now = self._rooms.clock.now()
        behind = seen.head_at_ms // 1000 - now
        clock = Check("clock", True, True)
        if behind > _BEHIND_SECONDS:
            clock = Check("clock", False, True, f"the clock is {behind} seconds behind the audit log")
        stale = sorted(crls.authority for crls in seen.crls if crls.soonest <= now)
        crls = Check("crls", not stale, False, f"out of date: {', '.join(stale)}" if stale else "")
        ending = sorted({name for name, _, not_after in seen.responders if not_after - now < RENEWED_BY})
        said = f"OCSP responders' certificates end soon: {', '.join(ending)}" if ending else ""
        return clock, crls, Check("ocsp", not ending, False, said)

    def _ct_logs(self) -> tuple[Check, ...]:
        failing = sorted(self._rooms.ct_logs.trouble)
        if not self._rooms.settings.ct.logs:
            return ()
        return (Check("ct", not failing, False, f"logs that fail: {', '.join(failing)}" if failing else ""),)

    def _linter(self) -> Check:
        trouble = self._rooms.linter.trouble
        return Check("linter", not trouble, False, trouble)
