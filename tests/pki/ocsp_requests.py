"""OCSP requests of every shape, and the responses' fields, for tests and benches."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from certloom.pki import der, extensions, ocsp
from certloom.pki.template import IssuerFacts

NONCE = "1.3.6.1.5.5.7.48.1.2"
_DIGESTS = {ocsp.SHA1: "sha1", ocsp.SHA256: "sha256", ocsp.SHA384: "sha384", ocsp.SHA512: "sha512"}


def cert_id(
    issuer: IssuerFacts, serial: bytes, algorithm: str = ocsp.SHA1, parameters: bytes = der.NULL
) -> bytes:
    """DER CertID of one certificate of this issuer."""
    spki = der.whole(issuer.spki)
    spki.enter()
    name, key = (hashlib.new(_DIGESTS[algorithm], part).digest() for part in (issuer.name, spki.bit_string()))
    return ocsp.cert_id(algorithm, name, key, serial, parameters)


def request(
    cert_ids: Sequence[bytes],
    nonce: bytes | None = None,
    *,
    version: bool = False,
    requestor: bytes = b"",
    more: bytes = b"",
    single: bytes = b"",
    signature: bool = False,
) -> bytes:
    """DER OCSPRequest. ``more`` are further request extensions, ``single`` those of each certificate."""
    asked = [
        der.sequence(one, der.context(0, der.tlv(der.SEQUENCE, single)) if single else b"")
        for one in cert_ids
    ]
    written = more
    if nonce is not None:
        written += extensions.encode(NONCE, False, der.octet_string(nonce))
    tbs = der.sequence(
        der.context(0, der.integer(0)) if version else b"",
        der.context(1, requestor) if requestor else b"",
        der.sequence(*asked),
        der.context(2, der.tlv(der.SEQUENCE, written)) if written else b"",
    )
    signed = der.sequence(
        der.sequence(der.oid("1.2.840.10045.4.3.2")),
        der.bit_string(b"not looked at"),
        der.context(0, der.sequence(der.sequence())),
    )
    return der.sequence(tbs, der.context(0, signed) if signature else b"")


def malformed(issuer: IssuerFacts) -> dict[str, bytes]:
    """Requests that are none, by what is wrong with them. Replayed at every door."""
    good = cert_id(issuer, b"\x05")
    plain = request([good])
    long_form = plain[:1] + b"\x81" + plain[1:]
    digest = hashlib.sha1(b"", usedforsecurity=False).digest()
    unknown_critical = extensions.encode("1.2.3.4", True, der.NULL)
    return {
        "nothing": b"",
        "one octet": b"\x30",
        "not ASN.1": b"GET / HTTP/1.1\r\n\r\n",
        "zeros": bytes(64),
        "cut off": plain[:-1],
        "something after it": plain + b"\x00",
        "a length that is not minimal": long_form,
        "indefinite length": b"\x30\x80" + plain[2:] + b"\x00\x00",
        "a huge length": b"\x30\x84\xff\xff\xff\xff" + plain[2:],
        "deeply nested": b"\x30\x80" * 5000,
        "nested in itself": _nested(200),
        "no certificate": request([]),
        "version 2": der.sequence(
            der.sequence(der.context(0, der.integer(1)), der.sequence(der.sequence(good)))
        ),
        "101 certificates": request([good] * 101),
        "an empty nonce": request([good], b""),
        "a nonce of 129 octets": request([good], bytes(129)),
        "a nonce that is no OCTET STRING": request([good], more=extensions.encode(NONCE, False, b"\x01\x02")),
        "two nonces": request([good], b"1", more=extensions.encode(NONCE, False, der.octet_string(b"2"))),
        "an unknown critical extension": request([good], more=unknown_critical),
        "an unknown critical extension of one certificate": request([good], single=unknown_critical),
        "very many extensions": request(
            [good], more=b"".join(extensions.encode(f"1.2.{i}", False, der.NULL) for i in range(40))
        ),
        "an endless serial": request([ocsp.cert_id(ocsp.SHA1, digest, digest, b"\x7f" * 200, der.NULL)]),
        "an empty serial": request([der.sequence(der.whole(good).data[2:-3], b"\x02\x00")]),
        "a certificate ID without a serial": request(
            [
                der.sequence(
                    der.sequence(der.oid(ocsp.SHA1)), der.octet_string(digest), der.octet_string(digest)
                )
            ]
        ),
        "half a signature": der.sequence(
            der.sequence(der.sequence(der.sequence(good))), der.context(0, der.sequence(der.sequence()))
        ),
        "larger than any": request([good], more=extensions.encode("1.2.3", False, bytes(70_000))),
        "a response": ocsp.unsuccessful(ocsp.TRY_LATER),
    }


def _nested(depth: int) -> bytes:
    made = der.sequence()
    for _ in range(depth):
        made = der.sequence(made)
    return made
