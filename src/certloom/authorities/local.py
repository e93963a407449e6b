"""The product's own CA: a key that the signer holds, serials reserved in the store, output that is
distrusted.

    lint the same contents, not signed ─▶ reserve a serial ─▶ sign ─▶ parse again and compare

Where the profile asks for Certificate Transparency, a precertificate goes that way first, and to the logs
(see ``ct``).

Whatever fails after the serial was handed out burns it. Nothing here records the certificate: the pipeline
does, in the transaction that also consumes the serial, and only then is the certificate shown to anyone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import msgspec
import structlog

from certloom.authorities.base import AuthorityError, AuthorityUnavailable, Issued
from certloom.authorities.ct import CTLogs, precertificate_template, sample_template, with_scts
from certloom.authorities.generations import (
    RETIRED,
    chains_from,
    find_generation,
    primary_path,
)
from certloom.authorities.lint import Linter, shape_of, unsigned_certificate
from certloom.authorities.serials import SerialPool
from certloom.clock import Clock
from certloom.pki import name_constraints
from certloom.pki.ca_extensions import ANY_POLICY, CERTIFICATE_POLICIES, certificate_policies
from certloom.pki.certificates import (
    CertificateTemplate,
    TemplateError,
    issuer_facts,
    parse_certificate,
    recheck,
)
from certloom.pki.crl import CRLTemplate
from certloom.pki.extensions import Extension
from certloom.pki.name_constraints import NameConstraints
from certloom.policy.decisions import CertificateContents, CTTerms, LintMode
from certloom.signing import LOST, Signing, SigningError, SigningRefused
from certloom.store.authorities import StoredAuthority, StoredGeneration
from certloom.store.crls import WHOLE

_log = structlog.get_logger(__name__)

KIND = "local"
_DAY = 86_400


class LocalBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What only a local authority's row says, as JSON. Times are seconds."""

    crl_seconds: Annotated[int, msgspec.Meta(ge=600, le=366 * _DAY)] = 7 * _DAY
    """From a CRL's thisUpdate to its nextUpdate; it is signed anew when half of that is over."""
    delta_seconds: Annotated[int, msgspec.Meta(ge=0, le=30 * _DAY)] = 0
    """How often delta CRLs are signed; 0: there are none."""
    full_crl: bool = False
    """Whether there is a whole list beside those of the shards."""
    publish_seconds: Annotated[int, msgspec.Meta(ge=0, le=86_400)] = 0
    """How long after a revocation the CRL may wait for others; 0: it is signed at once."""
    ocsp: bool = True
    """Whether certificates name the OCSP responder."""
    ocsp_seconds: Annotated[int, msgspec.Meta(ge=300, le=30 * _DAY)] = 4 * _DAY
    """How long an answer is good."""
    ocsp_key: Literal["P-256", "P-384", "rsa-2048", "rsa-3072", "ed25519", "ml-dsa-44", "token"] = "P-256"
    """The kind of the responder's key; ``token``: of the CA's kind, in the CA key's token."""
    ocsp_non_issued: Literal["unknown", "revoked"] = "unknown"
    """What is said of serials that were never issued (RFC 6960 section 2.2)."""
    ocsp_archive_seconds: Annotated[int, msgspec.Meta(ge=0, le=20 * 366 * _DAY)] = 0
    """For how long after expiry answers are still given (archive cutoff, RFC 6960 section 4.4.4); 0: not
    said."""
    generate_as: str = "P-256"
    """The kind of its key, as ``pki.keys.generate`` calls it: for throwaway keys."""
    cross_certificates: tuple[bytes, ...] = ()
    """DER certificates of the same name and key by other issuers: offered as alternate chains."""
    cps: str = ""
    """Where its certification practice statement is."""
    policies: tuple[str, ...] = ()
    """Certificate policies (dotted OIDs) in what it issues."""
    url: str = ""
    """Origin of the addresses in what it issues (CRLs, issuer, OCSP), such as that of a cache before this
    server; empty: the server's."""
    former_urls: Annotated[tuple[str, ...], msgspec.Meta(max_length=20)] = ()
    """Origins in certificates of before: its CRLs speak for those too."""
    trust_seconds: Annotated[int, msgspec.Meta(ge=0, le=3660 * _DAY)] = 30 * _DAY
    """Of a root: for how long the next generation's certificate is published before it is issued from."""
    crl_number_above: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    """The number of the last CRL that was made elsewhere, before its key came here."""


class URLs(msgspec.Struct, frozen=True):
    """Where an authority's certificate and CRLs are published: ``{base}/ca/NAME.crt`` and kin."""

    base: str
    """Plain HTTP origin, so that fetching a CRL needs no certificate (RFC 5280 section 8)."""

    def of(self, options: LocalBody) -> URLs:
        """Those of an authority with these options."""
        return URLs(options.url) if options.url else self

    def crl(self, authority: str, shard: int, generation: int = 1, *, delta: bool = False) -> str:
        """``shard`` -1 is the whole list of a generation that has several."""
        at = authority if generation == 1 else f"{authority}/g{generation}"
        file = "full" if shard == WHOLE else str(shard)
        return f"{self.base}/crl/{at}/{file}{'-delta' if delta else ''}.crl"

    def issuer(self, authority: str, generation: int = 1) -> str:
        at = authority if generation == 1 else f"{authority}/g{generation}"
        return f"{self.base}/ca/{at}.crt"

    def ocsp(self, authority: str) -> str:
        return f"{self.base}/ocsp/{authority}"


def crl_shard(serial: bytes, shards: int) -> int:
    """The CRL that a certificate with this serial will be listed in, should it be revoked."""
    return int.from_bytes(serial[-2:], "big") % shards


class LocalAuthority:
    """A CA of our own."""

    immediate = True

    def __init__(
        self,
        row: StoredAuthority,
        generations: Callable[[str], tuple[StoredGeneration, ...]],
        signing: Signing,
        serials: SerialPool,
        linter: Linter,
        clock: Clock,
        urls: URLs,
        logs: CTLogs | None = None,
    ) -> None:
        """``generations`` gives those of any authority by name, oldest first: for CRLs and chains."""
        self.options = msgspec.json.decode(row.body, type=LocalBody)
        self.name = row.name
        self.generation = row.generation
        self.crl_shards = row.crl_shards
        self.crl_seconds = self.options.crl_seconds
        self.delta_seconds = self.options.delta_seconds
        self.full_crl = self.options.full_crl
        self.publish_seconds = self.options.publish_seconds
        self.crl_number_above = self.options.crl_number_above
        self._row = row
        self._generations = generations
        self._signing = signing
        self._issuer = issuer_facts(row.certificate)
        self._key_id = row.key_id or ""
        self.not_after: int | None = self._issuer.not_after
        self._serials = serials
        self._linter = linter
        self._clock = clock
        self._urls = urls = urls.of(self.options)
        self._logs = logs
        self._issuer_url = urls.issuer(self.name, self.generation)
        self._ocsp_url = urls.ocsp(self.name) if self.options.ocsp else None
        self._policies: tuple[Extension, ...] = ()
        if self.options.policies or self.options.cps:
            policies = self.options.policies or (ANY_POLICY,)
            self._policies = (certificate_policies(policies, self.options.cps),)
        # What of this authority shows in a certificate's shape.
        self._form = (
            self._issuer.key_identifier
            + bytes((self.options.ocsp, self.delta_seconds > 0))
            + self._urls.base.encode()
        )
        self._form += b"".join(extension.value for extension in self._policies)
        self._chains: dict[int, tuple[tuple[bytes, ...], ...]] = {}
        self._name_constraints: tuple[NameConstraints, ...] | None = None

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
            extensions=self._with_policies(contents.extensions),
            crl_url=self._urls.crl(self.name, shard, self.generation),
            issuer_url=self._issuer_url,
            ocsp_url=self._ocsp_url,
            delta_url=self._urls.crl(self.name, shard, self.generation, delta=True)
            if self.delta_seconds
            else None,
        )

    def _with_policies(self, extensions: tuple[Extension, ...]) -> tuple[Extension, ...]:
        """A profile that names certificate policies of its own knows better."""
        if not self._policies or any(e.oid == CERTIFICATE_POLICIES for e in extensions):
            return extensions
        return extensions + self._policies

    async def issue(self, contents: CertificateContents) -> Issued:
        if self._row.state != "active":
            raise AuthorityError("authority-retired", f"authority {self.name} issues no more")
        self._obey_constraints(contents)
        if contents.not_after > self._issuer.not_after:
            raise AuthorityError("beyond-authority", f"authority {self.name} itself expires before that")
        terms = contents.ct
        logs = None if terms is None else self._ct_logs(terms, contents.not_after)
        await self._lint(contents)
        try:
            return await self._issue(contents, terms, logs)
        except AuthorityUnavailable as error:
            if error.code != LOST:
                raise
        # The signer went away with the request in hand and is being started anew. What it may have signed
        # nobody has; its serial is burned, and this is another certificate.
        return await self._issue(contents, terms, logs)

    async def _issue(
        self, contents: CertificateContents, terms: CTTerms | None, logs: CTLogs | None
    ) -> Issued:
        serial = await self._serials.take()
        shard = crl_shard(serial, self.crl_shards)
        template = self.template(contents, serial, shard)
        try:
            if terms is None or logs is None:
                der = await self._sign(template)
            else:
                above, root = self._above()
                issuers = above if root is None else (*above, root)
                der = await with_scts(logs, terms, template, self._sign, issuers, self._issuer.spki)
        except BaseException:
            await self._serials.burn(serial)
            raise
        return Issued(self.name, der, serial, shard, self.generation, reserved=True)

    async def _sign(self, template: CertificateTemplate) -> bytes:
        """Signed, and looked at again. Raises ``AuthorityError``."""
        try:
            der = await self._signing.certificate(self._key_id, self._row.certificate, template)
        except SigningError as error:
            raise _as_authority_error(error) from error
        if differences := recheck(der, template, self._issuer):
            serial = template.serial.hex()
            _log.error("authority.misissued", authority=self.name, serial=serial, what=differences)
            raise AuthorityError("recheck-failed", "the certificate was not what was decided; withheld")
        return der

    def _obey_constraints(self, contents: CertificateContents) -> None:
        """Its own name constraints and those of the CAs above it: clients would refuse the certificate.

        Raises ``AuthorityError``.
        """
        found = self._name_constraints
        if found is None:
            above, root = self._above()
            certificates = above if root is None else (*above, root)
            found = self._name_constraints = tuple(
                name_constraints.decode(extension.value)
                for certificate in certificates
                for extension in parse_certificate(certificate).extensions
                if extension.oid == name_constraints.NAME_CONSTRAINTS
            )
        for constraints in found:
            said = name_constraints.violations(constraints, contents.subject, contents.identifiers)
            if said:
                raise AuthorityError(
                    "name-constraints",
                    f"name constraints of authority {self.name} or of one above it: {'; '.join(said[:5])}",
                    tuple(said[:20]),
                )

    def _ct_logs(self, terms: CTTerms, not_after: int) -> CTLogs:
        """The logs, if they can be had: asked before a serial is taken and anything signed."""
        if self._logs is None:
            raise AuthorityError("not-configured", "there are no certificate transparency logs here")
        self._logs.choose(terms, not_after)
        return self._logs

    async def _lint(self, contents: CertificateContents) -> None:
        """Lint what is about to be signed. Raises ``AuthorityError`` with the findings."""
        if contents.lint is LintMode.OFF:
            return
        shape = shape_of(contents, self._form)
        if not self._linter.needed(shape, contents.lint):
            return
        template = self.template(contents, b"\x7f" * 16, 0)
        terms = contents.ct
        forms: tuple[CertificateTemplate, ...] = (template,)
        if terms is not None:
            forms = (precertificate_template(template), sample_template(template, terms.needed))
        try:
            unsigned = [unsigned_certificate(form, self._issuer) for form in forms]
        except TemplateError as error:
            raise AuthorityError("not-encodable", str(error)) from error
        findings = await self._linter.check_all(
            unsigned, shape, contents.lint, contents.lint_level, contents.lint_rules
        )
        if findings:
            said = tuple(dict.fromkeys(str(finding) for finding in findings))[:20]
            raise AuthorityError("lint", "; ".join(said[:5]), said)

    # -- CRLs --------------------------------------------------------------------------------------------

    def crl_generations(self) -> tuple[int, ...]:
        """Those whose CRLs are signed: all that have a certificate and are not retired, oldest first."""
        return tuple(
            g.generation
            for g in self._generations(self.name)
            if g.certificate is not None and g.state != "retired"
        )

    def crl_issuer(self, generation: int) -> bytes:
        """DER certificate of the CA that signs a generation's CRLs."""
        return self._generation(generation)[1]

    def crl_url(self, generation: int, shard: int, *, delta: bool = False) -> str:
        """Where a CRL is published; ``shard`` -1 is the whole list."""
        return self._urls.crl(self.name, shard, generation, delta=delta)

    def former_crl_urls(self, generation: int, shard: int) -> tuple[str, ...]:
        """What certificates may call it that were issued before addresses changed."""
        now = self._urls.base
        return tuple(
            URLs(url).crl(self.name, shard, generation) for url in self.options.former_urls if url != now
        )

    async def sign_crl(self, generation: int, template: CRLTemplate) -> bytes:
        key_id, certificate = self._generation(generation)
        try:
            return await self._signing.crl(key_id, certificate, template)
        except SigningError as error:
            raise _as_authority_error(error) from error

    def _generation(self, number: int) -> tuple[str, bytes]:
        """Key id and certificate. Raises ``AuthorityError``."""
        for g in self._generations(self.name):
            if g.generation != number or g.state == RETIRED:
                continue
            if g.certificate is not None and g.key_id is not None:
                return g.key_id, g.certificate
        raise AuthorityError(
            "no-generation", f"authority {self.name} has no generation {number} to sign with"
        )

    # -- chains ------------------------------------------------------------------------------------------

    def chains(self, generation: int | None = None) -> tuple[tuple[bytes, ...], ...]:
        """Of what that generation issued (None: the current one); the preferred chain first."""
        number = self.generation if generation is None else generation
        found = self._chains.get(number)
        if found is None:
            found = self._chains[number] = self._all_chains(number)
        return found

    def _all_chains(self, number: int) -> tuple[tuple[bytes, ...], ...]:
        for g in self._generations(self.name):
            if g.generation == number and g.certificate is not None:
                found = chains_from(g, self._generations)
                break
        else:
            return ((),)
        if number != self.generation:
            return found
        others = [(der,) for der in self.options.cross_certificates]
        return (*found, *(chain for chain in others if chain not in found))

    def forget_chains(self) -> None:
        """After any authority's generations have changed."""
        self._chains.clear()
        self._name_constraints = None

    def _above(self) -> tuple[tuple[bytes, ...], bytes | None]:
        """The chain up to our root; and that, if it is known here."""
        own = find_generation(self._generations(self.name), self._row.key_identifier)
        return ((self._row.certificate,), None) if own is None else primary_path(own, self._generations)

    async def close(self) -> None:
        await self._serials.close()


def _as_authority_error(error: SigningError) -> AuthorityError:
    if isinstance(error, SigningRefused):
        code = "not-encodable" if error.code == "bad-request" else error.code
        return AuthorityError(code, str(error))
    return AuthorityUnavailable(error.code, str(error))
