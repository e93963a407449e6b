"""The hash functions and signature algorithms of CMS, and how its two ways of naming them go together."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from certloom.pki import der, signatures
from certloom.pki.der import DERError
from certloom.pki.keys import KeyRejected, PublicKey, facts_of
from certloom.pki.signatures import SignatureError

SHA1 = "1.3.14.3.2.26"
SHA256 = "2.16.840.1.101.3.4.2.1"
SHA384 = "2.16.840.1.101.3.4.2.2"
SHA512 = "2.16.840.1.101.3.4.2.3"
SHAKE256 = "2.16.840.1.101.3.4.2.12"
"""With 512 bits of output (RFC 8702 section 3.1)."""
SHAKE256_LEN = "2.16.840.1.101.3.4.2.18"
"""With 512 bits of output, which its parameters say (RFC 8419 section 2.3)."""


def _shake256(data: bytes) -> bytes:
    return hashlib.shake_256(data).digest(64)


_DIGESTS: dict[str, Callable[[bytes], bytes]] = {
    SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    SHA256: lambda data: hashlib.sha256(data).digest(),
    SHA384: lambda data: hashlib.sha384(data).digest(),
    SHA512: lambda data: hashlib.sha512(data).digest(),
    SHAKE256: _shake256,
    SHAKE256_LEN: _shake256,
}
# Written without parameters, as RFC 5754 section 2 has it; read with a NULL as well.
_IDENTIFIERS = {
    oid: der.sequence(der.oid(oid), der.integer(512) if oid == SHAKE256_LEN else b"") for oid in _DIGESTS
}
_OIDS = {identifier: oid for oid, identifier in _IDENTIFIERS.items()} | {
    der.sequence(der.oid(oid), der.NULL): oid for oid in _DIGESTS if oid != SHAKE256_LEN
}


def digest_oid(identifier: bytes) -> str:
    """Which hash function a DER DigestAlgorithmIdentifier names, known here or not. Raises ``DERError``."""
    known = _OIDS.get(identifier)
    if known is not None:
        return known
    oid = der.whole(identifier).oid()
    if oid in _DIGESTS:
        raise DERError(f"hash function {oid} with parameters that it does not have")
    return oid


def digest_identifier(oid: str) -> bytes:
    """DER DigestAlgorithmIdentifier of one of the hash functions named here."""
    return _IDENTIFIERS[oid]


def digest(oid: str, data: bytes, *, legacy: bool = False) -> bytes:
    """The digest of this; by SHA-1 only with ``legacy``. Raises ``SignatureError`` for a hash function that
    is not accepted."""
    if oid not in _DIGESTS or (oid == SHA1 and not legacy):
        raise SignatureError("bad-signature-algorithm", f"hash function {oid} is not accepted")
    return _DIGESTS[oid](data)


def digest_for(spki: bytes) -> str:
    """The hash function that goes with a key in a SignerInfo: SHA-256 with RSA, its curve's with EC, SHA-512
    with Ed25519 (RFC 8419 section 3.1) and ML-DSA (RFC 9882 section 3.3), SHAKE256 with Ed448.

    Raises ``KeyRejected`` for a key that is not supported, or cannot sign.
    """
    key = facts_of(spki)
    match key.algorithm:
        case "rsa":
            return SHA256
        case "ec":
            return {"P-256": SHA256, "P-384": SHA384}.get(key.curve, SHA512)
        case "ed448":
            return SHAKE256_LEN
        case "ed25519" | "ml-dsa-44" | "ml-dsa-65" | "ml-dsa-87":
            return SHA512
    raise KeyRejected("unsupported-key", f"a key for {key.algorithm} cannot sign")


_RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
_EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_RSASSA_PSS = "1.2.840.113549.1.1.10"
_RSA_SIGNATURES = {
    SHA1: "1.2.840.113549.1.1.5",
    SHA256: "1.2.840.113549.1.1.11",
    SHA384: "1.2.840.113549.1.1.12",
    SHA512: "1.2.840.113549.1.1.13",
}
_EC_SIGNATURES = {
    SHA1: "1.2.840.10045.4.1",
    SHA256: "1.2.840.10045.4.3.2",
    SHA384: "1.2.840.10045.4.3.3",
    SHA512: "1.2.840.10045.4.3.4",
}
_HASHES = {oid: name for family in (_RSA_SIGNATURES, _EC_SIGNATURES) for name, oid in family.items()}


def as_rsa_encryption(algorithm: bytes) -> bytes:
    """rsaEncryption for an RSA PKCS #1 v1.5 signature algorithm, any other as it is."""
    if der.whole(algorithm).oid() in _RSA_SIGNATURES.values():
        return der.sequence(der.oid(_RSA_ENCRYPTION), der.NULL)
    return algorithm


def verify(key: PublicKey, algorithm: bytes, digest: str, signature: bytes, data: bytes) -> None:
    """Raise ``SignatureError`` unless ``signature`` is this key's over ``data``.

    ``algorithm`` is a SignerInfo's DER signatureAlgorithm, which may be no more than the key's own
    (RFC 3370 section 3.2) and gets its hash function from ``digest``. Where it names one, it must be that one
    (RFC 8933 section 3.1). SHA-1 is refused where ``digest`` refuses it.
    """
    try:
        oid = der.whole(algorithm).oid()
        if oid in (_RSA_ENCRYPTION, _EC_PUBLIC_KEY):
            family = _RSA_SIGNATURES if oid == _RSA_ENCRYPTION else _EC_SIGNATURES
            if digest not in family:
                raise SignatureError("bad-signature-algorithm", f"hash function {digest} with {oid}")
            named, oid = digest, family[digest]
            algorithm = der.sequence(der.oid(oid))
        else:
            named = _pss_hash(algorithm) if oid == _RSASSA_PSS else _HASHES.get(oid, digest)
    except DERError as error:
        raise SignatureError("bad-signature-algorithm", f"a malformed signature algorithm: {error}") from None
    if named != digest:
        raise SignatureError(
            "bad-signature-algorithm", "the signature and the digest are of two hash functions"
        )
    if digest == SHA1:
        _verify_sha1(key, oid, signature, data)
    else:
        signatures.verify(key, algorithm, signature, data)


def _pss_hash(algorithm: bytes) -> str:
    """The hash function in RSASSA-PSS parameters (RFC 4055 section 3.1); SHA-1 is what they default to."""
    reader = der.whole(algorithm)
    reader.oid()
    if not reader.more():
        return SHA1
    parameters = reader.enter()
    return digest_oid(parameters.enter(0xA0).raw(der.SEQUENCE)) if parameters.peek() == 0xA0 else SHA1


def _verify_sha1(key: PublicKey, oid: str, signature: bytes, data: bytes) -> None:
    sha1 = hashes.SHA1()  # noqa: S303 - only where the caller asked for it
    try:
        if oid == _RSA_SIGNATURES[SHA1] and isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, data, padding.PKCS1v15(), sha1)
        elif oid == _EC_SIGNATURES[SHA1] and isinstance(key, ec.EllipticCurvePublicKey):
            key.verify(signature, data, ec.ECDSA(sha1))
        else:
            raise SignatureError("bad-signature-algorithm", f"SHA-1 with signature algorithm {oid}")
    except (InvalidSignature, ValueError) as error:
        if isinstance(error, SignatureError):
            raise
        raise SignatureError("bad-signature", "the signature does not verify") from None
