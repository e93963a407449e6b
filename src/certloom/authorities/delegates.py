"""Delegates: keys that sign in an authority's name without being its own.

An OCSP responder is one (RFC 6960 section 4.2.2.2), and so is who signs the messages of a protocol. Each
has a key with the signer and a certificate from the generation it speaks for, which is made anew when half
of its life is over. Of several nodes that do so at once one is recorded, and the others use that one. A
delegate is kept until its certificate has ended.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from functools import partial
from typing import Generic, TypeVar

import msgspec
import structlog

from certloom.audit import SYSTEM, record
from certloom.authorities.base import AuthorityError
from certloom.authorities.local import crl_shard
from certloom.authorities.serials import new_serial
from certloom.clock import Clock
from certloom.pki.certificates import issuer_facts, parse_certificate, recheck
from certloom.pki.extensions import Extension
from certloom.pki.keys import facts_of, public_key
from certloom.pki.names import COMMON_NAME, Name
from certloom.pki.signatures import algorithm_for
from certloom.pki.template import CertificateTemplate, IssuerFacts
from certloom.signing import Signing, SigningError
from certloom.signing.base import Purpose
from certloom.store import authorities as authority_statements
from certloom.store import certificates as certificate_statements
from certloom.store import delegates as statements
from certloom.store.authorities import StoredKey
from certloom.store.base import Conflict, Store, StoreError, Tx
from certloom.store.certificates import StoredCertificate
from certloom.store.delegates import StoredDelegate
from certloom.store.ids import new_id

_log = structlog.get_logger(__name__)

_BACKDATE = 3600
_KEEP_AFTER = 86_400
_MAX_COMMON_NAME = 64

_Stored = tuple[StoredDelegate, StoredKey]


class Delegator(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of an authority, as who certifies its delegates."""

    authority: str
    generation: int
    certificate: bytes
    """DER, the CA's."""
    key_id: str
    crl_shards: int
    algorithm: str
    """The kind of the CA's key."""
    token: str
    """The PKCS#11 URI of the CA's key; empty for one in software."""

    @property
    def issuer(self) -> IssuerFacts:
        """What its certificate says."""
        return issuer_facts(self.certificate)


class Delegate(msgspec.Struct, frozen=True):
    """Who signs for one generation."""

    key_id: str
    certificate: bytes
    """DER."""
    spki: bytes
    """DER SubjectPublicKeyInfo."""
    algorithm: bytes
    """DER AlgorithmIdentifier of its signatures."""
    not_after: int
    """Unix seconds, inclusive."""
    renew_from: int
    serial: bytes


class Mandate(msgspec.Struct, frozen=True, kw_only=True):
    """What a kind of delegates is for."""

    purpose: str
    """As rows have it: ``ocsp``, ``est`` ..."""
    signing: Purpose
    """What the signer lets such a key do."""
    profile: str
    """What rows of its certificates have in the place of a profile; its version is 0."""
    called: str
    """Stands behind the CA's common name."""
    thing: str
    """As events call it."""
    extended_key_usage: tuple[str, ...]
    extensions: tuple[Extension, ...] = ()


S = TypeVar("S", bound=Delegator)


class Delegates(ABC, Generic[S]):
    """Makes, renews and finds those of one kind."""

    mandate: Mandate

    def __init__(self, store: Store, clock: Clock, signing: Signing, node: str) -> None:
        self._store = store
        self._clock = clock
        self._signing = signing
        self._node = node
        self._found: dict[tuple[str, int], Delegate] = {}
        self._making: dict[tuple[str, int], asyncio.Task[Delegate]] = {}

    @abstractmethod
    def life(self, source: S) -> int:
        """For how many seconds a new one's certificate is good."""

    @abstractmethod
    def key_kind(self, source: S) -> str:
        """The kind of its key, as ``pki.keys.generate`` calls it; ``token``: of the CA's kind, in its
        token."""

    async def get(self, source: S) -> Delegate:
        """The one that counts, made if there is none that is good.

        Raises ``SigningError``, ``AuthorityError`` or ``StoreError``.
        """
        found = self._found.get((source.authority, source.generation))
        if found is not None and found.not_after > self._clock.now():
            return found
        return await self._renewed(source)

    async def keep(self, source: S) -> bool:
        """See to it that there is a good one, and learn of what other nodes did.

        Answers whether the one used so far has been revoked, so that nothing it signed is to be shown. Raises
        as ``get`` does.
        """
        newest, revoked, _ = await self._read(source)
        if newest is None or newest.renew_from <= self._clock.now():
            try:
                await self._renewed(source)
            except (SigningError, AuthorityError, StoreError):
                if newest is None:
                    raise
                # Half of its life is left to try again in.
                _log.warning(f"{self.mandate.purpose}.not_renewed", authority=source.authority, exc_info=True)
        return revoked

    async def _read(self, source: S) -> tuple[Delegate | None, bool, _Stored | None]:
        """The newest, unless its certificate was revoked; whether that is so; and what is stored of it."""

        def unit(tx: Tx) -> tuple[_Stored | None, bool]:
            found = statements.newest(tx, source.authority, source.generation, self.mandate.purpose)
            if found is None:
                return None, False
            serial = parse_certificate(found[0].certificate).serial
            stands = certificate_statements.by_serial(tx, source.authority, serial)
            return found, stands is not None and stands.revoked is not None

        found, revoked = await self._store.read(unit)
        place = (source.authority, source.generation)
        if found is None or revoked:
            self._found.pop(place, None)
            return None, revoked, found
        responder = _delegate(*found)
        self._signing.know(found[1].id, found[1].sealed)
        self._found[place] = responder
        return responder, False, found

    async def _renewed(self, source: S) -> Delegate:
        place = (source.authority, source.generation)
        task = self._making.get(place)
        if task is None:
            task = self._making[place] = asyncio.create_task(self._renew(source))
            task.add_done_callback(lambda done: self._made(place, done))
        return await asyncio.shield(task)

    def _made(self, place: tuple[str, int], task: asyncio.Task[Delegate]) -> None:
        self._making.pop(place, None)
        if not task.cancelled():
            task.exception()  # whoever awaits it is told

    async def _renew(self, source: S) -> Delegate:
        """The newest, if it is good; else a new one."""
        for _ in range(3):
            # In one read: a responder that was recorded since must not be taken for the one to be renewed.
            newest, revoked, old = await self._read(source)
            if newest is not None and newest.renew_from > self._clock.now():
                return newest
            try:
                return await self._make(source, old, reuse=not revoked)
            except Conflict:
                continue  # another node was faster
        raise StoreError(f"no {self.mandate.called} could be recorded for {source.authority}")

    # -- making one --------------------------------------------------------------------------------------

    async def _make(self, source: S, old: _Stored | None, *, reuse: bool) -> Delegate:
        now = self._clock.now()
        in_token = self.key_kind(source) == "token" and bool(source.token)
        key = None if old is None else old[1]
        if not (
            reuse
            and in_token
            and key is not None
            and key.purpose.startswith(self._stored_purpose(in_token=True))
        ):
            key = await self._generate(source, in_token, now)
        else:
            # A token's key is used again: it cannot have been copied, and tokens do not hold many. Using it
            # now tells the signer of it, which certifies delegates with keys that it knows only.
            await self._signing.sign(key.id, [self.mandate.purpose.encode()])
        serial = new_serial()
        await self._store.write(
            lambda tx: authority_statements.reserve_serials(
                tx, source.authority, (serial,), self._node, self._clock.now()
            )
        )
        try:
            certificate = await self._certificate(source, key.spki, serial, now)
            stored = StoredDelegate(
                source.authority,
                source.generation,
                self.mandate.purpose,
                key.id,
                certificate,
                parse_certificate(certificate).not_after,
                now,
            )
            after = None if old is None else (old[0].key_id, old[0].not_after)
            await self._store.write(partial(self._record, source=source, new=stored, key=key, after=after))
        except BaseException:
            await self._store.write(lambda tx: authority_statements.burn_serial(tx, source.authority, serial))
            raise
        responder = _delegate(stored, key)
        self._found[source.authority, source.generation] = responder
        where = {"authority": source.authority, "generation": source.generation}
        _log.info(f"{self.mandate.purpose}.delegate", **where)
        return responder

    async def _generate(self, source: S, in_token: bool, now: int) -> StoredKey:
        id = new_id(self._clock.now_ms())
        kind = self.key_kind(source)
        if kind == "token":
            kind = source.algorithm or facts_of(source.issuer.spki).key_type
        made = await self._signing.generate(
            id, self.mandate.signing, source.authority, kind, _token(source.token) if in_token else None
        )
        purpose = self._stored_purpose(in_token=in_token)
        return StoredKey(id, f"{purpose}{source.authority}", made.spki, made.record, now)

    def _stored_purpose(self, *, in_token: bool) -> str:
        return f"{self.mandate.signing}-token:" if in_token else f"{self.mandate.signing}:"

    async def _certificate(self, source: S, spki: bytes, serial: bytes, now: int) -> bytes:
        issuer = source.issuer
        above = parse_certificate(source.certificate)
        template = CertificateTemplate(
            serial=serial,
            spki=spki,
            subject=_subject(above.subject, self.mandate.called),
            identifiers=(),
            not_before=max(now - _BACKDATE, above.not_before),
            not_after=min(now + self.life(source), above.not_after),
            key_usage=("digitalSignature",),
            extended_key_usage=self.mandate.extended_key_usage,
            extensions=self.mandate.extensions,
        )
        if template.not_after <= now:
            raise AuthorityError("expired", f"authority {source.authority} has expired")
        der = await self._signing.certificate(source.key_id, source.certificate, template)
        if differences := recheck(der, template, issuer):
            _log.error("authority.misissued", authority=source.authority, what=differences)
            raise AuthorityError("recheck-failed", "the delegate's certificate was not what was decided")
        return der

    def _record(
        self,
        tx: Tx,
        source: S,
        new: StoredDelegate,
        key: StoredKey,
        after: tuple[str, int] | None,
    ) -> None:
        """Raises ``Conflict`` when another delegate was recorded meanwhile."""
        if not statements.lock_generation(tx, new.authority, new.generation):
            raise AuthorityError("no-generation", "the authority's generation has been retired")
        newest = statements.newest(tx, new.authority, new.generation, new.purpose)
        if (None if newest is None else (newest[0].key_id, newest[0].not_after)) != after:
            raise Conflict("another delegate was recorded meanwhile")
        facts = parse_certificate(new.certificate)
        if not authority_statements.consume_serial(tx, new.authority, facts.serial):
            raise StoreError("the reservation of the delegate's serial number is gone")
        if newest is None or newest[1].id != key.id:
            authority_statements.insert_key(tx, key)
        statements.put(tx, new)
        public = facts.key or facts_of(facts.spki)
        id = certificate_statements.insert(
            tx,
            StoredCertificate(
                id=0,
                authority=new.authority,
                serial=facts.serial,
                der=new.certificate,
                spki_sha256=public.spki_sha256,
                not_before=facts.not_before,
                not_after=facts.not_after,
                profile=self.mandate.profile,
                profile_version=0,
                requester=SYSTEM.actor,
                request_id="",
                crl_shard=crl_shard(facts.serial, source.crl_shards),
                issued=new.created,
                key_type=public.key_type,
                generation=new.generation,
            ),
            (),
        )
        if newest is not None:
            before = parse_certificate(newest[0].certificate).serial
            replaced = certificate_statements.by_serial(tx, new.authority, before)
            if replaced is not None:
                certificate_statements.set_replaced_by(tx, replaced.id, id)
        record(
            tx,
            self._clock.now_ms(),
            "certificate.issued",
            f"certificate:{id}",
            SYSTEM,
            {
                "authority": new.authority,
                "generation": new.generation,
                "serial": facts.serial.hex(),
                "not_after": facts.not_after,
                "profile": self.mandate.profile,
                "profile_version": 0,
            },
        )

    async def forget_expired(self) -> int:
        """Delete those whose certificates ended a day ago, and their keys; answers how many."""
        before = self._clock.now() - _KEEP_AFTER

        def unit(tx: Tx) -> int:
            done = 0
            for gone in statements.expired(tx, self.mandate.purpose, before, 100):
                if statements.delete(tx, gone):
                    done += 1
                    record(
                        tx,
                        self._clock.now_ms(),
                        f"{self.mandate.thing}.deleted",
                        f"authority:{gone.authority}",
                        SYSTEM,
                        {"generation": gone.generation, "key": gone.key_id},
                    )
            return done

        if not await self._store.read(lambda tx: statements.expired(tx, self.mandate.purpose, before, 1)):
            return 0
        return await self._store.write(unit)


def _delegate(stored: StoredDelegate, key: StoredKey) -> Delegate:
    facts = parse_certificate(stored.certificate)
    return Delegate(
        key_id=stored.key_id,
        certificate=stored.certificate,
        spki=key.spki,
        algorithm=algorithm_for(public_key(facts_of(key.spki))),
        not_after=stored.not_after,
        renew_from=(stored.created + stored.not_after) // 2,
        serial=facts.serial,
    )


def _subject(ca: Name, called: str) -> Name:
    """The CA's own name with another common name: within whatever subtree the CA is constrained to."""
    name = next(iter(ca.values(COMMON_NAME)), "CA")
    others = tuple(a for a in ca.attributes if a[0] != COMMON_NAME)
    common_name = f"{name[: _MAX_COMMON_NAME - 1 - len(called)]} {called}"
    return Name((*others, (COMMON_NAME, common_name)))


_KEY_ATTRIBUTES = ("object", "id", "type")


def _token(uri: str) -> str:
    """The token of a key's PKCS#11 URI (RFC 7512), without what names the key itself."""
    scheme, _, rest = uri.partition(":")
    path, mark, query = rest.partition("?")
    kept = [a for a in path.split(";") if a.partition("=")[0] not in _KEY_ATTRIBUTES]
    return f"{scheme}:{';'.join(kept)}{mark}{query}"
