"""A pipeline with notices wired in, as the server wires it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from certloom.audit import SYSTEM, chain
from certloom.clock import ManualClock
from certloom.notifications import Mailer, Notices, Webhooks
from certloom.notifications.webhooks import EVENT_TYPES, WebhookTerms
from certloom.outbound.guard import AddressGuard
from certloom.outbound.http import HTTPClient
from certloom.outbound.resolver import Resolver
from certloom.settings.schema import Mail
from certloom.store import Store
from certloom.store.base import Tx
from certloom.store.notices import Notice, webhook_target
from certloom.store.webhooks import StoredWebhook
from tests.core import DATA_KEY, Core, core

BASE = "https://pki.test"


class Telling:
    """The parts, as wired."""

    def __init__(self, parts: Core, webhooks: Webhooks, notices: Notices, clock: ManualClock) -> None:
        self.core = parts
        self.webhooks = webhooks
        self.notices = notices
        self.clock = clock

    async def webhook(self, url: str, name: str = "hook", **terms: Any) -> tuple[StoredWebhook, str]:
        wanted = WebhookTerms(**({"url": url, "events": EVENT_TYPES} | terms))
        return await self.core.store.write(lambda tx: self.webhooks.create(tx, name, wanted, SYSTEM))

    async def test(self, webhook: StoredWebhook) -> Notice:
        return await self.core.store.write(lambda tx: self.webhooks.test(tx, webhook, SYSTEM))

    async def follow(self) -> int:
        """What the server does every second."""
        await chain.link(self.core.store)
        return await self.notices.follow()

    async def until(self, good: Callable[[], bool]) -> None:
        """Wait for what happens by jobs."""
        for _ in range(500):
            if good():
                return
            self.core.runner.wake()
            await asyncio.sleep(0.02)
        raise AssertionError("it never came to that")

    async def settled(self, target: str = webhook_target("hook")) -> list[tuple[str, str]]:
        """(event, state) of a target's notices, the oldest first, once nothing is due or under way."""

        def look(tx: Tx) -> tuple[bool, list[tuple[str, str]]]:
            now_ms = self.clock.now_ms()
            open_ = tx.one(
                "SELECT 1 FROM jobs WHERE kind LIKE 'notifications.%' AND"
                " (state = 'running' OR (state = 'waiting' AND due_ms <= ?))",
                (now_ms,),
            )
            due = tx.one("SELECT 1 FROM notices WHERE state = 'waiting' AND due_ms <= ?", (now_ms,))
            rows = tx.all("SELECT kind, state FROM notices WHERE target = ? ORDER BY id", (target,))
            return open_ is None and due is None, [(row[0], row[1]) for row in rows]

        for _ in range(500):
            idle, found = await self.core.store.read(look)
            if idle:
                return found
            self.core.runner.wake()
            await asyncio.sleep(0.02)
        raise AssertionError(f"never settled: {found}")


@asynccontextmanager
async def telling(
    store: Store, clock: ManualClock, mail: Mail | None = None, *, run_jobs: bool = True
) -> AsyncIterator[Telling]:
    """Everything up to the pipelines with notices; jobs run unless told otherwise."""
    client = HTTPClient(Resolver(), AddressGuard(allow=["127.0.0.0/8"]))
    async with core(store, clock) as parts:
        webhooks = Webhooks(store, clock, DATA_KEY, client)
        mailer = Mailer(mail) if mail is not None else None
        notices = Notices(store, clock, parts.runner, webhooks, mailer, BASE)
        parts.approvals.on_waiting = notices.waiting
        parts.approvals.on_decided = notices.decided
        if run_jobs:
            await parts.runner.start()
        try:
            yield Telling(parts, webhooks, notices, clock)
        finally:
            if run_jobs:
                await parts.runner.stop(2)
            notices.close()
            await client.close()
