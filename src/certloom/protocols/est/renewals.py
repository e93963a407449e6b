"""Re-enrolment (RFC 7030 section 4.2.2): what is renewed, and what may change at that."""

from __future__ import annotations

import msgspec

from certloom.enrollment.asks import recall, requester_text
from certloom.pki import der, general_names, names
from certloom.pki.certificates import CertificateFacts, parse_certificate
from certloom.pki.csr import MAX_IDENTIFIERS, CertificateRequest, CSRError, parse_csr
from certloom.pki.identifiers import Identifier, IdentifierError
from certloom.pki.names import BadName, Name
from certloom.policy.decisions import ShownCertificate
from certloom.policy.profiles import Profile
from certloom.protocols.est.authentication import Authenticated
from certloom.protocols.est.problems import ESTProblem
from certloom.store import certificates as certificate_statements
from certloom.store import requests as request_statements
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate

CHANGE_SUBJECT_NAME = "1.3.6.1.5.5.7.7.36"
"""id-cmc-changeSubjectName (RFC 6402 section 2.8)."""
_MOST_LOOKED_AT = 200


class Predecessor(msgspec.Struct, frozen=True):
    """A certificate that is to be renewed."""

    stored: StoredCertificate
    facts: CertificateFacts
    first_shown: ShownCertificate | None
    """What its requester showed when it was issued: names are made of the same again."""
    asked: bytes
    """The CSR that it was issued to; empty where the key was made here."""


class ChangedNames(msgspec.Struct, frozen=True):
    """What a ChangeSubjectName attribute asks for; None where it stays."""

    subject: Name | None
    identifiers: tuple[Identifier, ...] | None


def find_predecessor(tx: Tx, who: Authenticated, csr: CertificateRequest) -> Predecessor | None:
    """The certificate that a request renews: the one that the client presents, or else the newest of the
    requester's with the request's subject and names, if there is one that is not revoked."""
    held = who.certificate
    if held is not None and held.stored is not None:
        return _predecessor(tx, held.stored, held.facts)
    for stored in certificate_statements.of_requester(tx, requester_text(who.requester), _MOST_LOOKED_AT):
        if stored.revoked is None and set(stored.identifiers) == set(csr.identifiers):
            facts = parse_certificate(stored.der)
            if _same_subject(csr, facts.subject):
                return _predecessor(tx, stored, facts)
    return None


def _predecessor(tx: Tx, stored: StoredCertificate, facts: CertificateFacts) -> Predecessor:
    request = request_statements.get(tx, stored.request_id)
    if request is None:
        return Predecessor(stored, facts, None, b"")
    return Predecessor(stored, facts, recall(request).certificate, request.csr)


def check_same(old: Predecessor, csr: CertificateRequest) -> None:
    """Raise ``ESTProblem`` unless subject and subjectAltName are those of the certificate that is renewed.

    A profile may have put the subject's attributes into an order of its own, or left some out: what was asked
    for then may be asked for again, and gives the same.
    """
    if _same_subject(csr, old.facts.subject) and set(csr.identifiers) == set(old.facts.identifiers):
        return
    if old.asked:
        before = parse_csr(old.asked, verify=False)
        if csr.subject == before.subject and set(csr.identifiers) == set(before.identifiers):
            return
    if not _same_subject(csr, old.facts.subject):
        raise ESTProblem(
            403,
            "the subject differs from that of the certificate to be renewed, which is"
            f" {names.format_name(old.facts.subject) or 'empty'} (RFC 7030 section 4.2.2)",
        )
    told = ", ".join(identifier.value for identifier in old.facts.identifiers) or "none"
    raise ESTProblem(
        403,
        f"the names differ from those of the certificate to be renewed, which are {told}"
        " (RFC 7030 section 4.2.2)",
    )


def _same_subject(csr: CertificateRequest, subject: Name) -> bool:
    return sorted(csr.subject.attributes) == sorted(subject.attributes)


def check_key(profile: Profile, old: Predecessor, csr: CertificateRequest) -> None:
    """Raise ``ESTProblem`` where the profile wants a new key, or none."""
    is_new = csr.key.spki_sha256 != old.stored.spki_sha256
    wanted = profile.renewal.new_key
    if wanted == "required" and not is_new:
        raise ESTProblem(403, "a renewal needs a new key, and this is the old one")
    if wanted == "forbidden" and is_new:
        raise ESTProblem(403, "a renewal keeps the key, and this is another one")


def read_changed_names(csr: CertificateRequest) -> ChangedNames | None:
    """A request's ChangeSubjectName attribute, if it has one. Raises ``CSRError``.

    ChangeSubjectName ::= SEQUENCE { subject Name OPTIONAL, subjectAlt [1] SubjectAltName OPTIONAL }
    """
    values = csr.attribute(CHANGE_SUBJECT_NAME)
    if values is None:
        return None
    try:
        reader = der.whole(values)
        subject = names.read(reader.enter()) if reader.peek() == der.SEQUENCE else None
        identifiers = None
        if reader.peek() == 0xA1:
            content = reader.content(0xA1)
            identifiers = general_names.decode(der.tlv(der.SEQUENCE, content), MAX_IDENTIFIERS)
        reader.finish()
    except (der.DERError, BadName) as error:
        raise CSRError("malformed-csr", f"the ChangeSubjectName attribute: {error}") from None
    except IdentifierError as error:
        raise CSRError(error.code, f"the ChangeSubjectName attribute: {error}") from None
    if subject is None and identifiers is None:
        raise CSRError("malformed-csr", "a ChangeSubjectName attribute that changes nothing")
    return ChangedNames(subject, identifiers)


def carried_certificate(who: Authenticated, old: Predecessor) -> ShownCertificate | None:
    """What names and subject are made of again: what was shown at first, so that a renewal makes the same."""
    if old.first_shown is not None:
        return old.first_shown
    return None if who.certificate is None else who.certificate.shown
