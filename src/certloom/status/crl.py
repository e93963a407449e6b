"""CRLs: one per shard of each generation of an authority, signed ahead of need and soon after a revocation.

Every certificate names its shard's CRL from the first one issued, so that a CRL never grows with the fleet.
Each generation's CRLs are signed by its own key, for as long as it is not retired. There are three kinds:

* *complete* ones for a shard (or for all, where there is only one);
* where the authority says so, the *whole* list of a generation that has several shards;
* where the authority says so, *delta CRLs* to both: what changed since the complete one that they name.

A list is signed again when half of its life is over (looked for periodically), and, by a durable job, when
something in it changed: the delta CRL where there are any, else the complete one. Numbers are
``max(last + 1, now)`` and shared by a list and its deltas (RFC 5280 section 5.2.3): they rise although a
restored backup may not know the last one. A CRL is published only as successor of the very one that was the
newest when it was begun: another that came in between may know of revocations that it does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator

import msgspec
import structlog

from certloom.authorities.base import AuthorityError, CRLSource
from certloom.clock import Clock
from certloom.jobs import Job, Runner, enqueue
from certloom.pki.certificates import issuer_facts
from certloom.pki.crl import REMOVED, CRLTemplate, encode_entries, recheck_crl
from certloom.store import crls as statements
from certloom.store.base import Conflict, Store, Tx
from certloom.store.crls import WHOLE, StoredCRL

_log = structlog.get_logger(__name__)

_CHUNK = 5_000
_RETRIES = (1, 5, 15, 60, 300)
_SLACK = 300
"""Seconds by which another node's clock may be behind: a delta CRL rather says too much."""
_KNOWN_MS = 5_000
"""After so long every node knows of a change of the configuration."""
_LONGEST_PAUSE = 3600
"""A delta CRL lives for some of its periods, at least."""


class List(msgspec.Struct, frozen=True, order=True):
    """One list that is kept current."""

    authority: str
    generation: int
    shard: int
    """``WHOLE`` for all of a generation's shards."""
    delta: bool = False

    def __str__(self) -> str:
        which = "whole" if self.shard == WHOLE else self.shard
        return f"{self.authority}/g{self.generation}/{which}{'-delta' if self.delta else ''}"


class CRLPublisher:
    """Keeps every CRL current."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        runner: Runner,
        sources: Callable[[], dict[str, CRLSource]],
        job_kind: str,
    ) -> None:
        """``sources``: the authorities whose CRLs this process signs, by name."""
        self._store = store
        self._clock = clock
        self._sources = sources
        self._kind = job_kind
        runner.register(job_kind, self._publish_job, retries=_RETRIES)

    async def _publish_job(self, job: Job) -> Callable[[Tx], None] | None:
        """Something in a shard changed: bring the lists that say so up to date."""
        payload = job.payload
        source = self._sources().get(str(payload["authority"]))
        generation = int(payload.get("generation", 1))
        if source is None or generation not in source.crl_generations():
            return None
        shard = int(payload["shard"])
        delta = bool(source.delta_seconds) and not job.payload.get("complete")
        if delta and await self._base(source, generation, shard) is None:
            delta = False
        crl, after = await self._sign(source, List(source.name, generation, shard, delta))

        def unit(tx: Tx) -> None:
            _publish(tx, crl, after)
            where = {"authority": source.name, "generation": generation, "shard": shard}
            if source.delta_seconds and not crl.delta:
                # There are deltas from now on, or this list is of another form than the one before.
                key = f"{source.name}/{generation}/{shard}/delta"
                enqueue(tx, self._clock.now_ms(), self._kind, where, key=key)
            if shard != WHOLE and source.full_crl and source.crl_shards > 1:
                # Another list, and one for all shards: its turn comes when theirs have been.
                whole = {**where, "shard": WHOLE}
                enqueue(tx, self._clock.now_ms(), self._kind, whole, key=f"{source.name}/{generation}/whole")

        return unit

    def sign_again(self, tx: Tx, authority: str, generations: Iterable[int], shards: int) -> None:
        """Have complete lists signed soon although nothing in them changed: the form of an authority's CRLs
        did.

        It takes a moment until all nodes know of that."""
        now = self._clock.now_ms()
        for generation in generations:
            for shard in range(shards):
                where = {"authority": authority, "generation": generation, "shard": shard, "complete": True}
                key = f"{authority}/{generation}/{shard}/form"
                enqueue(tx, now, self._kind, where, due_ms=now + _KNOWN_MS, key=key)

    async def refresh(self) -> int:
        """Sign every CRL that is missing or past half of its life; answer how many. Run periodically."""
        done = 0
        for source in self._sources().values():
            for generation in source.crl_generations():
                done += await self._refresh(source, generation)
        return done

    async def _refresh(self, source: CRLSource, generation: int) -> int:
        there = await self._store.scan(lambda tx: statements.published(tx, source.name, generation))
        now = self._clock.now()
        done = 0
        # Complete ones first: a delta CRL needs one to add to.
        for wanted in sorted(_lists(source, generation), key=lambda each: each.delta):
            found = there.get((wanted.shard, wanted.delta))
            life = _life(source, wanted.delta)
            half = source.delta_seconds if wanted.delta else life // 2
            if found is not None and now < min(found.this_update + half, found.next_update):
                continue
            try:
                crl, after = await self._sign(source, wanted)
                await self._store.write(lambda tx, crl=crl, after=after: _publish(tx, crl, after))  # type: ignore[misc]
                done += 1
            except (AuthorityError, Conflict) as error:
                _log.error("crl.not_published", list=str(wanted), error=str(error))
        if source.delta_seconds:
            # No list that is still good, and so no delta CRL to one, goes back further than this.
            before = now - 2 * source.crl_seconds - _SLACK
            await self._store.write(lambda tx: statements.prune_removed(tx, source.name, generation, before))
        return done

    async def _base(self, source: CRLSource, generation: int, shard: int) -> statements.Published | None:
        """The complete list that a delta CRL adds to."""
        there = await self._store.read(lambda tx: statements.published(tx, source.name, generation))
        return there.get((shard, False))

    async def _sign(self, source: CRLSource, wanted: List) -> tuple[StoredCRL, int | None]:
        """A CRL, and the number of the one that it follows. Raises ``AuthorityError``."""
        now = self._clock.now()
        generation, shard = wanted.generation, wanted.shard
        there = await self._store.read(lambda tx: statements.published(tx, source.name, generation))
        last = there.get((shard, wanted.delta))
        numbers = [found.number for delta in (False, True) if (found := there.get((shard, delta)))]
        number = max(now, source.crl_number_above + 1, *(each + 1 for each in numbers))
        base = there.get((shard, False)) if wanted.delta else None
        if wanted.delta and base is None:
            raise AuthorityError("no-base", f"there is no complete CRL that {wanted} could add to")
        encoded = await self._entries(source, wanted, now, base)
        next_update = now + _life(source, wanted.delta)
        several = source.crl_shards > 1 and shard != WHOLE
        template = CRLTemplate(
            (),
            number,
            now,
            next_update,
            # The only shard is the whole list, and says so by having no issuing distribution point: it then
            # also speaks for certificates without a CRL distribution point, such as a root's own.
            source.crl_url(generation, shard) if several else None,
            None if base is None else base.number,
            source.crl_url(generation, shard, delta=True)
            if source.delta_seconds and not wanted.delta
            else None,
            encoded,
            source.former_crl_urls(generation, shard) if several else (),
        )
        der = await source.sign_crl(generation, template)
        issuer = issuer_facts(source.crl_issuer(generation))
        if wrong := await asyncio.to_thread(recheck_crl, der, template, issuer):
            _log.error("crl.missigned", list=str(wanted), what=wrong)
            raise AuthorityError("recheck-failed", f"the CRL {wanted} is not what was to be said; withheld")
        crl = StoredCRL(
            source.name,
            generation,
            shard,
            wanted.delta,
            number,
            template.base_number,
            der,
            now,
            next_update,
        )
        return crl, last.number if last else None

    async def _entries(
        self, source: CRLSource, wanted: List, now: int, base: statements.Published | None
    ) -> bytes:
        """What a list says, encoded: read in chunks, each in a transaction and on a thread of its own."""
        shards = range(source.crl_shards) if wanted.shard == WHOLE else (wanted.shard,)
        encoded: list[bytes] = []
        for shard in shards:
            if base is not None:
                since = base.this_update - _SLACK
                encoded.append(await self._changes(source.name, wanted.generation, shard, since))
                continue
            # RFC 5280 section 3.3: listed until one regular CRL after expiry; one comes every half of a life.
            after: tuple[int, int] | None = (now - source.crl_seconds - 1, 0)
            while after is not None:
                piece, after = await self._store.scan(_complete(source.name, wanted.generation, shard, after))
                encoded.append(piece)
        return b"".join(encoded)

    async def _changes(self, authority: str, generation: int, shard: int, since: int) -> bytes:
        encoded = []
        after: tuple[int, int] | None = (since - 1, 0)
        while after is not None:
            piece, after = await self._store.scan(_changed(authority, generation, shard, since, after))
            encoded.append(piece)

        def removed(tx: Tx) -> bytes:
            rows = statements.removed_since(tx, authority, generation, shard, since)
            return encode_entries(((serial, at, REMOVED) for serial, at in rows), delta=True)

        encoded.append(await self._store.scan(removed))
        return b"".join(encoded)


Piece = tuple[bytes, tuple[int, int] | None]


def _complete(authority: str, generation: int, shard: int, after: tuple[int, int]) -> Callable[[Tx], Piece]:
    def read(tx: Tx) -> Piece:
        rows, following = statements.revoked(tx, authority, generation, shard, after, _CHUNK)
        return encode_entries(rows), following

    return read


def _changed(
    authority: str, generation: int, shard: int, since: int, after: tuple[int, int]
) -> Callable[[Tx], Piece]:
    def read(tx: Tx) -> Piece:
        rows, following = statements.revoked_since(tx, authority, generation, shard, since, after, _CHUNK)
        return encode_entries(rows), following

    return read


def _lists(source: CRLSource, generation: int) -> Iterator[List]:
    """All that a generation has."""
    shards = list(range(source.crl_shards))
    if source.full_crl and source.crl_shards > 1:
        shards.append(WHOLE)
    for shard in shards:
        yield List(source.name, generation, shard)
        if source.delta_seconds:
            yield List(source.name, generation, shard, delta=True)


def _life(source: CRLSource, delta: bool) -> int:
    """Seconds from thisUpdate to nextUpdate. A delta CRL outlives its successor by one more period, or an
    hour."""
    if not delta:
        return source.crl_seconds
    return source.delta_seconds + max(source.delta_seconds, _LONGEST_PAUSE)


def _publish(tx: Tx, crl: StoredCRL, after: int | None) -> None:
    """Raises ``Conflict`` when another was published meanwhile: each may lack what the other knows."""
    if not statements.put(tx, crl, after):
        raise Conflict(f"CRL {crl.authority}/{crl.shard} number {crl.number} does not follow the newest")
