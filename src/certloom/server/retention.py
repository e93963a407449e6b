"""Deleting what has been finished for as long as settings say, a little at a time."""

from __future__ import annotations

from functools import partial

import msgspec
import structlog

from certloom.audit import chain
from certloom.clock import Clock
from certloom.jobs import queue
from certloom.settings.schema import Retention as RetentionSettings
from certloom.store import approvals, est, notices
from certloom.store import retention as statements
from certloom.store.base import Store

_DAY = 86_400
_CHUNK = 500
_TRANSACTION_DAYS = 8
"""An EST channel gives the same answer again for seven days at most."""

_log = structlog.get_logger("certloom.retention")


class Pruned(msgspec.Struct):
    """How much went."""

    orders: int = 0
    authorizations: int = 0
    jobs: int = 0
    events: int = 0
    approvals: int = 0
    notices: int = 0
    transactions: int = 0


class Retention:
    """Prunes one store."""

    def __init__(self, store: Store, clock: Clock, settings: RetentionSettings) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings

    async def prune(self) -> Pruned:
        """Delete what is old enough; each transaction is short. Run it every hour."""
        settings, now = self._settings, self._clock.now()
        pruned = Pruned()
        if settings.orders_days:
            pruned.orders = await self._orders(now - settings.orders_days * _DAY)
        if settings.authorizations_days and settings.orders_days:
            # An order shows its authorizations, so they stay as long as it may.
            days = max(settings.authorizations_days, settings.orders_days)
            pruned.authorizations = await self._authorizations(now - days * _DAY)
        if settings.jobs_days:
            pruned.jobs = await self._jobs(now - settings.jobs_days * _DAY)
            pruned.notices = await self._notices(now - settings.jobs_days * _DAY)
        if settings.events_days:
            pruned.events = await chain.prune(
                self._store, (now - settings.events_days * _DAY) * 1000, self._clock.now_ms()
            )
        if settings.approvals_days:
            pruned.approvals = await self._approvals(now - settings.approvals_days * _DAY)
        pruned.transactions = await self._transactions(now - _TRANSACTION_DAYS * _DAY)
        if pruned != Pruned():
            _log.info("pruned", **msgspec.structs.asdict(pruned))
        return pruned

    async def _orders(self, before: int) -> int:
        count = 0
        while ids := await self._store.scan(lambda tx: statements.finished_orders(tx, before, _CHUNK)):
            await self._store.write(partial(statements.delete_orders, ids=ids))
            count += len(ids)
        return count

    async def _authorizations(self, before: int) -> int:
        count, after, end = 0, "", statements.first_id_at(before * 1000)
        while seen := await self._store.scan(
            partial(
                statements.finished_authorizations,
                made_before_id=end,
                expired_before=before,
                after=after,
                limit=_CHUNK,
            )
        ):
            after = seen[-1][0]
            ids = [id for id, finished in seen if finished]
            if ids:
                await self._store.write(
                    partial(statements.delete_authorizations, ids=ids, expired_before=before)
                )
                count += len(ids)
        return count

    async def _approvals(self, before: int) -> int:
        count = 0
        while gone := await self._store.write(lambda tx: approvals.prune(tx, before, _CHUNK)):
            count += gone
        return count

    async def _transactions(self, before: int) -> int:
        count = 0
        while gone := await self._store.write(lambda tx: est.prune(tx, before, _CHUNK)):
            count += gone
        return count

    async def _notices(self, before: int) -> int:
        count = 0
        while gone := await self._store.write(lambda tx: notices.prune(tx, before, _CHUNK)):
            count += gone
        return count

    async def _jobs(self, before: int) -> int:
        count = 0
        while gone := await self._store.write(lambda tx: queue.prune(tx, before, _CHUNK)):
            count += gone
        return count
