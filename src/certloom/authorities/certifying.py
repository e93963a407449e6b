"""Signing CA certificates: with the same distrust as everything else that is signed.

    reserve a serial ─▶ lint the same contents, not signed ─▶ sign ─▶ parse again and compare ─▶ record

A CA certificate is a row of the inventory, of the profile ``ca`` in its version 0 (no profile has that one):
it is found there, revoked there, and by its issuer's CRL and OCSP answers.
"""

from __future__ import annotations

import msgspec
import structlog

from certloom.audit import SYSTEM, Origin, record
from certloom.authorities.base import AuthorityError
from certloom.authorities.lint import Linter, unsigned_ca
from certloom.authorities.lint_subjects import Subject
from certloom.authorities.local import LocalBody, URLs, crl_shard
from certloom.authorities.serials import new_serial
from certloom.clock import Clock
from certloom.pki.certificates import (
    CertificateError,
    TemplateError,
    issuer_facts,
    parse_certificate,
)
from certloom.pki.extensions import Extension
from certloom.pki.keys import KeyRejected, facts_of
from certloom.pki.names import Name, format_name
from certloom.pki.paths import path_length
from certloom.pki.recheck import recheck_ca
from certloom.pki.template import CATemplate
from certloom.signing import LOST, Signing, SigningRefused, SigningUnavailable
from certloom.store import authorities as statements
from certloom.store import certificates as certificate_statements
from certloom.store.authorities import StoredAuthority, StoredGeneration
from certloom.store.base import Store, Tx
from certloom.store.certificates import StoredCertificate

_log = structlog.get_logger(__name__)

PROFILE = "ca"
"""What rows of CA certificates have in the place of a profile; its version is 0."""
_LEVEL = "error"
_NODE = "ca"
_BACKDATE = 3600


class HierarchyError(Exception):
    """There can be no such authority or CA certificate: the message says why. Nothing was changed."""

    def __init__(self, message: str, *, conflict: bool = False) -> None:
        """``conflict``: it is what is there that stands against it, not what was asked for."""
        super().__init__(message)
        self.conflict = conflict


class Issuer(msgspec.Struct, frozen=True):
    """Who signs a CA certificate: one generation of an authority."""

    name: str
    generation: int
    certificate: bytes
    key_id: str
    crl_shards: int
    options: LocalBody


class CAContents(msgspec.Struct, frozen=True):
    """What a CA certificate is to say."""

    spki: bytes
    subject: Name
    not_after: int
    path_length: int | None = None
    extensions: tuple[Extension, ...] = ()
    key_identifier: bytes | None = None
    """None: derived from the key."""
    not_before: int | None = None
    """None: an hour ago."""


class CACertificate(msgspec.Struct, frozen=True):
    """A CA certificate that was signed here and is not recorded yet."""

    der: bytes
    authority: str
    """Who signed it."""
    generation: int
    serial: bytes
    crl_shard: int
    reserved: bool
    """Whether its serial was reserved."""

    def enter(self, tx: Tx, now: int, origin: Origin = SYSTEM) -> int:
        """Make it a row of the inventory, and an event; answers its id."""
        if self.reserved and not statements.consume_serial(tx, self.authority, self.serial):
            raise HierarchyError("the serial number's reservation is gone: ask again", conflict=True)
        facts = parse_certificate(self.der)
        key = facts.key or facts_of(facts.spki)
        id = certificate_statements.insert(
            tx,
            StoredCertificate(
                id=0,
                authority=self.authority,
                serial=self.serial,
                der=self.der,
                spki_sha256=key.spki_sha256,
                not_before=facts.not_before,
                not_after=facts.not_after,
                profile=PROFILE,
                profile_version=0,
                requester=origin.actor,
                request_id="",
                crl_shard=self.crl_shard,
                issued=now,
                key_type=key.key_type,
                generation=self.generation,
            ),
            (),
        )
        record(
            tx,
            now * 1000,
            "certificate.issued",
            f"certificate:{id}",
            origin,
            {
                "authority": self.authority,
                "generation": self.generation,
                "serial": self.serial.hex(),
                "subject": format_name(facts.subject),
                "not_after": facts.not_after,
                "profile": PROFILE,
                "profile_version": 0,
            },
        )
        return id


def issuer_of(row: StoredAuthority, generation: StoredGeneration | None = None) -> Issuer:
    """The authority's current generation, or that one, as an issuer. Raises ``HierarchyError``."""
    options = msgspec.json.decode(row.body, type=LocalBody)
    if generation is None:
        number, certificate, key_id = row.generation, row.certificate, row.key_id
    else:
        number, key_id = generation.generation, generation.key_id
        certificate = generation.certificate or b""
    if not certificate or key_id is None:
        raise HierarchyError(f"authority {row.name} has no certificate to issue under", conflict=True)
    return Issuer(row.name, number, certificate, key_id, row.crl_shards, options)


class Certifier:
    """Signs CA certificates."""

    def __init__(
        self, store: Store | None, clock: Clock, signing: Signing, urls: URLs, linter: Linter | None = None
    ) -> None:
        """Without ``store``, serials are not reserved: where nothing that was signed before is on record."""
        self._store = store
        self._clock = clock
        self._signing = signing
        self._urls = urls
        self._linter = linter

    async def self_signed(
        self, name: str, generation: int, key_id: str, contents: CAContents
    ) -> CACertificate:
        """A root's certificate. Raises as ``below`` does."""
        return await self._certify(name, generation, key_id, None, contents, 1, None)

    async def below(self, issuer: Issuer, contents: CAContents) -> CACertificate:
        """A CA certificate under an authority here; it never outlives its issuer.

        Raises ``HierarchyError``, ``AuthorityError`` (lint, the re-check), ``SigningError``.
        """
        above = parse_certificate(issuer.certificate)
        now = self._clock.now()
        if above.not_after <= now:
            raise HierarchyError(f"authority {issuer.name} has expired", conflict=True)
        limit = path_length(above)
        self_issued = above.subject == contents.subject
        if limit is not None and not self_issued:
            if limit == 0:
                raise HierarchyError(
                    f"authority {issuer.name} may not have CAs below it: its path length is 0"
                )
            if contents.path_length is None or contents.path_length >= limit:
                raise HierarchyError(f"the path length must be below that of {issuer.name}, which is {limit}")
        contents = msgspec.structs.replace(contents, not_after=min(contents.not_after, above.not_after))
        return await self._certify(
            issuer.name,
            issuer.generation,
            issuer.key_id,
            issuer.certificate,
            contents,
            issuer.crl_shards,
            issuer,
        )

    async def _certify(
        self,
        authority: str,
        generation: int,
        key_id: str,
        issuer: bytes | None,
        contents: CAContents,
        shards: int,
        urls_of: Issuer | None,
    ) -> CACertificate:
        await self._refuse_blocked(contents.spki)
        for again in (True, False):
            serial = await self._reserved(authority)
            try:
                template = self._template(contents, serial, crl_shard(serial, shards), urls_of)
                await self._lint(template, issuer)
                der = await self._signing.ca_certificate(key_id, issuer, template)
                above = None if issuer is None else issuer_facts(issuer)
                if differences := recheck_ca(der, template, above):
                    _log.error(
                        "authority.misissued", authority=authority, serial=serial.hex(), what=differences
                    )
                    raise AuthorityError(
                        "recheck-failed", "the CA certificate was not what was decided; withheld"
                    )
            except SigningUnavailable as error:
                await self._burn(authority, serial)
                if error.code != LOST or not again:
                    raise
                continue
            except BaseException:
                await self._burn(authority, serial)
                raise
            return CACertificate(
                der, authority, generation, serial, crl_shard(serial, shards), self._store is not None
            )
        raise AssertionError("not reached")

    def _template(self, contents: CAContents, serial: bytes, shard: int, issuer: Issuer | None) -> CATemplate:
        not_before = contents.not_before
        if not_before is None:
            not_before = self._clock.now() - _BACKDATE
            if issuer is not None:
                # Nothing is valid before what it stands on.
                not_before = max(not_before, parse_certificate(issuer.certificate).not_before)
        template = CATemplate(
            serial=serial,
            spki=contents.spki,
            subject=contents.subject,
            not_before=not_before,
            not_after=contents.not_after,
            path_length=contents.path_length,
            extensions=contents.extensions,
            key_identifier=contents.key_identifier,
        )
        if issuer is None:
            return template
        options, urls = issuer.options, self._urls.of(issuer.options)
        return msgspec.structs.replace(
            template,
            crl_url=urls.crl(issuer.name, shard, issuer.generation),
            issuer_url=urls.issuer(issuer.name, issuer.generation),
            ocsp_url=urls.ocsp(issuer.name) if options.ocsp else None,
            delta_url=urls.crl(issuer.name, shard, issuer.generation, delta=True)
            if options.delta_seconds
            else None,
        )

    async def _lint(self, template: CATemplate, issuer: bytes | None) -> None:
        try:
            unsigned = unsigned_ca(template, issuer)
        except (TemplateError, CertificateError, KeyRejected) as error:
            raise SigningRefused("bad-request", str(error)) from None
        if self._linter is None:
            return
        if findings := await self._linter.findings(Subject.CERTIFICATE, unsigned, _LEVEL):
            said = tuple(dict.fromkeys(str(finding) for finding in findings))[:20]
            raise AuthorityError("lint", "; ".join(said[:5]), said)

    async def _refuse_blocked(self, spki: bytes) -> None:
        if self._store is None:
            return
        digest = facts_of(spki).spki_sha256
        if await self._store.read(lambda tx: certificate_statements.is_blocked(tx, digest)):
            raise HierarchyError("this key is blocked: it was compromised", conflict=True)

    async def _reserved(self, authority: str) -> bytes:
        serial = new_serial()
        if self._store is not None:
            now = self._clock.now()
            await self._store.write(
                lambda tx: statements.reserve_serials(tx, authority, (serial,), _NODE, now)
            )
        return serial

    async def _burn(self, authority: str, serial: bytes) -> None:
        if self._store is not None:
            await self._store.write(lambda tx: statements.burn_serial(tx, authority, serial))
