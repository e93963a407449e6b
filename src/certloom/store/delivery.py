"""Bringing what a worker thread found back into the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any


class Listeners:
    """Who in this process wants to know of which commits. Used in the event loop only."""

    def __init__(self) -> None:
        self._callbacks: dict[str, list[Callable[[], None]]] = {}

    def add(self, topic: str, callback: Callable[[], None]) -> None:
        """Have ``callback`` called after every commit that signalled ``topic``."""
        self._callbacks.setdefault(topic, []).append(callback)

    def call(self, topics: Iterable[str]) -> None:
        """Call everybody who listens to one of these."""
        for topic in topics:
            for callback in self._callbacks.get(topic, ()):
                callback()


def settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its outcome, unless whoever waited for it has gone away."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    elif isinstance(error, Exception) and not isinstance(error, StopIteration):
        future.set_exception(error)
    else:
        # What only ends a thread or a generator must not end the event loop.
        future.set_exception(RuntimeError(f"a unit raised {error!r}"))
