"""Reading and verifying the JWS that every ACME request is (RFC 8555 section 6.2, RFC 7515).

Only the flattened JSON serialization, with everything in the protected header. Nothing here looks anything
up: whoever asks finds the key of the account that ``kid`` names, or takes ``own_key``, and calls ``verify``.
"""

from __future__ import annotations

import hmac
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from msgspec import UNSET, Raw, UnsetType

from certloom.protocols.acme import base64url
from certloom.protocols.acme.jwk import ALGORITHMS, AccountKey, account_key
from certloom.protocols.acme.problems import Problem, malformed

_EAB_DIGESTS: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}


class _Flattened(msgspec.Struct, frozen=True, gc=False):
    protected: str
    payload: str
    signature: str
    header: Raw | UnsetType = UNSET
    signatures: Raw | UnsetType = UNSET


class _Protected(msgspec.Struct, frozen=True, gc=False):
    alg: str
    url: str
    nonce: str | None = None
    kid: str | None = None
    jwk: Raw | UnsetType = UNSET
    crit: Raw | UnsetType = UNSET
    b64: bool = True


class Unverified(msgspec.Struct, frozen=True, gc=False):
    """A well-formed JWS. Nothing in it may be believed before its signature is verified."""

    algorithm: str
    url: str
    nonce: str | None
    kid: str | None
    """An account URL, or for external account binding a key identifier; else ``jwk`` is set."""
    jwk: str | None
    payload: bytes
    signing_input: bytes
    signature: bytes


_flattened = msgspec.json.Decoder(_Flattened).decode
_protected = msgspec.json.Decoder(_Protected).decode


def read(body: bytes) -> Unverified:
    """Take a JWS apart. Raises ``malformed``, and nothing else, whatever the bytes."""
    try:
        outer = _flattened(body)
        if outer.header is not UNSET or outer.signatures is not UNSET:
            raise malformed("the JWS must be flattened, with one signature and no unprotected header")
        header = _protected(base64url.decode(outer.protected))
        payload = base64url.decode(outer.payload)
        signature = base64url.decode(outer.signature)
        jwk = None if header.jwk is UNSET else bytes(header.jwk).decode()
        signing_input = f"{outer.protected}.{outer.payload}".encode("ascii")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise malformed(f"not a JWS in flattened JSON serialization: {error}") from None
    if header.crit is not UNSET:
        raise malformed("the JWS has critical header parameters that are not understood")
    if not header.b64:
        raise malformed("the JWS payload must be base64url-encoded")
    if (jwk is None) == (header.kid is None):
        raise malformed("the protected header must have exactly one of jwk and kid")
    if header.kid is not None and "\0" in header.kid:
        raise malformed("kid has a NUL character")  # which PostgreSQL would not even compare
    return Unverified(
        header.alg, header.url, header.nonce, header.kid, jwk, payload, signing_input, signature
    )


def verify(jws: Unverified, key: AccountKey) -> None:
    """Check the signature with an account's key. Raises ``badSignatureAlgorithm`` or ``malformed``."""
    if jws.algorithm not in key.algorithms:
        raise _bad_algorithm(jws.algorithm, f"; this key signs with {key.algorithms[0]}")
    try:
        key.verify(jws.signature, jws.signing_input)
    except InvalidSignature:
        raise malformed("the JWS signature does not verify") from None


def check_algorithm(jws: Unverified) -> None:
    """Raises ``badSignatureAlgorithm`` for MACs, ``none`` and what else no account key signs with."""
    if jws.algorithm not in ALGORITHMS:
        raise _bad_algorithm(jws.algorithm)


def _bad_algorithm(named: str, more: str = "") -> Problem:
    return Problem(
        "badSignatureAlgorithm",
        f"the JWS algorithm {named[:32]!r} cannot be used{more}",
        algorithms=ALGORITHMS,
    )


def own_key(jws: Unverified) -> AccountKey:
    """The key in the header itself. Raises ``malformed`` where there is none, and ``badPublicKey``."""
    if jws.jwk is None:
        raise malformed("this request must be signed with the key given in jwk")
    return account_key(jws.jwk)


def verify_binding(jws: Unverified, mac_key: bytes) -> bool:
    """Whether the MAC of an external account binding (RFC 8555 section 7.3.4) is right."""
    expected = hmac.digest(mac_key, jws.signing_input, _EAB_DIGESTS[jws.algorithm])
    return hmac.compare_digest(expected, jws.signature)


def is_binding_algorithm(algorithm: str) -> bool:
    """Whether an external account binding may be made with it: RFC 8555 section 7.3.4 wants a MAC."""
    return algorithm in _EAB_DIGESTS
