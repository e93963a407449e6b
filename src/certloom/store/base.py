"""The store as the rooms above it see it.

All work on the database is a *unit*: a plain function that takes a ``Tx``. ``Store.write(unit)`` runs it in
one transaction and returns, with the unit's result, only when that transaction is durable. Units compose by
calling one another with the same ``Tx``, which is how a protocol's record and the certificate it led to
are committed together. A unit may run twice (a serialization failure is retried), so it must touch nothing
but its ``Tx``; whatever it read before it was called it must re-check inside.

Statements are written in the dialect both databases share, with ``?`` for parameters. Columns hold
``int``, ``str``, ``bytes`` or ``None``. Times are Unix seconds UTC; a column in milliseconds ends in ``_ms``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from certloom.store.timing import CommitTimes

T = TypeVar("T")
Row = tuple[Any, ...]


class StoreError(Exception):
    """The database cannot be used (unreachable, locked by another process, full, unsafe settings)."""


class Conflict(StoreError):
    """A unique constraint refused a row. The unit it came from has been rolled back as a whole."""


class Tx(Protocol):
    """One transaction, for the life of one unit."""

    @property
    def for_update(self) -> str:
        """`` FOR UPDATE`` where rows must be locked to be re-checked, or empty where one writer suffices."""
        ...

    def one(self, sql: str, params: Sequence[Any] = ()) -> Row | None:
        """The first row, or None."""
        ...

    def all(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """Every row."""
        ...

    def run(self, sql: str, params: Sequence[Any] = ()) -> int:
        """Run a statement and return how many rows it changed. Raises ``Conflict`` on a unique violation."""
        ...

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement once for each row of parameters."""
        ...

    def signal(self, topic: str) -> None:
        """Once this unit has committed, call whoever listens to ``topic`` (``Store.listen``)."""
        ...


class Store(Protocol):
    """A database of either kind."""

    dialect: str
    """``sqlite`` or ``postgresql``."""
    times: CommitTimes
    """How long commits took."""

    @property
    def waiting(self) -> int:
        """Units that wait for their turn, about."""
        ...

    async def read(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit of point reads. On SQLite it runs in the event loop, so it must be short."""
        ...

    async def scan(self, unit: Callable[[Tx], T]) -> T:
        """Run a long read on a reader thread. Read in chunks: a long snapshot stops WAL checkpoints."""
        ...

    async def write(self, unit: Callable[[Tx], T]) -> T:
        """Run a unit in a transaction; return when it is durable. Any exception rolls the whole unit back."""
        ...

    def listen(self, topic: str, callback: Callable[[], None]) -> None:
        """Call ``callback`` in the event loop after the commit of any unit that signalled ``topic``."""
        ...

    async def close(self) -> None:
        """Finish what is queued, then close."""
        ...
