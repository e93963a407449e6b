"""Revocation (RFC 8555 section 7.6).

By the account that got the certificate, by one that has shown control of all its names, or by its own key.
"""

from __future__ import annotations

import msgspec

from certloom.audit import Origin
from certloom.enrollment.errors import EnrollmentError
from certloom.enrollment.revoke import KEY_COMPROMISE
from certloom.pki.certificates import CertificateError, CertificateFacts, parse_certificate
from certloom.pki.identifiers import Identifier
from certloom.protocols.acme import base64url, jws, messages
from certloom.protocols.acme.authorizations import Vouched, read_vouched, still_holds
from certloom.protocols.acme.exchange import Answer, Exchange
from certloom.protocols.acme.problems import Problem, malformed, of_enrollment
from certloom.protocols.acme.service import ACMEService, Signed, by_account, nothing, read_jws
from certloom.store import acme as statements
from certloom.store import certificates as certificate_statements
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate


class _Asked(msgspec.Struct, frozen=True):
    certificate: StoredCertificate
    facts: CertificateFacts
    reason: int


async def revoke_cert(service: ACMEService, x: Exchange) -> Answer:
    """Revoke; 200 with an empty body."""
    if _names_account(x):
        signed = await by_account(service, x, nothing)
        asked = await _asked(service, signed.payload)
        await _check_account(service, signed, asked)
        origin = x.origin(signed.account.id)
    else:
        request = read_jws(service, x)
        key = jws.own_key(request)
        jws.verify(request, key)
        asked = await _asked(service, request.payload)
        if key.spki != asked.facts.spki:
            raise Problem("unauthorized", "the request is signed with a key that is not the certificate's")
        origin = Origin(f"certificate-key:{asked.facts.serial.hex()}", x.address, x.trace)
    try:
        await service.revoker.revoke(asked.certificate.id, asked.reason, origin)
    except EnrollmentError as error:
        raise of_enrollment(error) from error
    return Answer(b"")


def _names_account(x: Exchange) -> bool:
    """Which of the two ways of signing this is; all else is checked afterwards."""
    return jws.read(x.body).kid is not None


async def _asked(service: ACMEService, payload: bytes) -> _Asked:
    wish = messages.read(messages.Revoke, payload)
    try:
        der = base64url.decode(wish.certificate)
        facts = parse_certificate(der)
    except (CertificateError, ValueError) as error:
        raise malformed(f"the certificate cannot be read: {error}") from None
    authority = service.books.authority_by_key_identifier(facts.authority_key_identifier or b"")
    found = None
    if authority is not None:
        serial = facts.serial
        found = await service.store.read(lambda tx: certificate_statements.by_serial(tx, authority, serial))
    if found is None or found.der != der:
        raise malformed("this certificate was not issued here", 404)
    return _Asked(found, facts, 0 if wish.reason is None else wish.reason)


async def _check_account(service: ACMEService, signed: Signed[None], asked: _Asked) -> None:
    """Raises ``unauthorized`` unless the account got the certificate or may have all its names now."""
    account = signed.account
    if asked.certificate.requester == f"acme-account:{account.id}":
        return
    now = service.clock.now()

    def unit(tx: Tx) -> bool:
        vouched = read_vouched(service, tx, account)
        return all(_may_have(tx, account.id, name, vouched, now) for name in asked.facts.identifiers)

    if not asked.facts.identifiers or not await service.store.read(unit):
        raise Problem(
            "unauthorized",
            "the certificate is another account's, and this one does not hold all its names",
        )
    if asked.reason == KEY_COMPROMISE:
        # It would block for ever a key that this account never had.
        raise Problem(
            "badRevocationReason",
            "keyCompromise is for the account that got the certificate, or for its key, to give",
        )


def _may_have(tx: Tx, account_id: str, name: Identifier, vouched: Vouched, now: int) -> bool:
    wildcard = name.is_wildcard
    value = name.value[2:] if wildcard else name.value
    found = statements.usable_authorization(tx, account_id, name.type.value, value, wildcard, now)
    return found is not None and still_holds(found, vouched)
