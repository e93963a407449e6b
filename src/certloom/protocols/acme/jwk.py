"""Account keys: JSON Web Keys (RFC 7517, RFC 7518 section 6, RFC 8037) and their thumbprints (RFC 7638)."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from hashlib import sha256
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from msgspec import UNSET, Raw, UnsetType

from certloom.pki.keys import KeyRejected, check_fit, facts_of
from certloom.protocols.acme import base64url
from certloom.protocols.acme.problems import Problem

_MOST_RSA_BITS = 8_192
_LONGEST_JWK = 4_096
_KEYS_KEPT = 2_048
"""Parsed keys held ready; about 5 kB each."""

Verify = Callable[[bytes, bytes], None]
"""(signature, data); raises ``InvalidSignature``."""


class _JWK(msgspec.Struct, frozen=True):
    kty: str
    crv: str = ""
    x: str = ""
    y: str = ""
    n: str = ""
    e: str = ""
    d: Raw | UnsetType = UNSET
    k: Raw | UnsetType = UNSET


class AccountKey(msgspec.Struct, frozen=True):
    """A public key that may sign ACME requests."""

    algorithms: tuple[str, ...]
    """The JWS algorithms it may sign with; several where one has two names (RFC 9864)."""
    canonical: str
    """The JWK of RFC 7638 section 3: required members only, sorted, no white space."""
    thumbprint: bytes
    """SHA-256 of the canonical JWK."""
    spki: bytes
    """DER SubjectPublicKeyInfo, to compare with a certificate's key."""
    verify: Verify

    @property
    def thumbprint_text(self) -> str:
        """What follows the dot in a key authorization (RFC 8555 section 8.1)."""
        return base64url.encode(self.thumbprint)


_decode = msgspec.json.Decoder(_JWK).decode


def _bad(detail: str) -> Problem:
    return Problem("badPublicKey", detail)


_CURVES: Final[dict[str, tuple[str, int, ec.EllipticCurve, hashes.HashAlgorithm]]] = {
    "P-256": ("ES256", 32, ec.SECP256R1(), hashes.SHA256()),
    "P-384": ("ES384", 48, ec.SECP384R1(), hashes.SHA384()),
    "P-521": ("ES512", 66, ec.SECP521R1(), hashes.SHA512()),
}
ALGORITHMS: Final = ("ES256", "ES384", "ES512", "RS256", "EdDSA", "Ed25519", "Ed448")
"""What RFC 8555 section 6.2 makes mandatory and recommended, and what clients really use."""


def account_key(jwk: str) -> AccountKey:
    """Parse and check a JWK. Raises ``badPublicKey``, or ``malformed`` for what is no JWK at all."""
    if len(jwk) > _LONGEST_JWK:
        raise _bad(f"the JWK has more than {_LONGEST_JWK} characters")
    return _account_key(jwk)


@lru_cache(_KEYS_KEPT)
def _account_key(jwk: str) -> AccountKey:
    try:
        parsed = _decode(jwk)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Problem("malformed", f"not a JSON Web Key: {error}") from None
    if parsed.d is not UNSET or parsed.k is not UNSET:
        raise _bad("the JWK holds a private or symmetric key; create a new key and send its public part only")
    try:
        match parsed.kty:
            case "EC":
                return _ec(parsed)
            case "RSA":
                return _rsa(parsed)
            case "OKP":
                return _okp(parsed)
    except (ValueError, KeyRejected) as error:
        raise _bad(f"the account key cannot be used: {error}") from None
    raise _bad("the key type must be EC, RSA or OKP")


def _finish(algorithms: tuple[str, ...], canonical: str, spki: bytes, verify: Verify) -> AccountKey:
    check_fit(facts_of(spki))
    return AccountKey(algorithms, canonical, sha256(canonical.encode()).digest(), spki, verify)


def _ec(jwk: _JWK) -> AccountKey:
    if jwk.crv not in _CURVES:
        raise ValueError("the curve must be P-256, P-384 or P-521")
    algorithm, size, curve, hash = _CURVES[jwk.crv]
    x, y = _coordinate(jwk.x, size), _coordinate(jwk.y, size)
    key = ec.EllipticCurvePublicKey.from_encoded_point(curve, b"\x04" + x + y)
    scheme = ec.ECDSA(hash)
    check = key.verify

    def verify(signature: bytes, data: bytes) -> None:
        # RFC 7518 section 3.4: r and s side by side, each of the curve's size.
        if len(signature) != 2 * size:
            raise InvalidSignature
        r, s = int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
        check(encode_dss_signature(r, s), data, scheme)

    canonical = f'{{"crv":"{jwk.crv}","kty":"EC","x":"{base64url.encode(x)}","y":"{base64url.encode(y)}"}}'
    return _finish((algorithm,), canonical, _spki(key), verify)


def _coordinate(text: str, size: int) -> bytes:
    """A coordinate at its full size (RFC 7518 section 6.2.1.2); zero octets put before it are dropped."""
    octets = base64url.decode(text)
    if len(octets) > size:
        octets = octets[:-size].lstrip(b"\0") + octets[-size:]
    if len(octets) != size:
        raise ValueError(f"a coordinate on this curve has {size} octets")
    return octets


def _rsa(jwk: _JWK) -> AccountKey:
    # RFC 8555 section 8.1 (by way of RFC 7518): zero octets before a number do not count.
    n, e = base64url.decode(jwk.n).lstrip(b"\0"), base64url.decode(jwk.e).lstrip(b"\0")
    if len(n) * 8 > _MOST_RSA_BITS or len(e) > 8:
        raise ValueError(f"RSA keys may have at most {_MOST_RSA_BITS} bits and an exponent of 64")
    key = rsa.RSAPublicNumbers(int.from_bytes(e, "big"), int.from_bytes(n, "big")).public_key()
    scheme, hash = padding.PKCS1v15(), hashes.SHA256()
    check = key.verify

    def verify(signature: bytes, data: bytes) -> None:
        check(signature, data, scheme, hash)

    canonical = f'{{"e":"{base64url.encode(e)}","kty":"RSA","n":"{base64url.encode(n)}"}}'
    return _finish(("RS256",), canonical, _spki(key), verify)


def _okp(jwk: _JWK) -> AccountKey:
    x = base64url.decode(jwk.x)
    key: ed25519.Ed25519PublicKey | ed448.Ed448PublicKey
    match jwk.crv:
        case "Ed25519":
            key = ed25519.Ed25519PublicKey.from_public_bytes(x)
        case "Ed448":
            key = ed448.Ed448PublicKey.from_public_bytes(x)
        case _:
            raise ValueError("the curve must be Ed25519 or Ed448")
    canonical = f'{{"crv":"{jwk.crv}","kty":"OKP","x":"{base64url.encode(x)}"}}'
    return _finish(("EdDSA", jwk.crv), canonical, _spki(key), key.verify)


def _spki(
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey,
) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
