"""CRLs: one per shard of each authority, signed ahead of need and soon after a revocation.

Every certificate names its shard's CRL from the first one issued, so that a CRL never grows with the fleet.
A shard is signed again when a certificate in it is revoked (a durable job) and when half of its life is over
(looked for periodically). Numbers are ``max(last + 1, now)``: they rise although a restored backup may not
know the last one (RFC 5280 section 5.2.3). A CRL is published only as successor of the very one that was the
newest when it was begun: another that came in between may know of revocations that it does not.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from certloom.authorities.base import AuthorityError, CRLSource
from certloom.clock import Clock
from certloom.jobs import Job, Runner
from certloom.pki.crl import CRLEntry, CRLTemplate
from certloom.store import certificates as certificate_statements
from certloom.store import crls as statements
from certloom.store.base import Conflict, Store, Tx
from certloom.store.crls import StoredCRL

_log = structlog.get_logger(__name__)

_CHUNK = 5000
_RETRIES = (1, 5, 15, 60, 300)


class CRLPublisher:
    """Keeps every shard's CRL current."""

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
        runner.register(job_kind, self._publish_job, retries=_RETRIES)

    async def _publish_job(self, job: Job) -> Callable[[Tx], None] | None:
        source = self._sources().get(str(job.payload["authority"]))
        if source is None:
            return None
        crl, after = await self._sign(source, int(job.payload["shard"]))

        return lambda tx: _publish(tx, crl, after)

    async def refresh(self) -> int:
        """Sign every CRL that is missing or past half of its life; answer how many. Run periodically."""
        return sum([await self._refresh(source) for source in self._sources().values()])

    async def _refresh(self, source: CRLSource) -> int:
        deadlines = await self._store.scan(lambda tx: statements.deadlines(tx, source.name, 1))
        renew_before = self._clock.now() + source.crl_seconds // 2
        due = [
            shard for shard in range(source.crl_shards) if deadlines.get((shard, False), 0) <= renew_before
        ]
        for shard in due:
            try:
                await self._publish_now(source, shard)
            except (AuthorityError, Conflict) as error:
                _log.error("crl.not_published", authority=source.name, shard=shard, error=str(error))
        return len(due)

    async def _publish_now(self, source: CRLSource, shard: int) -> None:
        crl, after = await self._sign(source, shard)
        await self._store.write(lambda tx: _publish(tx, crl, after))

    async def _sign(self, source: CRLSource, shard: int) -> tuple[StoredCRL, int | None]:
        """A CRL, and the number of the one that it follows."""
        now = self._clock.now()
        last = await self._store.read(lambda tx: statements.get(tx, source.name, 1, shard))
        number = max(last.number + 1 if last else 1, now)
        # RFC 5280 section 3.3: listed until one regular CRL after expiry; one comes every half of a life.
        expired_from = now - source.crl_seconds
        entries = await self._store.scan(lambda tx: self._entries(tx, source.name, shard, expired_from))
        next_update = now + source.crl_seconds
        # The only shard is the whole list, and says so by having no issuing distribution point: it then also
        # speaks for certificates without a CRL distribution point, such as a root's own.
        url = source.crl_url(1, shard) if source.crl_shards > 1 else None
        template = CRLTemplate(tuple(entries), number, now, next_update, url)
        der = await source.sign_crl(1, template)
        crl = StoredCRL(source.name, 1, shard, False, number, None, der, now, next_update)
        return crl, last.number if last else None

    def _entries(self, tx: Tx, authority: str, shard: int, expired_from: int) -> list[CRLEntry]:
        entries: list[CRLEntry] = []
        after_id = 0
        while True:
            rows = certificate_statements.revoked_in_shard(
                tx, authority, shard, expired_from, after_id, _CHUNK
            )
            entries.extend(CRLEntry(serial, revoked, reason) for _, serial, revoked, reason in rows)
            if len(rows) < _CHUNK:
                return entries
            after_id = rows[-1][0]


def _publish(tx: Tx, crl: StoredCRL, after: int | None) -> None:
    """Raises ``Conflict`` when another was published meanwhile: each may lack what the other knows."""
    if not statements.put(tx, crl, after):
        raise Conflict(f"CRL {crl.authority}/{crl.shard} number {crl.number} does not follow the newest")
