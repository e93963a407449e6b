"""What is asked for: as a protocol brings it, as it is remembered, and as the policy is told of it."""

from __future__ import annotations

import msgspec

from certloom.audit import Origin
from certloom.pki.csr import CertificateRequest
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import PublicKeyFacts
from certloom.pki.names import Name
from certloom.policy.decisions import Facts, NameHistory, Reason, Requester, ShownCertificate
from certloom.store.requests import EnrolmentRequest


class Ask(msgspec.Struct, frozen=True):
    """One ask for one certificate, as a protocol brings it."""

    protocol: str
    channel: str
    profile: str
    requester: Requester
    csr: CertificateRequest
    """Parsed, its proof of possession verified. Without bytes where the key was made here."""
    identifiers: tuple[Identifier, ...]
    """What the certificate is to name; who asks has shown control of each, as the protocol demands."""
    origin: Origin
    idempotency_key: str | None = None
    not_before: int | None = None
    not_after: int | None = None
    replaces: int | None = None
    """The id of the certificate that this one succeeds."""
    lifetime: int | None = None
    """Asked lifetime in seconds from when it is issued; then ``not_after`` is None."""
    comment: str = ""
    """What the requester wants approvers to know."""
    certificate: ShownCertificate | None = None
    """By which the requester has shown who it is."""
    renewal: bool = False
    """Whether the requester has shown to hold ``replaces``, which has the same names."""


class Remembered(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was asked, as ``EnrolmentRequest.ask`` holds it.

    ``spki`` and ``subject`` are kept only where it must be decided again later.
    """

    identifiers: tuple[Identifier, ...]
    not_before: int | None = None
    not_after: int | None = None
    replaces: int | None = None
    spki: bytes = b""
    subject: Name = Name()
    lifetime: int | None = None
    comment: str = ""
    warnings: tuple[Reason, ...] = ()
    """What policy rules wanted said, although they did not stand in the way."""
    certificate: ShownCertificate | None = None
    renewal: bool = False


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Remembered).decode


def remember(ask: Ask, warnings: tuple[Reason, ...], *, to_decide_again: bool) -> str:
    """For ``EnrolmentRequest.ask``."""
    return _encode(
        Remembered(
            ask.identifiers,
            ask.not_before,
            ask.not_after,
            ask.replaces,
            ask.csr.key.spki if to_decide_again else b"",
            ask.csr.subject if to_decide_again else Name(),
            ask.lifetime,
            ask.comment,
            warnings,
            ask.certificate,
            ask.renewal,
        )
    ).decode()


def recall(request: EnrolmentRequest) -> Remembered:
    """What was asked beyond the CSR."""
    return _decode(request.ask)


def facts(
    ask: Ask,
    now: int,
    blocked: bool,
    authority_not_after: int | None,
    history: tuple[NameHistory, ...] | None,
) -> Facts:
    """What the policy is told of a new ask."""
    return Facts(
        now=now,
        protocol=ask.protocol,
        channel=ask.channel,
        requester=ask.requester,
        key=ask.csr.key,
        key_is_blocked=blocked,
        identifiers=ask.identifiers,
        csr_subject=ask.csr.subject,
        not_before=ask.not_before,
        not_after=ask.not_after if ask.lifetime is None else now + ask.lifetime,
        authority_not_after=authority_not_after,
        history=history,
        certificate=ask.certificate,
        renewal=ask.renewal,
    )


def facts_again(
    request: EnrolmentRequest,
    asked: Remembered,
    key: PublicKeyFacts,
    now: int,
    blocked: bool,
    authority_not_after: int | None,
    history: tuple[NameHistory, ...] | None,
    *,
    approved: bool,
) -> Facts:
    """What the policy is told of an ask that was remembered."""
    return Facts(
        now=now,
        protocol=request.protocol,
        channel=request.channel,
        requester=requester_of(request),
        key=key,
        key_is_blocked=blocked,
        identifiers=asked.identifiers,
        csr_subject=asked.subject,
        not_before=asked.not_before,
        not_after=asked.not_after if asked.lifetime is None else now + asked.lifetime,
        approved=approved,
        authority_not_after=authority_not_after,
        history=history,
        certificate=asked.certificate,
        renewal=asked.renewal,
    )


def requester_text(requester: Requester) -> str:
    """``kind:id``, as rows have it."""
    return f"{requester.kind}:{requester.id}"


def requester_of(request: EnrolmentRequest) -> Requester:
    """Who asked."""
    kind, _, id = request.requester.partition(":")
    return Requester(kind, id, request.owner, request.team)
