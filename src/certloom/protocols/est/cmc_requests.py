"""What a full PKI request asks for, one by one: certificates and revocations (RFC 5272)."""

from __future__ import annotations

import msgspec

from certloom.enrollment.asks import requester_text
from certloom.enrollment.errors import EnrollmentError
from certloom.pki import crmf, extensions, general_names
from certloom.pki.certificates import parse_certificate
from certloom.pki.csr import MAX_IDENTIFIERS, CertificateRequest, CSRError, parse_csr
from certloom.pki.der import DERError
from certloom.pki.identifiers import IdentifierError
from certloom.pki.keys import KeyRejected, facts_of
from certloom.pki.names import COMMON_NAME, Name
from certloom.protocols.est import renewals
from certloom.protocols.est.authentication import Authenticated
from certloom.protocols.est.cmc_controls import CMCFailInfo, RevokeRequest
from certloom.protocols.est.cmc_messages import CMCError, CRMRequest, TaggedRequest, TCRRequest, check_crm
from certloom.protocols.est.enrolling import Wanted, ask_of, check_binding, first
from certloom.protocols.est.exchange import Call
from certloom.protocols.est.problems import ESTProblem
from certloom.protocols.est.service import ESTService
from certloom.protocols.est.transactions import issued, key_of
from certloom.store import certificates as certificate_statements
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate


class Issued(msgspec.Struct, frozen=True):
    """A certificate, for one body part."""

    certificate: bytes


class Pending(msgspec.Struct, frozen=True):
    """To be asked about with this token."""

    token: bytes


async def process(
    service: ESTService, call: Call, who: Authenticated, request: TaggedRequest, *, vouched: bool
) -> Issued | Pending:
    """One request for a certificate; ``vouched``: the registration authority has seen that its sender has the
    key. Raises ``CMCError``."""
    number = (request.body_part_id,)
    try:
        if isinstance(request, TCRRequest):
            csr = parse_csr(request.der, verify=not vouched)
        elif isinstance(request, CRMRequest):
            csr = _of_crmf(request.der, vouched=vouched)
        else:
            raise CMCError("bad-request", "requests of this kind are not known here", body_parts=number)
        check_binding(call.channel, call.peer, csr)
        wanted = await _wanted(service, call, who, csr)
        ask = ask_of(call, who, wanted)
        key = key_of(ask, call.operation)
        outcome = await service.transactions.submit(call.channel, key, ask, who.credential)
        certificate = issued(call.channel, outcome)
    except CSRError as error:
        code = CMCFailInfo.popFailed if error.code == "bad-signature" else CMCFailInfo.badRequest
        raise CMCError("bad-request", str(error), code, number) from None
    except ESTProblem as problem:
        raise CMCError("refused", problem.detail, _fail_info(problem), number) from problem
    return Pending(key) if certificate is None else Issued(certificate.der)


def _fail_info(problem: ESTProblem) -> CMCFailInfo:
    if problem.status == 401:
        return CMCFailInfo.badIdentity
    return CMCFailInfo.tryLater if problem.status in (429, 503) else CMCFailInfo.badRequest


async def _wanted(service: ESTService, call: Call, who: Authenticated, csr: CertificateRequest) -> Wanted:
    """A renewal where the sender's own certificate has the subject and names that are asked for, else new."""
    held = who.certificate
    if held is not None and held.stored is not None and not held.is_ra:
        old = await service.store.read(lambda tx: renewals.find_predecessor(tx, who, csr))
        assert old is not None
        try:
            renewals.check_same(old, csr)
        except ESTProblem:
            return first(call.channel, who, csr)
        renewals.check_key(service.profile(call.channel), old, csr)
        shown = renewals.carried_certificate(who, old)
        return Wanted(csr, csr.identifiers, shown, old.stored.id, renewal=True)
    return first(call.channel, who, csr)


def _of_crmf(data: bytes, *, vouched: bool) -> CertificateRequest:
    """What a CRMF request asks for, its proof of possession verified. Raises ``CMCError`` or ``CSRError``."""
    try:
        message = crmf.decode_cert_req_msg(data)
        check_crm(message)
        template = message.request.template
        key = facts_of(template.public_key or b"") if vouched else crmf.verify_possession(message)
        found = {extension.oid: extension for extension in template.extensions}
        names = found.get(extensions.SUBJECT_ALT_NAME)
        identifiers = () if names is None else general_names.decode(names.value, MAX_IDENTIFIERS)
    except crmf.CRMFError as error:
        popless = error.code in ("bad-signature", "no-signature", "bad-proof")
        raise CSRError("bad-signature" if popless else "malformed-csr", str(error)) from None
    except (IdentifierError, KeyRejected) as error:
        raise CSRError(error.code, str(error)) from None
    except DERError as error:
        raise CSRError("bad-subject-alt-name", f"subjectAltName: {error}") from None
    subject = template.subject or Name()
    common_names = subject.values(COMMON_NAME)
    return CertificateRequest(
        der=data,
        key=key,
        subject=subject,
        identifiers=identifiers,
        common_name=common_names[-1] if common_names else None,
        extensions=template.extensions,
    )


async def revoke(
    service: ESTService, call: Call, who: Authenticated, number: int, request: RevokeRequest
) -> None:
    """Revoke a certificate for who holds it, who asked for it, or the registration authority of the channel
    it came through. Raises ``CMCError``."""
    found = await service.store.read(lambda tx: _named(service, tx, request))
    if found is None or not _may_revoke(call, who, found):
        # One answer for both: who may not revoke it is not told that it is there.
        raise CMCError(
            "bad-cert-id", "there is no such certificate of yours", CMCFailInfo.badCertId, (number,)
        )
    try:
        await service.revoker.revoke(found.id, request.reason, call.origin(who.requester))
    except EnrollmentError as error:
        raise CMCError("refused", str(error), CMCFailInfo.badRequest, (number,)) from error


def _named(service: ESTService, tx: Tx, request: RevokeRequest) -> StoredCertificate | None:
    authorities = {
        g.authority
        for g in service.books.reading.generations
        if g.certificate is not None and parse_certificate(g.certificate).subject == request.issuer
    }
    for authority in authorities:
        found = certificate_statements.by_serial(tx, authority, request.serial)
        if found is not None and parse_certificate(found.der).serial == request.serial:
            return found
    return None


def _may_revoke(call: Call, who: Authenticated, certificate: StoredCertificate) -> bool:
    held = who.certificate
    if held is not None and held.stored is not None and held.stored.id == certificate.id:
        return True
    if certificate.requester == requester_text(who.requester):
        return True
    return held is not None and held.is_ra and certificate.channel == f"est/{call.channel.name}"
