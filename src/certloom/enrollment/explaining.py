"""``policy explain``: what would be decided now about a request that is kept, or one that nobody made yet."""

from __future__ import annotations

import msgspec

from certloom.enrollment.asks import facts_again, recall
from certloom.enrollment.books import Books
from certloom.pki.certificates import parse_certificate
from certloom.pki.csr import CSRError, parse_csr
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import PublicKeyFacts, facts_of
from certloom.pki.names import Name
from certloom.policy.decide import decide, names_to_issue
from certloom.policy.decisions import Facts, Requester
from certloom.policy.explain import Explanation, explain
from certloom.store import certificates as certificate_statements
from certloom.store import history
from certloom.store.base import Tx
from certloom.store.requests import EnrolmentRequest


class Supposed(msgspec.Struct, frozen=True, kw_only=True):
    """An ask that nobody made."""

    profile: str
    protocol: str
    channel: str
    requester: Requester
    key: PublicKeyFacts
    identifiers: tuple[Identifier, ...]
    subject: Name = Name()
    lifetime: int | None = None
    """Seconds, or None for the profile's."""


def explain_request(tx: Tx, books: Books, request: EnrolmentRequest, now: int) -> Explanation:
    """Of a request that is kept, as if it came now, people not asked yet. Raises ``UnknownName``.

    Only an approved request keeps its key apart; of the others it is in the CSR or the certificate.
    """
    asked = recall(request)
    profile, version = books.profile(request.profile)
    subject = asked.subject
    if asked.spki:
        key = facts_of(asked.spki)
    elif request.csr:
        key, subject = _of_csr(request.csr)
    else:
        stored = certificate_statements.get(tx, request.certificate_id or 0)
        key = facts_of(parse_certificate(stored.der).spki) if stored is not None else _unknown()
    named = names_to_issue(profile, asked.identifiers, asked.certificate)
    told = facts_again(
        request,
        msgspec.structs.replace(asked, subject=subject),
        key,
        now,
        bool(key.spki_sha256) and certificate_statements.is_blocked(tx, key.spki_sha256),
        books.authority(profile.authority).not_after,
        history.of_names(tx, named, now) if books.rules.needs_history else None,
        approved=False,
    )
    return explain(decide(profile, version, told, books.rules), profile.name, version)


def explain_supposed(tx: Tx, books: Books, supposed: Supposed, now: int) -> Explanation:
    """Of an ask that nobody made. Raises ``UnknownName``."""
    profile, version = books.profile(supposed.profile)
    key = supposed.key
    told = Facts(
        now=now,
        protocol=supposed.protocol,
        channel=supposed.channel,
        requester=supposed.requester,
        key=key,
        key_is_blocked=bool(key.spki_sha256) and certificate_statements.is_blocked(tx, key.spki_sha256),
        identifiers=supposed.identifiers,
        csr_subject=supposed.subject,
        not_after=None if supposed.lifetime is None else now + supposed.lifetime,
        authority_not_after=books.authority(profile.authority).not_after,
        history=history.of_names(tx, supposed.identifiers, now) if books.rules.needs_history else None,
    )
    return explain(decide(profile, version, told, books.rules), profile.name, version)


def _of_csr(der: bytes) -> tuple[PublicKeyFacts, Name]:
    """What a request was for; of one that is no PKCS #10 (CRMF) this is kept where it must be decided
    again."""
    try:
        csr = parse_csr(der, verify=False)
    except CSRError:
        return _unknown(), Name()
    return csr.key, csr.subject


def _unknown() -> PublicKeyFacts:
    return PublicKeyFacts(b"", b"", "", 0)
