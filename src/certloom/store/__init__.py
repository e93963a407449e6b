"""The database: SQLite for one process, PostgreSQL for many, behind one small interface (``store.base``)."""

from __future__ import annotations

from certloom.clock import Clock
from certloom.store.base import Conflict, Row, Store, StoreError, Tx
from certloom.store.postgresql import PostgreSQLStore
from certloom.store.sqlite import SQLiteStore

__all__ = ["Conflict", "Row", "Store", "StoreError", "Tx", "open_store"]

_SQLITE = "sqlite:///"


async def open_store(url: str, *, clock: Clock, connections: int = 8) -> Store:
    """Open the database at ``url`` and bring its schema up to date.

    ``sqlite:///PATH`` is a file: what follows the third slash is the path as it stands, so an absolute path
    gives four slashes. ``postgresql://...`` is a libpq connection URI; ``connections`` bounds how many units
    run on it at once. Raises ``StoreError`` when the database cannot be used or could lose what it
    was told to keep.
    """
    if url.startswith(_SQLITE) and len(url) > len(_SQLITE):
        return await SQLiteStore.open(url[len(_SQLITE) :], clock=clock)
    if url.startswith(("postgresql://", "postgres://")):
        return await PostgreSQLStore.open(url, clock=clock, connections=connections)
    raise StoreError("database.url must be sqlite:///PATH or postgresql://...")
