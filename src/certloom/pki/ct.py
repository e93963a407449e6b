"""Certificate Transparency (RFC 6962): signed certificate timestamps, their list, precertificates.

A precertificate is the certificate that is to be, with a critical extension that no client accepts (the
*poison*), under the same serial number. A log answers it with a signed certificate timestamp (SCT), its
promise to publish it; the certificate then carries a list of those in place of the poison, and is the same in
all else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from certloom.pki import der
from certloom.pki.extensions import Extension

SCT_LIST = "1.3.6.1.4.1.11129.2.4.2"
"""The extension with the list of SCTs (section 3.3)."""
POISON_OID = "1.3.6.1.4.1.11129.2.4.3"
POISON = Extension(POISON_OID, True, der.NULL)
"""Makes a precertificate of a certificate (section 3.1)."""

_V1 = 0
_CERTIFICATE_TIMESTAMP = b"\x00"
_PRECERT_ENTRY = b"\x00\x01"
_HASH_SHA256 = 4
_SIGNATURE_RSA, _SIGNATURE_ECDSA = 1, 3  # RFC 5246 section 7.4.1.4.1
_SHA256 = hashes.SHA256()
_LIST_MOST = 0xFFFF

LogKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey


class CTError(ValueError):
    """This is no SCT, no list of them, no log's key or no precertificate; or an SCT that does not verify."""


class SCT(msgspec.Struct, frozen=True):
    """A log's promise (section 3.2), version 1."""

    log_id: bytes
    """SHA-256 of the log's SubjectPublicKeyInfo."""
    timestamp: int
    """Milliseconds since 1970 UTC."""
    extensions: bytes
    """None are known; whatever is here is signed."""
    signature: bytes
    """As TLS has it: hash and signature algorithm, length, signature."""


def encode_sct(sct: SCT) -> bytes:
    """As it stands in a list. Raises ``CTError`` for what has no such form."""
    if len(sct.log_id) != 32 or not 0 <= sct.timestamp < 1 << 64 or len(sct.extensions) > 0xFFFF:
        raise CTError("an SCT whose log, time or extensions have no encoding (RFC 6962 section 3.2)")
    return (
        bytes((_V1,))
        + sct.log_id
        + sct.timestamp.to_bytes(8, "big")
        + len(sct.extensions).to_bytes(2, "big")
        + sct.extensions
        + sct.signature
    )


def decode_sct(data: bytes) -> SCT:
    """Raises ``CTError``, also for another version than 1."""
    if len(data) < 43 or data[0] != _V1:
        raise CTError("not an SCT of version 1 (RFC 6962 section 3.2)")
    end = 43 + int.from_bytes(data[41:43], "big")
    signature = data[end:]
    _signature_parts(signature)
    return SCT(data[1:33], int.from_bytes(data[33:41], "big"), data[43:end], signature)


def encode_list(scts: Sequence[SCT]) -> bytes:
    """DER of the list's extension value: an OCTET STRING around TLS's encoding (section 3.3).

    Raises ``CTError`` for a list that is empty or too long.
    """
    body = b"".join(len(one).to_bytes(2, "big") + one for one in map(encode_sct, scts))
    if not 1 <= len(body) <= _LIST_MOST:
        raise CTError(f"a list of SCTs has 1 to {_LIST_MOST} octets")
    return der.octet_string(len(body).to_bytes(2, "big") + body)


def decode_list(value: bytes) -> tuple[SCT, ...]:
    """The SCTs in an extension's value. Raises ``CTError``."""
    try:
        outer = der.Reader(value)
        data = outer.content(der.OCTET_STRING)
        outer.finish()
    except der.DERError as error:
        raise CTError(f"not a list of SCTs: {error}") from None
    if len(data) < 2 or int.from_bytes(data[:2], "big") != len(data) - 2:
        raise CTError("a list of SCTs whose length is wrong")
    found, at = [], 2
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        at += 2
        if len(data) - at < size or not size:
            raise CTError("an SCT that is empty or cut off")
        found.append(decode_sct(data[at : at + size]))
        at += size
    if not found:
        raise CTError("an empty list of SCTs")
    return tuple(found)


def list_extension(scts: Sequence[SCT]) -> Extension:
    """The extension that takes the poison's place. Raises ``CTError``."""
    return Extension(SCT_LIST, False, encode_list(scts))


def log_key(spki: bytes) -> LogKey:
    """A log's key from its SubjectPublicKeyInfo: P-256, or RSA of 2048 bits or more (section 2.1.4).

    Raises ``CTError``.
    """
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise CTError(f"not a public key: {error}") from None
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise CTError("a log signs with P-256 or with RSA of at least 2048 bits (RFC 6962 section 2.1.4)")


def log_id(spki: bytes) -> bytes:
    """How SCTs name a log (section 3.2)."""
    return hashlib.sha256(spki).digest()


def verify(sct: SCT, key: LogKey, tbs: bytes, issuer_spki: bytes) -> None:
    """Raise ``CTError`` unless the SCT is signed by this log key over a precertificate.

    ``tbs`` is the TBSCertificate without poison and list (``signed_tbs``), ``issuer_spki`` of the CA that
    issues the certificate.
    """
    data = signed_data(sct.timestamp, sct.extensions, tbs, issuer_spki)
    algorithm, signature = _signature_parts(sct.signature)
    try:
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm == _SIGNATURE_ECDSA:
            key.verify(signature, data, ec.ECDSA(_SHA256))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm == _SIGNATURE_RSA:
            key.verify(signature, data, padding.PKCS1v15(), _SHA256)
        else:
            raise CTError("the SCT's signature algorithm is not that of the log's key")
    except InvalidSignature:
        raise CTError("the SCT's signature is not the log's over this precertificate") from None


def signed_data(timestamp: int, extensions: bytes, tbs: bytes, issuer_spki: bytes) -> bytes:
    """What a log signs for a precertificate (section 3.2)."""
    return b"".join(
        (
            bytes((_V1,)),
            _CERTIFICATE_TIMESTAMP,
            timestamp.to_bytes(8, "big"),
            _PRECERT_ENTRY,
            hashlib.sha256(issuer_spki).digest(),
            len(tbs).to_bytes(3, "big"),
            tbs,
            len(extensions).to_bytes(2, "big"),
            extensions,
        )
    )


def _signature_parts(data: bytes) -> tuple[int, bytes]:
    """TLS's DigitallySigned (RFC 5246 section 4.7): signature algorithm and signature. SHA-256 only."""
    if len(data) < 4 or int.from_bytes(data[2:4], "big") != len(data) - 4:
        raise CTError("an SCT whose signature is cut off or followed by something")
    if data[0] != _HASH_SHA256 or data[1] not in (_SIGNATURE_RSA, _SIGNATURE_ECDSA):
        raise CTError("an SCT is signed with SHA-256 and ECDSA or RSA (RFC 6962 section 2.1.4)")
    return data[1], data[4:]


def signed_tbs(certificate: bytes) -> bytes:
    """DER of the TBSCertificate that logs sign: without the poison and without the list of SCTs.

    The same for a precertificate and its certificate (section 3.2); everything else is kept octet by octet.
    Raises ``CTError`` for what is no certificate, or has no extensions.
    """
    try:
        whole = der.whole(certificate)
        tbs = whole.enter()
        parts = []
        while tbs.more() and tbs.peek() != 0xA3:
            begin = tbs.offset
            tbs.any()
            parts.append(tbs.data[begin : tbs.offset])
        wrapped = tbs.enter(0xA3)
        tbs.finish()
        listed = wrapped.enter()
        wrapped.finish()
        kept = []
        while listed.more():
            begin = listed.offset
            oid = listed.enter().oid()
            if oid not in (SCT_LIST, POISON_OID):
                kept.append(listed.data[begin : listed.offset])
    except der.DERError as error:
        raise CTError(f"not a certificate that can be logged: {error}") from None
    return der.sequence(*parts, der.context(3, der.sequence(*kept)))


def check_same(precertificate: bytes, certificate: bytes) -> None:
    """Raise ``CTError`` unless the certificate is the precertificate but for poison and list."""
    if signed_tbs(precertificate) != signed_tbs(certificate):
        raise CTError("the certificate is not the precertificate that was logged")
