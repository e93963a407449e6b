"""What an offline root signs: its own certificate, those of other CAs, and its CRL.

Each is linted before and read again after it was signed, as in a running server.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
from cryptography import x509

from certloom.authorities.lint import lint, lint_ca
from certloom.authorities.lint_exceptions import Finding
from certloom.authorities.lint_subjects import Subject
from certloom.authorities.serials import new_serial
from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.files import Revoked
from certloom.ceremony.script import Certify, NewRoot
from certloom.pki import ca_extensions, extensions, name_constraints, signatures
from certloom.pki.ca import tbs_ca_certificate
from certloom.pki.certificates import (
    CertificateError,
    CertificateFacts,
    TemplateError,
    issuer_facts,
    parse_certificate,
)
from certloom.pki.crl import CRLEntry, CRLError, CRLTemplate, build_crl
from certloom.pki.csr import CSRError, parse_csr
from certloom.pki.extensions import Extension
from certloom.pki.keys import KeyRejected, PrivateKey, check_fit, facts_of, public_key, spki_of
from certloom.pki.name_constraints import NameConstraints
from certloom.pki.names import BadName, Name, format_name, parse_name
from certloom.pki.paths import path_length
from certloom.pki.recheck import recheck_ca
from certloom.pki.template import CATemplate

DAY = 86_400
_STOPS = ("error", "fatal")


class Draft(msgspec.Struct, frozen=True):
    """A CA certificate that is not signed yet."""

    template: CATemplate
    issuer: bytes | None
    """DER; None for a self-signed one."""
    findings: tuple[str, ...]
    """What the linter says that does not stop it."""

    def describe(self) -> list[tuple[str, str]]:
        """What it will say, for people."""
        t = self.template
        key = facts_of(t.spki)
        return [
            ("subject", format_name(t.subject)),
            ("serial", t.serial.hex()),
            ("key", f"{key.key_type}, SHA-256 {key.spki_sha256.hex()}"),
            ("not before", text_of(t.not_before)),
            ("not after", text_of(t.not_after)),
            ("path length", "any" if t.path_length is None else str(t.path_length)),
            ("key usage", ", ".join(t.key_usage)),
            *(pair for extension in t.extensions for pair in _told(extension)),
            *((n, v) for n, v in (("crl", t.crl_url), ("issuer", t.issuer_url), ("ocsp", t.ocsp_url)) if v),
            *(("lint", each) for each in self.findings or ("nothing found",)),
        ]


def _told(extension: Extension) -> list[tuple[str, str]]:
    match extension.oid:
        case name_constraints.NAME_CONSTRAINTS:
            found = name_constraints.decode(extension.value)
            permitted = [("permitted", each) for each in found.permitted]
            return permitted + [("excluded", each) for each in found.excluded]
        case ca_extensions.CERTIFICATE_POLICIES:
            policies, cps = ca_extensions.read_policies(extension.value)
            return [("policy", each) for each in policies] + ([("cps", cps)] if cps else [])
        case extensions.EXTENDED_KEY_USAGE:
            return [("extended key usage", ", ".join(extensions.decode_extended_key_usage(extension.value)))]
    return [("extension", f"{extension.oid} {extension.value.hex()}")]


def text_of(seconds: int) -> str:
    """A time as transcripts have it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def draft_root(terms: NewRoot, key: PrivateKey, now: int) -> Draft:
    """Raises ``CeremonyError``."""
    template = CATemplate(
        serial=new_serial(),
        spki=spki_of(key),
        subject=_name(terms.subject),
        not_before=now,
        not_after=now + terms.days * DAY,
        path_length=terms.path_length,
        extensions=_extensions(terms, ()),
    )
    return _draft(template, None)


def _extensions(terms: NewRoot | Certify, usages: tuple[str, ...]) -> tuple[Extension, ...]:
    try:
        constraints = NameConstraints(terms.permitted, terms.excluded)
        return ca_extensions.ca_extensions(constraints, terms.policies, terms.cps, usages)
    except ValueError as error:
        raise CeremonyError(str(error)) from None


def draft_certificate(terms: Certify, asked: bytes, root: bytes, now: int) -> Draft:
    """For a CA, from the DER of its CSR or certificate. Raises ``CeremonyError``."""
    above = parse_certificate(root)
    if above.not_after < now:
        raise CeremonyError("the root has expired")
    if above.not_before > now:
        raise CeremonyError("the root is not valid yet: the clock is wrong")
    not_after = min(now + terms.days * DAY, above.not_after)
    if terms.csr:
        subject, spki, identifier = _of_csr(terms, asked)
    else:
        facts = _of_certificate(asked, now)
        subject, spki, identifier = facts.subject, facts.spki, facts.key_identifier
        not_after = min(not_after, facts.not_after)
    if spki == above.spki:
        raise CeremonyError("that is the root's own key")
    limit = path_length(above)
    if limit is not None and subject != above.subject:
        if limit == 0:
            raise CeremonyError("the root may have no CAs below it: its path length is 0")
        if terms.path_length is None or terms.path_length >= limit:
            raise CeremonyError(f"the path length must be below the root's, which is {limit}")
    template = CATemplate(
        serial=new_serial(),
        spki=spki,
        subject=subject,
        not_before=now,
        not_after=not_after,
        path_length=terms.path_length,
        extensions=_extensions(terms, terms.extended_key_usage),
        crl_url=terms.crl_url or None,
        issuer_url=terms.issuer_url or None,
        ocsp_url=terms.ocsp_url or None,
        key_identifier=identifier,
    )
    return _draft(template, root)


def _of_csr(terms: Certify, asked: bytes) -> tuple[Name, bytes, None]:
    try:
        csr = parse_csr(asked)
        check_fit(csr.key)
    except (CSRError, KeyRejected) as error:
        raise CeremonyError(f"{terms.csr}: {error}") from None
    subject = _name(terms.subject) if terms.subject else csr.subject
    if not subject:
        raise CeremonyError(f"{terms.csr} asks for no subject, and the script names none")
    return subject, csr.key.spki, None


def _of_certificate(asked: bytes, now: int) -> CertificateFacts:
    try:
        issuer_facts(asked)
        facts = parse_certificate(asked)
        if facts.key is not None:
            check_fit(facts.key)
    except (CertificateError, KeyRejected) as error:
        raise CeremonyError(f"this CA cannot be certified: {error}") from None
    if facts.not_after < now:
        raise CeremonyError("the certificate of the CA that is to be certified has expired")
    return facts


def _name(text: str) -> Name:
    try:
        name = parse_name(text)
    except BadName as error:
        raise CeremonyError(f"the subject {text!r}: {error}") from None
    if not name:
        raise CeremonyError("a CA has a subject")
    return name


def _draft(template: CATemplate, issuer: bytes | None) -> Draft:
    try:
        findings = lint_ca(template, issuer)
    except TemplateError as error:
        raise CeremonyError(str(error)) from None
    if stops := [f for f in findings if f.severity in _STOPS]:
        raise CeremonyError("the linter objects: " + "; ".join(map(_said, stops)))
    return Draft(template, issuer, tuple(map(_said, findings)))


def _said(finding: Finding) -> str:
    return f"{finding.severity} {finding.code} {finding.message}".strip()


def sign(draft: Draft, key: PrivateKey) -> bytes:
    """DER of the certificate. Raises ``CeremonyError`` when it is not what was drafted."""
    issuer = None if draft.issuer is None else issuer_facts(draft.issuer)
    tbs = tbs_ca_certificate(draft.template, issuer, signatures.algorithm_for(key))
    made = signatures.assemble(key, tbs)
    if differences := recheck_ca(made, draft.template, issuer):
        raise CeremonyError("the certificate is not what was decided: " + "; ".join(differences))
    return made


def sign_crl(
    key: PrivateKey, root: bytes, revoked: tuple[Revoked, ...], number: int, now: int, days: int
) -> bytes:
    """DER of the root's complete CRL. Raises ``CeremonyError``."""
    entries = tuple(CRLEntry(bytes.fromhex(r.serial), r.at, r.reason) for r in revoked)
    issuer = issuer_facts(root)
    template = CRLTemplate(entries, number, now, min(now + days * DAY, issuer.not_after))
    try:
        made = build_crl(template, issuer, key)
    except CRLError as error:
        raise CeremonyError(str(error)) from None
    if stops := [f for f in lint(Subject.CRL, made) if f.severity in _STOPS]:
        raise CeremonyError("the linter objects: " + "; ".join(map(_said, stops)))
    read = x509.load_der_x509_crl(made)
    theirs = [(entry.serial_number, int(entry.revocation_date_utc.timestamp())) for entry in read]
    ours = [(int(r.serial, 16), r.at) for r in revoked]
    signer = public_key(facts_of(issuer.spki))
    signatures.verify(signer, issuer.signature_algorithm, read.signature, read.tbs_certlist_bytes)
    if theirs != ours:
        raise CeremonyError("the CRL is not what was decided")
    return made
