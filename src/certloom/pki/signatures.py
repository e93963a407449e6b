"""Signature algorithms: which one a key signs with, and which ones are taken from others.

SHA-2 throughout. Signatures with SHA-1 or MD5 are refused, whoever made them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, padding, rsa

from certloom.pki import der
from certloom.pki.keys import PrivateKey, PublicKey


class SignatureError(ValueError):
    """The signature is not valid (``bad-signature``), or its algorithm is not accepted or does not fit the
    key (``bad-signature-algorithm``); ``code`` says which."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_Check: TypeAlias = Callable[[Any, bytes, bytes], None]
_Verifier: TypeAlias = tuple[type[PublicKey] | Any, _Check]

_SHA2: dict[str, hashes.HashAlgorithm] = {
    "2.16.840.1.101.3.4.2.4": hashes.SHA224(),
    "2.16.840.1.101.3.4.2.1": hashes.SHA256(),
    "2.16.840.1.101.3.4.2.2": hashes.SHA384(),
    "2.16.840.1.101.3.4.2.3": hashes.SHA512(),
}
_SHA256, _SHA384, _SHA512 = hashes.SHA256(), hashes.SHA384(), hashes.SHA512()
_ECDSA_SHA256, _ECDSA_SHA384, _ECDSA_SHA512 = ec.ECDSA(_SHA256), ec.ECDSA(_SHA384), ec.ECDSA(_SHA512)
_PKCS1 = padding.PKCS1v15()


def _identifier(oid: str, parameters: bytes = b"") -> bytes:
    return der.sequence(der.oid(oid), parameters)


_RSA_SHA256 = "1.2.840.113549.1.1.11"
_RSA_SHA384 = "1.2.840.113549.1.1.12"
_RSA_SHA512 = "1.2.840.113549.1.1.13"
_RSASSA_PSS = "1.2.840.113549.1.1.10"
_MGF1 = "1.2.840.113549.1.1.8"
_EC_SHA256 = "1.2.840.10045.4.3.2"
_EC_SHA384 = "1.2.840.10045.4.3.3"
_EC_SHA512 = "1.2.840.10045.4.3.4"
_ED25519 = "1.3.101.112"
_ED448 = "1.3.101.113"
_ML_DSA_44 = "2.16.840.1.101.3.4.3.17"
_ML_DSA_65 = "2.16.840.1.101.3.4.3.18"
_ML_DSA_87 = "2.16.840.1.101.3.4.3.19"


def _pkcs1(digest: hashes.HashAlgorithm) -> _Verifier:
    return rsa.RSAPublicKey, lambda key, signature, data: key.verify(signature, data, _PKCS1, digest)


def _ecdsa(algorithm: ec.ECDSA) -> _Verifier:
    return ec.EllipticCurvePublicKey, lambda key, signature, data: key.verify(signature, data, algorithm)


def _plain(key_type: type[PublicKey]) -> _Verifier:
    return key_type, lambda key, signature, data: key.verify(signature, data)


# By whole AlgorithmIdentifier. For RSA the NULL may be missing (RFC 4055 section 5); some senders
# add one for ECDSA, where it should be missing (RFC 5758 section 3.2), and harm nobody by it.
_VERIFIERS: dict[bytes, _Verifier] = {
    _identifier(oid, parameters): verifier
    for parameters in (b"", der.NULL)
    for oid, verifier in (
        (_RSA_SHA256, _pkcs1(_SHA256)),
        (_RSA_SHA384, _pkcs1(_SHA384)),
        (_RSA_SHA512, _pkcs1(_SHA512)),
        (_EC_SHA256, _ecdsa(_ECDSA_SHA256)),
        (_EC_SHA384, _ecdsa(_ECDSA_SHA384)),
        (_EC_SHA512, _ecdsa(_ECDSA_SHA512)),
    )
} | {
    # Parameters absent: RFC 8410 section 3, RFC 9881 section 2.
    _identifier(_ED25519): _plain(ed25519.Ed25519PublicKey),
    _identifier(_ED448): _plain(ed448.Ed448PublicKey),
    _identifier(_ML_DSA_44): _plain(mldsa.MLDSA44PublicKey),
    _identifier(_ML_DSA_65): _plain(mldsa.MLDSA65PublicKey),
    _identifier(_ML_DSA_87): _plain(mldsa.MLDSA87PublicKey),
}


def verify(key: PublicKey, algorithm: bytes, signature: bytes, data: bytes) -> None:
    """Raise ``SignatureError`` unless ``signature`` is this key's over ``data``; ``algorithm`` is the DER
    AlgorithmIdentifier that came with it."""
    key_type, check = _VERIFIERS.get(algorithm) or _pss(algorithm)
    if not isinstance(key, key_type):
        raise SignatureError("bad-signature-algorithm", "the signature algorithm does not fit the key")
    try:
        check(key, signature, data)
    except (InvalidSignature, ValueError):
        raise SignatureError("bad-signature", "the signature does not verify") from None


@lru_cache(maxsize=64)
def _pss(algorithm: bytes) -> _Verifier:
    """RSASSA-PSS with its parameters (RFC 4055 section 3.1), or the refusal of any other algorithm."""
    try:
        reader = der.whole(algorithm)
        oid = reader.oid()
        if oid != _RSASSA_PSS:
            raise SignatureError("bad-signature-algorithm", f"signature algorithm {oid} is not accepted")
        parameters = reader.enter()
        reader.finish()
        # The defaults are SHA-1, so hash and mask generation must both be there.
        digest = _hash(parameters.enter(0xA0))
        mask = parameters.enter(0xA1)
        function = mask.enter()
        mask.finish()
        if function.oid() != _MGF1:
            raise SignatureError(
                "bad-signature-algorithm", "RSASSA-PSS with another mask generation than MGF1"
            )
        if _hash(function).name != digest.name:
            raise SignatureError("bad-signature-algorithm", "RSASSA-PSS with two different hash functions")
        salt_length = parameters.enter(0xA2).integer() if parameters.peek() == 0xA2 else 20
        if parameters.peek() == 0xA3 and parameters.enter(0xA3).integer() != 1:
            raise der.DERError("the trailer field is not 1")
        parameters.finish()
    except der.DERError as error:
        raise SignatureError("bad-signature-algorithm", f"a malformed signature algorithm: {error}") from None
    if not 0 <= salt_length <= 512:
        raise SignatureError("bad-signature-algorithm", "RSASSA-PSS with an impossible salt length")
    scheme = padding.PSS(padding.MGF1(digest), salt_length)
    return rsa.RSAPublicKey, lambda key, signature, data: key.verify(signature, data, scheme, digest)


def _hash(reader: der.Reader) -> hashes.HashAlgorithm:
    """The SHA-2 function that the next AlgorithmIdentifier names, its parameters NULL or absent."""
    identifier = reader.enter()
    reader.finish()
    oid = identifier.oid()
    if identifier.more() and identifier.any() != (der.NULL_TAG, b""):
        raise der.DERError("a hash function with parameters")
    identifier.finish()
    if oid not in _SHA2:
        raise SignatureError("bad-signature-algorithm", f"hash function {oid} is not accepted")
    return _SHA2[oid]


_RSA_SHA256_IDENTIFIER = _identifier(_RSA_SHA256, der.NULL)
_BY_CURVE: dict[str, tuple[bytes, ec.ECDSA]] = {
    "secp256r1": (_identifier(_EC_SHA256), _ECDSA_SHA256),
    "secp384r1": (_identifier(_EC_SHA384), _ECDSA_SHA384),
    "secp521r1": (_identifier(_EC_SHA512), _ECDSA_SHA512),
}
_BY_TYPE: tuple[tuple[type, type, bytes], ...] = (
    (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey, _identifier(_ED25519)),
    (ed448.Ed448PrivateKey, ed448.Ed448PublicKey, _identifier(_ED448)),
    (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey, _identifier(_ML_DSA_44)),
    (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey, _identifier(_ML_DSA_65)),
    (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey, _identifier(_ML_DSA_87)),
)


def algorithm_for(key: PrivateKey | PublicKey) -> bytes:
    """The DER AlgorithmIdentifier that this CA key signs with: ECDSA with its curve's own SHA-2, RSA PKCS#1
    v1.5 with SHA-256, else the key's one algorithm."""
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return _BY_CURVE[key.curve.name][0]
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        return _RSA_SHA256_IDENTIFIER
    for private_type, public_type, identifier in _BY_TYPE:
        if isinstance(key, private_type | public_type):
            return identifier
    raise TypeError(f"{type(key).__name__} cannot sign")


def sign_tbs(private_key: PrivateKey, tbs: bytes) -> tuple[bytes, bytes]:
    """Sign what is to be signed. Returns (DER AlgorithmIdentifier, signature octets); the identifier is
    ``algorithm_for(private_key)``."""
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        identifier, ecdsa = _BY_CURVE[private_key.curve.name]
        return identifier, private_key.sign(tbs, ecdsa)
    if isinstance(private_key, rsa.RSAPrivateKey):
        return _RSA_SHA256_IDENTIFIER, private_key.sign(tbs, _PKCS1, _SHA256)
    return algorithm_for(private_key), private_key.sign(tbs)


def assemble(private_key: PrivateKey, tbs: bytes) -> bytes:
    """``SIGNED { tbs }``: the three parts that certificates, requests and CRLs are made of, in DER."""
    algorithm, signature = sign_tbs(private_key, tbs)
    return der.sequence(tbs, algorithm, der.bit_string(signature))
