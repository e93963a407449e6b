"""OCSP: what is answered to a request (RFC 6960, RFC 9654, RFC 9919).

An answer about one certificate, to a request without a nonce, is kept, and given again until half of its
life is over; before that, those that were asked for are signed anew. What a certificate's row says decides,
not how long ago something was signed: on SQLite, after a commit that changes any status, answers are compared
with their rows before they are given again; on a database that nodes share, each looks every second at what
has changed lately.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from certloom.authorities.base import AuthorityError
from certloom.authorities.local import LocalAuthority
from certloom.clock import Clock
from certloom.pki import ocsp
from certloom.pki.ocsp import CertID, CertStatus, OCSPError, OCSPRequest, SingleResponse
from certloom.signing import Signing, SigningError, SigningRefused
from certloom.status.ocsp_cache import MOST_OCTETS, Answer, Cache, Entry
from certloom.status.ocsp_lookup import Found
from certloom.status.ocsp_reading import Readings
from certloom.status.ocsp_responders import Responders
from certloom.status.ocsp_signing import Batches
from certloom.status.ocsp_sources import Source, Sources, cert_ids, key_hash, knows_hash, read_sources
from certloom.store import ocsp as statements
from certloom.store.authorities import StoredGeneration
from certloom.store.base import Store, StoreError
from certloom.store.certificates import STATUS_CHANGED

_log = structlog.get_logger(__name__)

MAX_AGE = 300
"""Seconds that others may keep an answer: a revocation should not wait longer in a cache."""
_NOT_ISSUED_SECONDS = 300
"""How long an answer is good that the next certificate may make wrong."""
_CHUNK = 64
_RENEW_AGAIN = 10
_WINDOW = 120
"""Seconds within which what changed is seen although another node's clock is off, or its commit took long."""
_MOST_CHANGES = 2000
_QUIET = 1.0
"""Seconds between lines of the log about answers that failed."""
_BLIND = 5.0
"""Seconds without a look at what changed after which answers are not given without asking the database."""

_NAMES = {
    ocsp.MALFORMED_REQUEST: "malformedRequest",
    ocsp.INTERNAL_ERROR: "internalError",
    ocsp.TRY_LATER: "tryLater",
    ocsp.UNAUTHORIZED: "unauthorized",
}
_UNSIGNED = {status: Answer(ocsp.unsuccessful(status), name) for status, name in _NAMES.items()}


class OCSPResponder:
    """Answers for all authorities of this process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        signing: Signing,
        node: str,
        authorities: Callable[[], Mapping[str, LocalAuthority]],
        generations: Callable[[str], tuple[StoredGeneration, ...]],
        cache_octets: int = MOST_OCTETS,
    ) -> None:
        """``authorities``: those of our own, by name. ``generations``: those of each, oldest first."""
        self._store = store
        self._clock = clock
        self._authorities = authorities
        self._generations = generations
        self.responders = Responders(store, clock, signing, node)
        self.batches = Batches(signing)
        self.readings = Readings(store)
        self.cache = Cache(cache_octets)
        self.counts: Counter[tuple[str, str]] = Counter()
        """Answers by what they say (``good``, ``revoked``, ``unknown``, ``several`` or a response status) and
        by where they came from: ``ahead`` (they had been signed), ``signed`` or ``unsigned``."""
        self._sources = Sources((), {})
        self._shared = store.dialect != "sqlite"
        self._changes = 0
        """Counts what may have made answers wrong."""
        self._barrier = 0
        """The same for what was found by looking, where only the answers concerned were dropped."""
        self._seen: set[tuple[str, int, bytes, int, int | None, int | None]] = set()
        self._sighted_until = 0.0
        self._quiet_until = 0.0
        self._following = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None
        self._signing_now: dict[tuple[bytes, CertStatus], asyncio.Task[Answer]] = {}
        self._next_renewal = 0
        store.listen(STATUS_CHANGED, self._on_change)

    # -- whom it answers for -----------------------------------------------------------------------------

    def load(self) -> None:
        """Take up the authorities as they are now; after they were read."""
        authorities = self._authorities()
        found = read_sources(authorities, self._generations)
        before = {(s.authority, s.generation): s for s in self._sources.all}
        after = {(s.authority, s.generation): s for s in found}
        changed = {place for place in before if after.get(place) != before[place]}
        self._sources = Sources(found, {name: a.generation for name, a in authorities.items()})
        if changed:
            self._changes += 1
            self.cache.drop(changed)

    async def keep(self) -> None:
        """See to it that every generation has a responder whose certificate is good for long. Periodically.

        What fails is logged: one authority's token does not keep the others from theirs.
        """
        now = self._clock.now()
        for source in self._sources.all:
            if source.issuer.not_after <= now:
                continue
            try:
                if await self.responders.keep(source):
                    self.cache.drop({(source.authority, source.generation)})
            except (SigningError, AuthorityError, StoreError) as error:
                _log.error(
                    "ocsp.no_responder",
                    authority=source.authority,
                    generation=source.generation,
                    error=str(error),
                )
        await self.responders.forget_expired()

    def _source(self, cert_id: CertID) -> Source | None:
        source = self._sources.of(cert_id)
        if source is None or source.issuer.not_after <= self._clock.now():
            return None
        return source

    # -- answering ---------------------------------------------------------------------------------------

    def ahead(self, request: bytes) -> Answer | None:
        """The answer to this request, if it has been signed already and is certain to be right."""
        entry = self.cache.get(request)
        if entry is None or self._clock.now() >= entry.until or not self._is_certain(entry):
            return None
        entry.asked = True
        self.counts[entry.answer.label, "ahead"] += 1
        return entry.answer

    def _is_certain(self, entry: Entry) -> bool:
        if entry.checked != self._changes:
            return False
        return not self._shared or time.monotonic() < self._sighted_until

    async def answer(self, request: bytes, authority: str | None = None) -> Answer:
        """The answer to a DER OCSPRequest, which came to the address of that authority, if to any one's."""
        found = self.ahead(request)
        if found is not None:
            return found
        try:
            asked = ocsp.decode_request(request)
        except OCSPError:
            return self._unsigned(ocsp.MALFORMED_REQUEST)
        try:
            if len(asked.certificates) == 1 and asked.nonce is None:
                source = self._source(asked.certificates[0])
                if source is not None:
                    return await self._one(source, asked.certificates[0])
            return await self._several(asked, authority)
        except (SigningRefused, AuthorityError) as error:
            if self._is_to_be_told():
                _log.error("ocsp.not_signed", code=error.code, error=str(error))
            return self._unsigned(ocsp.INTERNAL_ERROR)
        except (SigningError, StoreError) as error:
            if self._is_to_be_told():
                _log.warning("ocsp.not_now", error=str(error))
            return self._unsigned(ocsp.TRY_LATER)

    def _is_to_be_told(self) -> bool:
        """Whoever asks often while something is wrong does not fill the log; the metrics count all."""
        now = time.monotonic()
        if now < self._quiet_until:
            return False
        self._quiet_until = now + _QUIET
        return True

    def _unsigned(self, status: int) -> Answer:
        answer = _UNSIGNED[status]
        self.counts[answer.label, "unsigned"] += 1
        return answer

    async def _one(self, source: Source, cert_id: CertID) -> Answer:
        request = ocsp.plain_request(cert_id.der)
        found = self.ahead(request)  # the request as it came was longer: a requestor's name, a signature
        if found is not None:
            return found
        now, changes, barrier = self._clock.now(), self._changes, self._barrier
        (status,) = await self.readings.look_up(((source, cert_id.serial),))
        entry = self.cache.get(request)
        if entry is not None and entry.status == status.status:
            entry.checked = max(entry.checked, changes)
            if now < entry.until:
                entry.asked = True
                self.counts[entry.answer.label, "ahead"] += 1
                return entry.answer
        elif entry is not None:
            self.cache.pop(request)
            entry = None
        # Whoever asks the same at the same time, and is to be told the same, is given the same.
        task = self._signing_now.get((request, status.status))
        if task is None:
            task = asyncio.create_task(
                self._sign_one(request, source, cert_id, status, now, (changes, barrier))
            )
            self._signing_now[request, status.status] = task
            task.add_done_callback(partial(self._signed_one, (request, status.status)))
        try:
            answer = await asyncio.shield(task)
        except (SigningError, AuthorityError, StoreError):
            if entry is None or now >= entry.answer.next_update:
                raise
            # The signer is away; this was signed long ago, says what is so now, and has not run out.
            self.counts[entry.answer.label, "ahead"] += 1
            return entry.answer
        self.counts[answer.label, "signed"] += 1
        return answer

    def _signed_one(self, key: tuple[bytes, CertStatus], task: asyncio.Task[Answer]) -> None:
        self._signing_now.pop(key, None)
        if not task.cancelled():
            task.exception()  # whoever awaits it is told

    async def _sign_one(
        self,
        request: bytes,
        source: Source,
        cert_id: CertID,
        found: Found,
        read_at: int,
        as_of: tuple[int, int],
    ) -> Answer:
        answer = await self._sign(source, ((cert_id, source, found),), read_at, None)
        # Where something changed meanwhile it is told once, being as of when it was asked, and not kept.
        if found.lasting and as_of == (self._changes, self._barrier):
            entry = Entry(answer, source, cert_id, found.status, as_of[0])
            self.cache.put(request, entry)
            self._next_renewal = min(self._next_renewal, entry.renew_from)
        return answer

    async def _several(self, asked: OCSPRequest, authority: str | None) -> Answer:
        places = [(cert_id, self._source(cert_id)) for cert_id in asked.certificates]
        signer = next((source for _, source in places if source is not None), None)
        if (
            signer is None
            and authority is not None
            and not any(knows_hash(cert_id.hash_algorithm) for cert_id, _ in places)
        ):
            # Not to be found by a hash function that is not known: whose it is tells the address.
            signer = self._sources.current(authority)
        if signer is None:
            return self._unsigned(ocsp.UNAUTHORIZED)
        now = self._clock.now()
        statuses = await self.readings.look_up([(source, cert_id.serial) for cert_id, source in places])
        singles = [
            (cert_id, source, found) for (cert_id, source), found in zip(places, statuses, strict=True)
        ]
        answer = await self._sign(signer, singles, now, asked.nonce)
        self.counts[answer.label, "signed"] += 1
        return answer

    async def _sign(
        self,
        signer: Source,
        singles: Sequence[tuple[CertID, Source | None, Found]],
        read_at: int,
        nonce: bytes | None,
    ) -> Answer:
        """A signed answer. Raises ``SigningError``, ``AuthorityError`` or ``StoreError``."""
        responder = await self.responders.get(signer)
        now = self._clock.now()
        seconds = signer.options.ocsp_seconds
        written = [
            SingleResponse(
                cert_id.der,
                found.status,
                read_at,
                # No answer outlives the certificate of who signed it.
                min(read_at + (seconds if found.lasting else _NOT_ISSUED_SECONDS), responder.not_after),
                _cutoff(source, found, now),
            )
            for cert_id, source, found in singles
        ]
        next_update = min(single.next_update for single in written)
        if next_update <= now:
            raise AuthorityError("expired", "the OCSP responder's certificate ends now")
        tbs = ocsp.tbs_response(
            key_hash(responder.spki),
            now,
            tuple(written),
            nonce=nonce,
            extended_revoke=any(found.extended for _, _, found in singles),
        )
        signature = await self.batches.sign(responder.key_id, tbs)
        body = ocsp.response(tbs, responder.algorithm, signature, (responder.certificate,))
        label = singles[0][2].status.kind if len(singles) == 1 else "several"
        keep = nonce is None and all(found.lasting for _, _, found in singles)
        max_age = min(MAX_AGE, (next_update - read_at) // 2) if keep else 0
        return Answer(body, label, read_at, next_update, max_age)

    # -- keeping answers right and young -----------------------------------------------------------------

    def _on_change(self) -> None:
        """A unit of this process has changed some certificate's status."""
        if not self._shared:
            self._changes += 1
        elif self._follower is None or self._follower.done():
            self._follower = asyncio.get_running_loop().create_task(self._follow_now())

    async def _follow_now(self) -> None:
        try:
            await self.follow()
        except StoreError as error:
            _log.warning("ocsp.not_followed", error=str(error))

    async def follow(self) -> None:
        """Forget answers that other processes have made wrong. Every second, where nodes share a database."""
        async with self._following:
            began, since = time.monotonic(), self._clock.now() - _WINDOW
            rows = await self._store.read(lambda tx: statements.changed_since(tx, since, _MOST_CHANGES + 1))
            if len(rows) > _MOST_CHANGES:
                self._changes += 1
                self._seen = set()
            else:
                seen = set(rows)
                new = seen - self._seen
                self._seen = seen
                if new:
                    self._barrier += 1
                places = {(s.authority, s.generation): s for s in self._sources.all} if new else {}
                for authority, generation, serial, *_ in new:
                    source = places.get((authority, generation))
                    if source is not None:
                        for cert_id in cert_ids(source, serial):
                            self.cache.pop(ocsp.plain_request(cert_id))
            self._sighted_until = began + _BLIND

    async def renew(self) -> int:
        """Sign anew what was asked for and is nearly half of its life old, and forget what nobody asked for;
        answers how many were signed. Periodically."""
        now = self._clock.now()
        if now < self._next_renewal:
            return 0
        soonest, due = now + 3600, []
        for request, entry in self.cache.items():
            if now < entry.renew_from:
                soonest = min(soonest, entry.renew_from)
            elif entry.asked:
                due.append((request, entry))
            elif now >= entry.until:
                self.cache.pop(request)
            else:
                soonest = min(soonest, entry.until)
        self._next_renewal = soonest
        done = 0
        for start in range(0, len(due), _CHUNK):
            done += await self._renew(due[start : start + _CHUNK])
        if done < len(due):
            self._next_renewal = min(self._next_renewal, now + _RENEW_AGAIN)
        return done

    async def _renew(self, due: Sequence[tuple[bytes, Entry]]) -> int:
        as_of, now = (self._changes, self._barrier), self._clock.now()
        asked = [(entry.source, entry.cert_id.serial) for _, entry in due]
        try:
            statuses = await self.readings.look_up(asked)
        except StoreError:
            return 0
        outcomes = await asyncio.gather(
            *(
                self._sign_one(request, entry.source, entry.cert_id, found, now, as_of)
                for (request, entry), found in zip(due, statuses, strict=True)
            ),
            return_exceptions=True,
        )
        failed = [o for o in outcomes if isinstance(o, BaseException)]
        if failed:
            _log.warning("ocsp.not_renewed_ahead", count=len(failed), error=str(failed[0]))
        return len(outcomes) - len(failed)


def _cutoff(source: Source | None, found: Found, produced_at: int) -> int | None:
    """The archive cutoff (RFC 6960 section 4.4.4) of what is known, where the authority says for how long."""
    if source is None or not found.lasting or not source.options.ocsp_archive_seconds:
        return None
    return produced_at - source.options.ocsp_archive_seconds
