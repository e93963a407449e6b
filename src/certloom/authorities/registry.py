"""Authorities as they are stored, made into ones that issue."""

from __future__ import annotations

from certloom.authorities.base import Authority
from certloom.authorities.ct import CTLogs
from certloom.authorities.lint import Linter
from certloom.authorities.local import KIND, LocalAuthority, URLs
from certloom.authorities.serials import SerialPool
from certloom.clock import Clock
from certloom.signing import Signing
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority, StoredGeneration, StoredKey
from certloom.store.base import Store, StoreError, Tx


class UnknownKey(StoreError):
    """An authority's key was not there when keys were read."""


class Authorities:
    """Makes authorities of rows. What outlives a change of a row, such as reserved serials, is kept here."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        signing: Signing,
        linter: Linter,
        urls: URLs,
        node: str,
        logs: CTLogs | None = None,
    ) -> None:
        """``logs`` are those that certificates can be logged in; None: there are none."""
        self._store = store
        self._clock = clock
        self._signing = signing
        self._linter = linter
        self._urls = urls
        self._node = node
        self._logs = logs
        self._generations: dict[str, tuple[StoredGeneration, ...]] = {}
        self._key_ids: set[str] = set()
        self._pools: dict[str, SerialPool] = {}
        self.local: dict[str, LocalAuthority] = {}
        """The authorities of our own, by name: those whose CRLs and OCSP answers we sign."""

    async def load(self) -> None:
        """Read generations and sealed keys, so that ``make`` need not wait for the database."""

        def unit(tx: Tx) -> tuple[list[StoredGeneration], list[StoredKey]]:
            found = statements.generations(tx)
            keys = [statements.key(tx, g.key_id) for g in found if g.key_id is not None]
            return found, [key for key in keys if key is not None]

        found, keys = await self._store.scan(unit)
        by_name: dict[str, list[StoredGeneration]] = {}
        for generation in found:
            by_name.setdefault(generation.authority, []).append(generation)
        self._generations = {name: tuple(listed) for name, listed in by_name.items()}
        for key in keys:
            self._signing.know(key.id, key.sealed)
        self._key_ids = {key.id for key in keys}
        for authority in self.local.values():
            authority.forget_chains()

    def generations(self, authority: str) -> tuple[StoredGeneration, ...]:
        """Those of one authority, oldest first, as they were read last."""
        return self._generations.get(authority, ())

    def make(self, row: StoredAuthority) -> Authority:
        """What issues for this row. Raises ``StoreError`` where its kind is not to be had, ``UnknownKey``
        where its key is newer than what was read."""
        if row.kind != KIND:
            raise StoreError(f"authority {row.name}: nothing here can issue for the kind {row.kind!r}")
        if row.key_id not in self._key_ids:
            raise UnknownKey(f"authority {row.name}: its key {row.key_id} is not to be had")
        pool = self._pools.get(row.name)
        if pool is None:
            pool = self._pools[row.name] = SerialPool(self._store, self._clock, row.name, self._node)
        authority = LocalAuthority(
            row, self.generations, self._signing, pool, self._linter, self._clock, self._urls, self._logs
        )
        self.local[row.name] = authority
        return authority
