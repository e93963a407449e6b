"""OCSP (RFC 6960; nonces of RFC 9654, profile of RFC 9919): reading requests, writing responses.

Requests are DER, as every client sends them; a DEFAULT that is spelled out is taken. A signature on a request
is read past and never verified: what is answered here is public.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from certloom.pki import der, extensions
from certloom.pki.extensions import Extension

MAX_REQUEST = 65_536
"""Octets of a request, its signature and certificates included."""
MAX_CERTIFICATES = 100
"""That one request may ask about."""
MAX_NONCE = 128
"""Octets of a nonce (RFC 9654 section 2.1)."""
_MAX_EXTENSIONS = 32
_MAX_SERIAL = 64

SHA1 = "1.3.14.3.2.26"
SHA256 = "2.16.840.1.101.3.4.2.1"
SHA384 = "2.16.840.1.101.3.4.2.2"
SHA512 = "2.16.840.1.101.3.4.2.3"

_PKIX_OCSP = "1.3.6.1.5.5.7.48.1"
_BASIC = f"{_PKIX_OCSP}.1"
_NONCE = f"{_PKIX_OCSP}.2"
_ACCEPTABLE_RESPONSES = f"{_PKIX_OCSP}.4"
NO_CHECK = Extension(f"{_PKIX_OCSP}.5", False, der.NULL)
"""In a responder's certificate: its own status need not be asked (RFC 6960 section 4.2.2.2.1)."""
_ARCHIVE_CUTOFF = f"{_PKIX_OCSP}.6"
_SERVICE_LOCATOR = f"{_PKIX_OCSP}.7"
_PREFERRED_ALGORITHMS = f"{_PKIX_OCSP}.8"
_EXTENDED_REVOKE = f"{_PKIX_OCSP}.9"
OCSP_SIGNING = "1.3.6.1.5.5.7.3.9"
"""The extended key usage of delegated responders (RFC 6960 section 4.2.2.2)."""

MALFORMED_REQUEST = 1
INTERNAL_ERROR = 2
TRY_LATER = 3
UNAUTHORIZED = 6
"""OCSPResponseStatus (RFC 6960 section 4.2.1) of answers that nobody signs."""


class OCSPError(ValueError):
    """Not an OCSP request, or one of a kind that is refused."""


class CertID(msgspec.Struct, frozen=True):
    """Which certificate is meant (RFC 6960 section 4.1.1)."""

    der: bytes
    """As it was asked, and as the answer repeats it."""
    hash_algorithm: str
    """Dotted OID."""
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: bytes
    """Big-endian, without the DER sign octet; empty for a number that no certificate has."""


class OCSPRequest(msgspec.Struct, frozen=True):
    """What is asked."""

    certificates: tuple[CertID, ...]
    """At least one; in the order of the request, and perhaps twice the same."""
    nonce: bytes | None = None


def decode_request(data: bytes) -> OCSPRequest:
    """Read an OCSPRequest (RFC 6960 section 4.1.1). Raises ``OCSPError``."""
    if len(data) > MAX_REQUEST:
        raise OCSPError(f"a request of more than {MAX_REQUEST} octets")
    try:
        return _request(data)
    except der.DERError as error:
        raise OCSPError(f"not an OCSP request in DER: {error}") from None


def _request(data: bytes) -> OCSPRequest:
    outer = der.whole(data)
    tbs = outer.enter()
    if outer.peek() == 0xA0:
        signature = outer.enter(0xA0)
        signed = signature.enter()
        signature.finish()
        signed.raw(der.SEQUENCE)
        signed.content(der.BIT_STRING)
        if signed.peek() == 0xA0:
            signed.raw(0xA0)
        signed.finish()
    outer.finish()
    if tbs.peek() == 0xA0:
        version = tbs.enter(0xA0)
        if version.integer() != 0:
            raise OCSPError("a request of another version than 1")
        version.finish()
    if tbs.peek() == 0xA1:
        requestor = tbs.enter(0xA1)
        requestor.any()
        requestor.finish()
    requests = tbs.enter()
    nonce = None
    if tbs.peek() == 0xA2:
        nonce = _request_extensions(tbs.enter(0xA2))
    tbs.finish()
    certificates: list[CertID] = []
    while requests.more():
        if len(certificates) == MAX_CERTIFICATES:
            raise OCSPError(f"a request about more than {MAX_CERTIFICATES} certificates")
        request = requests.enter()
        certificates.append(_cert_id(request))
        if request.more():
            _single_extensions(request.enter(0xA0))
            request.finish()
    if not certificates:
        raise OCSPError("a request about no certificate")
    return OCSPRequest(tuple(certificates), nonce)


def _cert_id(request: der.Reader) -> CertID:
    begin = request.offset
    fields = request.enter()
    raw = request.data[begin : request.offset]
    # Parameters may be NULL or absent (RFC 4055 section 2.1); they are the client's to choose.
    algorithm = fields.enter()
    oid = algorithm.oid()
    if algorithm.more():
        algorithm.any()
        algorithm.finish()
    name_hash = fields.content(der.OCTET_STRING)
    key_hash = fields.content(der.OCTET_STRING)
    serial = fields.content(der.INTEGER)
    fields.finish()
    if not serial or len(serial) > _MAX_SERIAL:
        raise OCSPError("a serial number that is empty or far too long")
    # Serial numbers are positive (RFC 5280 section 4.1.2.2).
    return CertID(raw, oid, name_hash, key_hash, b"" if serial[0] & 0x80 else serial.lstrip(b"\0"))


def _extensions(wrapped: der.Reader) -> tuple[Extension, ...]:
    inner = wrapped.enter()
    wrapped.finish()
    found = extensions.decode_all(inner)
    if len(found) > _MAX_EXTENSIONS or len({extension.oid for extension in found}) != len(found):
        raise OCSPError("the same extension twice, or very many")
    return found


def _request_extensions(wrapped: der.Reader) -> bytes | None:
    """The nonce. Extensions that are known here do not change the answer; unknown ones are passed over unless
    they are critical (RFC 6960 section 4.1.2)."""
    nonce = None
    for extension in _extensions(wrapped):
        if extension.oid == _NONCE:
            value = der.Reader(extension.value)
            nonce = value.content(der.OCTET_STRING)
            value.finish()
            if not 1 <= len(nonce) <= MAX_NONCE:
                raise OCSPError(f"a nonce has 1 to {MAX_NONCE} octets (RFC 9654 section 2.1)")
        elif extension.critical and extension.oid not in (_ACCEPTABLE_RESPONSES, _PREFERRED_ALGORITHMS):
            raise OCSPError(f"a critical extension that is not known: {extension.oid}")
    return nonce


def _single_extensions(wrapped: der.Reader) -> None:
    for extension in _extensions(wrapped):
        if extension.critical and extension.oid != _SERVICE_LOCATOR:
            raise OCSPError(f"a critical extension that is not known: {extension.oid}")


def plain_request(cert_id: bytes) -> bytes:
    """DER of the request that asks for one certificate and nothing else; ``cert_id`` is a DER CertID."""
    return der.sequence(der.sequence(der.sequence(der.sequence(cert_id))))


def cert_id(
    hash_algorithm: str, issuer_name_hash: bytes, issuer_key_hash: bytes, serial: bytes, parameters: bytes
) -> bytes:
    """DER of a CertID; ``parameters`` of the algorithm are ``der.NULL`` or empty."""
    return der.sequence(
        der.sequence(der.oid(hash_algorithm), parameters),
        der.octet_string(issuer_name_hash),
        der.octet_string(issuer_key_hash),
        der.unsigned(serial),
    )


# --- responses -------------------------------------------------------------------------------


class CertStatus(msgspec.Struct, frozen=True):
    """Good, revoked or unknown (RFC 6960 section 4.2.1)."""

    kind: str
    """``good``, ``revoked`` or ``unknown``."""
    revoked_at: int = 0
    """Unix seconds."""
    reason: int | None = None
    """CRLReason (RFC 5280 section 5.3.1); None and 0, unspecified, are not encoded."""


GOOD = CertStatus("good")
UNKNOWN = CertStatus("unknown")
NON_ISSUED = CertStatus("revoked", 0, 6)
"""Of a serial number that was never issued: on hold since 1970-01-01 (RFC 6960 section 2.2). The response
then says ``extended_revoke``."""


class SingleResponse(msgspec.Struct, frozen=True):
    """The status of one certificate. Times are Unix seconds."""

    cert_id: bytes
    """The DER CertID of the request."""
    status: CertStatus
    this_update: int
    next_update: int
    archive_cutoff: int | None = None
    """Since when certificates may have expired and still be answered for (RFC 6960 section 4.4.4)."""


_REASONS = frozenset({1, 2, 3, 4, 5, 6, 8, 9, 10})
_NOT_SIGNED = {
    status: der.sequence(der.tlv(0x0A, bytes((status,))))
    for status in (MALFORMED_REQUEST, INTERNAL_ERROR, TRY_LATER, UNAUTHORIZED)
}
_SUCCESSFUL = der.tlv(0x0A, b"\x00")
_BASIC_OID = der.oid(_BASIC)
_STATUS_GOOD, _STATUS_UNKNOWN = der.tlv(0x80, b""), der.tlv(0x82, b"")
_EXTENDED = extensions.encode(_EXTENDED_REVOKE, False, der.NULL)


def unsuccessful(status: int) -> bytes:
    """DER of an OCSPResponse without a signature."""
    return _NOT_SIGNED[status]


@lru_cache(maxsize=1024)
def _time(seconds: int) -> bytes:
    return der.generalized_time(seconds)


def _status(status: CertStatus) -> bytes:
    if status.kind == "good":
        return _STATUS_GOOD
    if status.kind == "unknown":
        return _STATUS_UNKNOWN
    if not status.reason:
        return der.context(1, _time(status.revoked_at))
    if status.reason not in _REASONS:
        raise ValueError(f"{status.reason} is no CRLReason (RFC 5280 section 5.3.1)")
    reason = der.context(0, der.tlv(0x0A, bytes((status.reason,))))
    return der.context(1, _time(status.revoked_at) + reason)


def _single(single: SingleResponse) -> bytes:
    cutoff = b""
    if single.archive_cutoff is not None:
        value = extensions.encode(_ARCHIVE_CUTOFF, False, _time(single.archive_cutoff))
        cutoff = der.context(1, der.sequence(value))
    return der.sequence(
        single.cert_id,
        _status(single.status),
        _time(single.this_update),
        # Always there: RFC 9919 section 3.2.4 (without it, newer information would be available at any time).
        der.context(0, _time(single.next_update)),
        cutoff,
    )


def tbs_response(
    responder_key_hash: bytes,
    produced_at: int,
    singles: tuple[SingleResponse, ...],
    *,
    nonce: bytes | None = None,
    extended_revoke: bool = False,
) -> bytes:
    """DER of the ResponseData that is to be signed (RFC 6960 section 4.2.1), version 1.

    ``responder_key_hash`` is SHA-1 over the responder's public key. Raises ``ValueError`` for a time or a
    reason that has no encoding.
    """
    written = _EXTENDED if extended_revoke else b""
    if nonce is not None:
        written += extensions.encode(_NONCE, False, der.octet_string(nonce))
    return der.sequence(
        der.context(2, der.octet_string(responder_key_hash)),
        _time(produced_at),
        der.sequence(*[_single(single) for single in singles]),
        der.context(1, der.tlv(der.SEQUENCE, written)) if written else b"",
    )


def response(tbs: bytes, algorithm: bytes, signature: bytes, certificates: tuple[bytes, ...] = ()) -> bytes:
    """DER of a successful OCSPResponse. ``algorithm`` is the DER AlgorithmIdentifier of the signature;
    ``certificates`` are DER, the responder's first."""
    basic = der.sequence(
        tbs,
        algorithm,
        der.bit_string(signature),
        der.context(0, der.sequence(*certificates)) if certificates else b"",
    )
    return der.sequence(_SUCCESSFUL, der.context(0, der.sequence(_BASIC_OID, der.octet_string(basic))))
