"""A client's side of JWS, independent of the server's: keys, signatures and base64url by plain means."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey

_EC = {
    "secp256r1": ("P-256", "ES256", 32, hashes.SHA256()),
    "secp384r1": ("P-384", "ES384", 48, hashes.SHA384()),
    "secp521r1": ("P-521", "ES512", 66, hashes.SHA512()),
}


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def new_key(kind: str = "P-256") -> Key:
    match kind:
        case "P-256":
            return ec.generate_private_key(ec.SECP256R1())
        case "P-384":
            return ec.generate_private_key(ec.SECP384R1())
        case "P-521":
            return ec.generate_private_key(ec.SECP521R1())
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
    raise ValueError(kind)


def jwk(key: Key) -> dict[str, str]:
    """The public JWK."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        crv, _, size, _ = _EC[key.curve.name]
        numbers = key.public_key().public_numbers()
        x, y = numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big")
        return {"kty": "EC", "crv": crv, "x": b64(x), "y": b64(y)}
    if isinstance(key, rsa.RSAPrivateKey):
        public = key.public_key().public_numbers()
        return {"kty": "RSA", "n": _number(public.n), "e": _number(public.e)}
    crv = "Ed25519" if isinstance(key, ed25519.Ed25519PrivateKey) else "Ed448"
    return {"kty": "OKP", "crv": crv, "x": b64(key.public_key().public_bytes_raw())}


def _number(value: int) -> str:
    return b64(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def algorithm(key: Key) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return _EC[key.curve.name][1]
    return "RS256" if isinstance(key, rsa.RSAPrivateKey) else "EdDSA"


def signature(key: Key, data: bytes) -> bytes:
    if isinstance(key, ec.EllipticCurvePrivateKey):
        _, _, size, hash = _EC[key.curve.name]
        r, s = decode_dss_signature(key.sign(data, ec.ECDSA(hash)))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)


def thumbprint(key: Key) -> str:
    members = json.dumps(jwk(key), sort_keys=True, separators=(",", ":"))
    return b64(hashlib.sha256(members.encode()).digest())


def flattened(key: Key, header: dict[str, Any], payload: bytes | str) -> dict[str, str]:
    """A JWS in flattened JSON serialization; ``alg`` is the key's unless the header names one."""
    protected = b64(json.dumps({"alg": algorithm(key), **header}).encode())
    content = b64(payload.encode() if isinstance(payload, str) else payload)
    signed = signature(key, f"{protected}.{content}".encode())
    return {"protected": protected, "payload": content, "signature": b64(signed)}


def binding(mac_key: bytes, kid: str, url: str, account: Key, **header: Any) -> dict[str, str]:
    """An external account binding (RFC 8555 section 7.3.4)."""
    protected = b64(json.dumps({"alg": "HS256", "kid": kid, "url": url, **header}).encode())
    payload = b64(json.dumps(jwk(account)).encode())
    digest = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[header.get("alg", "HS256")]
    mac = hmac.digest(mac_key, f"{protected}.{payload}".encode(), digest)
    return {"protected": protected, "payload": payload, "signature": b64(mac)}
