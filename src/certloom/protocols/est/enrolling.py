"""/simpleenroll and /simplereenroll (RFC 7030 section 4.2)."""

from __future__ import annotations

import hmac
from base64 import b64encode

import msgspec

from certloom.enrollment.asks import Ask
from certloom.pki.csr import CertificateRequest, CSRError, parse_csr
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.pki.names import COMMON_NAME, Name
from certloom.policy.channels import ESTChannel
from certloom.policy.decisions import ShownCertificate
from certloom.policy.name_rules import matches
from certloom.protocols.est import messages, renewals
from certloom.protocols.est.authentication import Authenticated, Peer
from certloom.protocols.est.exchange import Answer, Call
from certloom.protocols.est.problems import ESTProblem, retry_after
from certloom.protocols.est.service import ESTService
from certloom.protocols.est.transactions import Outcome, issued, key_of


class Wanted(msgspec.Struct, frozen=True):
    """What somebody may have, as far as EST itself has a say: the profile and the rules come next."""

    csr: CertificateRequest
    identifiers: tuple[Identifier, ...]
    certificate: ShownCertificate | None
    replaces: int | None = None
    renewal: bool = False


async def simple_enroll(service: ESTService, call: Call) -> Answer:
    """A first certificate (section 4.2.1)."""
    who = await service.authenticate(call.channel, call.peer)
    csr = read_csr(call.body)
    check_binding(call.channel, call.peer, csr)
    return await _submit(service, call, who, first(call.channel, who, csr))


async def simple_reenroll(service: ESTService, call: Call) -> Answer:
    """The successor of a certificate (section 4.2.2)."""
    who = await service.authenticate(call.channel, call.peer, renewal=True)
    csr = read_csr(call.body)
    check_binding(call.channel, call.peer, csr)
    return await _submit(service, call, who, await successor(service, call.channel, who, csr))


def read_csr(body: bytes, *, verify: bool = True) -> CertificateRequest:
    """The PKCS #10 request in a body. Raises ``ESTProblem``."""
    try:
        return parse_csr(body, verify=verify)
    except CSRError as error:
        raise ESTProblem(400, str(error)) from None


def check_binding(channel: ESTChannel, peer: Peer, csr: CertificateRequest) -> None:
    """Raise ``ESTProblem`` where a request is bound to another TLS session, or to none and has to be (RFC
    7030 section 3.5). TLS 1.3 has no tls-unique: what a client put there then means nothing."""
    given = csr.challenge_password
    if given is not None and peer.tls_unique is not None:
        wanted = b64encode(peer.tls_unique)
        if not hmac.compare_digest(given.strip().encode("utf-8", "surrogatepass"), wanted):
            raise ESTProblem(403, "the request is bound to another TLS session (challengePassword)")
        return
    if channel.channel_binding == "required":
        if peer.tls_unique is None:
            raise ESTProblem(
                403, "requests must be bound to their TLS session, which takes TLS 1.2 to this server"
            )
        raise ESTProblem(
            403, "the request must be bound to its TLS session by tls-unique as challengePassword"
        )


def first(channel: ESTChannel, who: Authenticated, csr: CertificateRequest) -> Wanted:
    """What a first enrolment may ask for. Raises ``ESTProblem``."""
    held = who.certificate
    if who.credential is not None:
        check_credential_names(who, csr.subject, csr.identifiers)
    elif held is not None and channel.certificate_names == "same" and not held.is_ra:
        _check_stands_in(held.shown, csr)
    return Wanted(csr, csr.identifiers, None if held is None or held.is_ra else held.shown)


async def successor(
    service: ESTService, channel: ESTChannel, who: Authenticated, csr: CertificateRequest
) -> Wanted:
    """What a re-enrolment may ask for. Raises ``ESTProblem``."""
    old = await service.store.read(lambda tx: renewals.find_predecessor(tx, who, csr))
    if old is None:
        raise ESTProblem(
            403, "there is no certificate of yours with this subject and these names to be renewed"
        )
    profile = service.profile(channel)
    renewals.check_same(old, csr)
    renewals.check_key(profile, old, csr)
    try:
        changed = renewals.read_changed_names(csr)
    except CSRError as error:
        raise ESTProblem(400, str(error)) from None
    shown = renewals.carried_certificate(who, old)
    if changed is None:
        if who.credential is not None:
            check_credential_names(who, csr.subject, csr.identifiers)
        return Wanted(csr, csr.identifiers, shown, old.stored.id, renewal=who.certificate is not None)
    if not profile.renewal.change_names:
        raise ESTProblem(403, "names may not change at a renewal (ChangeSubjectName, RFC 6402 section 2.8)")
    subject = csr.subject if changed.subject is None else changed.subject
    identifiers = csr.identifiers if changed.identifiers is None else changed.identifiers
    if who.credential is not None:
        check_credential_names(who, subject, identifiers)
    moved = msgspec.structs.replace(csr, subject=subject, identifiers=identifiers)
    return Wanted(moved, identifiers, shown, old.stored.id)


def check_credential_names(who: Authenticated, subject: Name, identifiers: tuple[Identifier, ...]) -> None:
    """Raise ``ESTProblem`` for names that the credential is not good for. A common name that is none of the
    certificate's names counts as a DNS name, or as a mailbox: who reads it there takes it for one."""
    credential = who.credential
    if credential is None or not credential.names:
        return
    named = list(identifiers)
    values = {identifier.value for identifier in identifiers}
    for text in subject.values(COMMON_NAME):
        if text.lower() not in values:
            kind = IdentifierType.EMAIL if "@" in text else IdentifierType.DNS
            named.append(Identifier(kind, text.lower()))
    for identifier in named:
        if not any(matches(pattern, identifier) for pattern in credential.names):
            raise ESTProblem(403, f"this credential is not for the name {identifier.value}")


def _check_stands_in(shown: ShownCertificate, csr: CertificateRequest) -> None:
    """Raise ``ESTProblem`` unless all that is asked for stands in the client's certificate."""
    names = {identifier.value for identifier in shown.identifiers}
    known = {(oid, text.casefold()) for oid, text in shown.subject.attributes}
    for oid, text in csr.subject.attributes:
        if (oid, text.casefold()) not in known and not (oid == COMMON_NAME and text.lower() in names):
            raise ESTProblem(403, f"the subject's {text[:80]!r} does not stand in the client certificate")
    for identifier in csr.identifiers:
        if identifier not in shown.identifiers:
            raise ESTProblem(403, f"the name {identifier.value} does not stand in the client certificate")


def ask_of(call: Call, who: Authenticated, wanted: Wanted) -> Ask:
    """For the pipeline."""
    return Ask(
        protocol="est",
        channel=call.channel.name,
        profile=call.channel.profile,
        requester=who.requester,
        csr=wanted.csr,
        identifiers=wanted.identifiers,
        origin=call.origin(who.requester),
        replaces=wanted.replaces,
        certificate=wanted.certificate,
        renewal=wanted.renewal,
    )


async def _submit(service: ESTService, call: Call, who: Authenticated, wanted: Wanted) -> Answer:
    ask = ask_of(call, who, wanted)
    outcome = await service.transactions.submit(
        call.channel, key_of(ask, call.operation), ask, who.credential
    )
    return answer(call, outcome)


def answer(call: Call, outcome: Outcome) -> Answer:
    """The certificate alone (section 4.2.3), or when to ask again."""
    certificate = issued(call.channel, outcome)
    if certificate is None:
        return waiting(call)
    body = messages.certificates_body((certificate.der,), folded=call.folded)
    return Answer(body, messages.CERTS_ONLY)


def waiting(call: Call) -> Answer:
    """202 (section 4.2.3)."""
    text = b"the request waits to be decided on; send it again later\n"
    return Answer(text, messages.TEXT, 202, (retry_after(call.channel.poll_seconds),))
