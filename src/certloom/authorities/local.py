"""The product's own CA: a key in software, serials reserved in the store, output that is distrusted.

    reserve a serial ─▶ lint the same contents under a throwaway key ─▶ sign ─▶ parse again and compare

Whatever fails after the serial was handed out burns it. Nothing here records the certificate: the pipeline
does, in the transaction that also consumes the serial, and only then is the certificate shown to anyone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from certloom.authorities.base import AuthorityError, Issued
from certloom.authorities.lint import Linter, shape_of
from certloom.authorities.serials import SerialPool
from certloom.clock import Clock
from certloom.pki import keys
from certloom.pki.certificates import (
    CertificateTemplate,
    IssuerFacts,
    TemplateError,
    build_certificate,
    issuer_facts,
    recheck,
)
from certloom.pki.crl import CRLEntry, CRLError, build_crl
from certloom.policy.decisions import CertificateContents, LintMode
from certloom.store.authorities import StoredAuthority

_log = structlog.get_logger(__name__)

KIND = "local"


class LocalBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What only a local authority's row says, as JSON."""

    crl_seconds: int = 7 * 86_400
    """From a CRL's thisUpdate to its nextUpdate."""
    generate_as: str = "P-256"
    """The kind of its key, as ``pki.keys.generate`` calls it: for throwaway keys."""
    cross_certificates: tuple[bytes, ...] = ()
    """DER certificates of the same name and key by other issuers: offered as alternate chains."""


class URLs(msgspec.Struct, frozen=True):
    """Where an authority's certificate and CRLs are published: ``{base}/ca/NAME.crt`` and kin."""

    base: str
    """Plain HTTP origin, so that fetching a CRL needs no certificate (RFC 5280 section 8)."""

    def crl(self, authority: str, shard: int) -> str:
        return f"{self.base}/crl/{authority}/{shard}.crl"

    def issuer(self, authority: str) -> str:
        return f"{self.base}/ca/{authority}.crt"


def crl_shard(serial: bytes, shards: int) -> int:
    """The CRL that a certificate with this serial will be listed in, should it be revoked."""
    return int.from_bytes(serial[-2:], "big") % shards


class LocalSigner:
    """A CA key in this process."""

    def __init__(self, name: str, issuer: IssuerFacts, private_key: keys.PrivateKey, urls: URLs) -> None:
        self._name = name
        self._issuer = issuer
        self._key = private_key
        self._urls = urls
        # RSA and ML-DSA signatures take milliseconds, too long for the event loop.
        self._quick = isinstance(private_key, (ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey))

    def __repr__(self) -> str:
        return f"LocalSigner({self._name})"

    def with_key(self, private_key: keys.PrivateKey) -> LocalSigner:
        """The same CA in name, under another key."""
        return LocalSigner(self._name, self._issuer, private_key, self._urls)

    def template(self, contents: CertificateContents, serial: bytes, shard: int) -> CertificateTemplate:
        """What was decided, with what this CA adds."""
        return CertificateTemplate(
            serial=serial,
            spki=contents.spki,
            subject=contents.subject,
            identifiers=contents.identifiers,
            not_before=contents.not_before,
            not_after=contents.not_after,
            key_usage=contents.key_usage,
            extended_key_usage=contents.extended_key_usage,
            extensions=contents.extensions,
            crl_url=self._urls.crl(self._name, shard),
            issuer_url=self._urls.issuer(self._name),
        )

    async def sign(self, contents: CertificateContents, serial: bytes, crl_shard: int) -> bytes:
        template = self.template(contents, serial, crl_shard)
        return await self._run(lambda: build_certificate(template, self._issuer, self._key))

    async def sign_crl(
        self,
        shard: int | None,
        entries: list[CRLEntry],
        number: int,
        this_update: int,
        next_update: int,
    ) -> bytes:
        """DER CRL of one shard, or with None of everything the CA issued."""
        url = None if shard is None else self._urls.crl(self._name, shard)
        # On a thread whatever the key: a shard may have many thousand entries.
        return await asyncio.to_thread(
            build_crl, self._issuer, self._key, entries, number, this_update, next_update, url
        )

    async def _run(self, make: Callable[[], bytes]) -> bytes:
        try:
            return make() if self._quick else await asyncio.to_thread(make)
        except TemplateError as error:
            raise AuthorityError("not-encodable", str(error)) from error


class LocalAuthority:
    """A CA of our own, in one process."""

    immediate = True

    def __init__(
        self,
        row: StoredAuthority,
        signer: LocalSigner,
        serials: SerialPool,
        linter: Linter,
        clock: Clock,
        issuers: Callable[[str], StoredAuthority],
    ) -> None:
        """``issuers`` finds the row of an authority above this one, for chains."""
        body = msgspec.json.decode(row.body, type=LocalBody)
        self.name = row.name
        self.crl_shards = row.crl_shards
        self.crl_seconds = body.crl_seconds
        self._row = row
        self._signer = signer
        self._issuer = issuer_facts(row.certificate)
        self.not_after: int | None = self._issuer.not_after
        self._serials = serials
        self._linter = linter
        self._clock = clock
        self._issuers = issuers
        self._body = body
        self._throwaway: LocalSigner | None = None

    async def issue(self, contents: CertificateContents) -> Issued:
        if contents.not_after > self._issuer.not_after:
            raise AuthorityError("beyond-authority", f"authority {self.name} itself expires before that")
        await self._lint(contents)
        serial = await self._serials.take()
        shard = crl_shard(serial, self.crl_shards)
        try:
            der = await self._signer.sign(contents, serial, shard)
            differences = recheck(der, self._signer.template(contents, serial, shard), self._issuer)
        except BaseException:
            await self._serials.burn(serial)
            raise
        if differences:
            await self._serials.burn(serial)
            _log.error("authority.misissued", authority=self.name, serial=serial.hex(), what=differences)
            raise AuthorityError("recheck-failed", "the certificate was not what was decided; withheld")
        return Issued(self.name, der, serial, shard, reserved=True)

    async def _lint(self, contents: CertificateContents) -> None:
        """Lint what is about to be signed. Raises ``AuthorityError`` with the findings."""
        if contents.lint is LintMode.OFF:
            return
        shape = shape_of(contents, self._issuer.key_identifier)
        if not self._linter.needed(shape, contents.lint):
            return
        if self._throwaway is None:
            # Of the real key's kind, so that the signature algorithm is the one that will be used.
            key = await asyncio.to_thread(keys.generate, self._body.generate_as)
            self._throwaway = self._signer.with_key(key)
        der = await self._throwaway.sign(contents, b"\x7f" * 16, 0)
        findings = await self._linter.check(der, shape, contents.lint, contents.lint_level)
        if findings:
            raise AuthorityError("lint", "; ".join(str(finding) for finding in findings[:5]))

    async def sign_crl(
        self, shard: int, entries: list[CRLEntry], number: int, this_update: int, next_update: int
    ) -> bytes:
        # The only shard is the whole list, and says so by having no issuing distribution point: it then also
        # speaks for certificates without a CRL distribution point, such as a root's own.
        scope = shard if self.crl_shards > 1 else None
        try:
            return await self._signer.sign_crl(scope, entries, number, this_update, next_update)
        except CRLError as error:
            raise AuthorityError("not-encodable", str(error)) from error

    def chains(self) -> tuple[tuple[bytes, ...], ...]:
        """The chain up to our root, then one through each cross-certificate."""
        above: list[bytes] = []
        row = self._row
        while row.issuer is not None:
            above.append(row.certificate)
            row = self._issuers(row.issuer)
        return (tuple(above), *((certificate,) for certificate in self._body.cross_certificates))

    async def close(self) -> None:
        await self._serials.close()
