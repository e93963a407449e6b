"""ACME Renewal Information (RFC 9773)."""

from __future__ import annotations

from msgspec import UNSET

from certloom.enrollment.books import UnknownName
from certloom.lifecycle.renewal import renewal_window
from certloom.lifecycle.renewal import retry_after as ask_again_after
from certloom.policy.channels import ACMEChannel
from certloom.policy.profile_parts import RenewalRule
from certloom.protocols.acme import base64url, messages
from certloom.protocols.acme.exchange import Answer, Exchange, retry_after
from certloom.protocols.acme.problems import malformed
from certloom.protocols.acme.service import ACMEService, by_account, expect_get
from certloom.store import certificates as certificate_statements
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate

_LONGEST = 120


class BadCertID(ValueError):
    """Not a certificate identifier of RFC 9773 section 4.1."""


def parse_certificate_id(text: str) -> tuple[bytes, bytes]:
    """(AKI keyIdentifier, serial without the DER sign octet). Raises ``BadCertID``.

    Strict, so that a certificate has one identifier: no padding, no other base64url text of the same
    octets, the serial as DER has it.
    """
    if len(text) > _LONGEST:
        raise BadCertID("the certificate identifier is too long")
    aki, dot, serial = text.partition(".")
    if not dot or "." in serial or not aki or not serial:
        raise BadCertID("a certificate identifier is two base64url texts with a dot between them")
    try:
        key_identifier, value = base64url.decode_canonical(aki), base64url.decode_canonical(serial)
    except ValueError:
        raise BadCertID("the certificate identifier is not in base64url without padding") from None
    if value[0] & 0x80:
        raise BadCertID("the serial number is negative: the leading 00 of its DER value is missing")
    if value[0] == 0 and len(value) > 1:
        if not value[1] & 0x80:
            raise BadCertID("the serial number has a leading 00 that DER does not have")
        value = value[1:]
    return key_identifier, value


def find_certificate(service: ACMEService, tx: Tx, certificate_id: str) -> StoredCertificate | None:
    """Raises ``BadCertID``."""
    key_identifier, serial = parse_certificate_id(certificate_id)
    authority = service.books.authority_by_key_identifier(key_identifier)
    return None if authority is None else certificate_statements.by_serial(tx, authority, serial)


async def renewal_info(service: ACMEService, channel: ACMEChannel, certificate_id: str) -> Answer:
    """By unauthenticated GET (RFC 9773 section 4.1)."""
    try:
        found = await service.store.read(lambda tx: find_certificate(service, tx, certificate_id))
    except BadCertID as error:
        raise malformed(str(error)) from None
    return _show(service, channel, found)


async def renewal_info_by_post(service: ACMEService, x: Exchange, certificate_id: str) -> Answer:
    """By POST-as-GET, as every resource (RFC 8555 section 6.3)."""
    try:
        signed = await by_account(service, x, lambda tx, _: find_certificate(service, tx, certificate_id))
    except BadCertID as error:
        raise malformed(str(error)) from None
    expect_get(signed.payload)
    return _show(service, x.channel, signed.loaded)


def _show(service: ACMEService, channel: ACMEChannel, found: StoredCertificate | None) -> Answer:
    if found is None:
        raise malformed("there is no such certificate", 404)
    try:
        rule = service.books.profile(found.profile, found.profile_version)[0].renewal
    except UnknownName:
        rule = RenewalRule()
    now = service.clock.now()
    window = renewal_window(
        found.not_before,
        found.not_after,
        found.serial,
        rule,
        now,
        revoked_at=found.revoked,
        replace_since=found.replace_since,
    )
    explanation = channel.explanation_url if window.moved else ""
    body = messages.encode(
        messages.RenewalInfo(
            messages.SuggestedWindow(messages.format_time(window.start), messages.format_time(window.end)),
            explanation or UNSET,
        )
    )
    return Answer(body, retry_after(ask_again_after(now, window)))
