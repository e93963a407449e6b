"""Public keys: what they are, and whether they are fit to certify. Private keys: making and storing them.

A key is known by the SHA-256 of its SubjectPublicKeyInfo; that is also what a blocklist holds.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TypeAlias

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, mldsa, mlkem, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_der_public_key,
)

from certloom.pki import der, roca

PublicKey: TypeAlias = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | ed448.Ed448PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | ed448.Ed448PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)

KEMPublicKey: TypeAlias = mlkem.MLKEM768PublicKey | mlkem.MLKEM1024PublicKey
KEMPrivateKey: TypeAlias = mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey
"""Keys that encapsulate and cannot sign (RFC 9935): of end entities only, and made here."""
LeafPrivateKey: TypeAlias = PrivateKey | KEMPrivateKey

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
MIN_RSA_EXPONENT = 65537


class PublicKeyFacts(msgspec.Struct, frozen=True):
    """A public key as policy sees it."""

    spki: bytes
    """DER SubjectPublicKeyInfo."""
    spki_sha256: bytes
    algorithm: str
    """``rsa``, ``ec``, ``ed25519``, ``ed448``, ``ml-dsa-44``, ``ml-dsa-65``, ``ml-dsa-87``, ``ml-kem-768`` or
    ``ml-kem-1024``."""
    bits: int
    """RSA modulus or EC field size; 0 where the algorithm says it all."""
    curve: str = ""
    """``P-256``, ``P-384`` or ``P-521`` for ``ec``."""

    @property
    def key_type(self) -> str:
        """In one word, as the inventory has it: ``P-256``, ``rsa-3072``, ``ed25519``, ``ml-dsa-65``."""
        return self.curve or (f"{self.algorithm}-{self.bits}" if self.algorithm == "rsa" else self.algorithm)


class KeyRejected(ValueError):
    """This key cannot be certified.

    ``code`` is ``bad-public-key`` (not a well-formed key), ``unsupported-key`` (another algorithm, curve or
    form), ``rsa-key-too-small``, ``rsa-key-too-large``, ``rsa-exponent``, ``rsa-small-factor``,
    ``rsa-close-primes``, ``rsa-roca``, ``weak-point`` or ``bad-private-key``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


_RSA_ENCRYPTION = bytes.fromhex("300d06092a864886f70d0101010500")  # with the NULL of RFC 3279 section 2.3.1
_EC_PUBLIC_KEY = "1.2.840.10045.2.1"


class _Form(msgspec.Struct, frozen=True):
    """A kind of key whose encoding is always ``prefix`` and then octets up to one length."""

    prefix: bytes
    algorithm: str
    bits: int = 0
    curve: str = ""


def _form(
    identifier: bytes, lead: bytes, size: int, algorithm: str, bits: int = 0, curve: str = ""
) -> tuple[int, _Form]:
    example = der.sequence(identifier, der.bit_string(lead + bytes(size)))
    return len(example), _Form(example[: len(example) - size], algorithm, bits, curve)


def _named_curve(oid: str) -> bytes:
    return der.sequence(der.oid(_EC_PUBLIC_KEY), der.oid(oid))


_UNCOMPRESSED = b"\x04"

# By length of the whole SubjectPublicKeyInfo, which no two share. Named curves and uncompressed points
# only (RFC 5480 section 2); parameters absent (RFC 8410 section 3, RFC 9881 section 2, RFC 9935 section 3).
_FORMS: dict[int, _Form] = dict(
    [
        _form(_named_curve("1.2.840.10045.3.1.7"), _UNCOMPRESSED, 64, "ec", 256, "P-256"),
        _form(_named_curve("1.3.132.0.34"), _UNCOMPRESSED, 96, "ec", 384, "P-384"),
        _form(_named_curve("1.3.132.0.35"), _UNCOMPRESSED, 132, "ec", 521, "P-521"),
        _form(der.sequence(der.oid("1.3.101.112")), b"", 32, "ed25519"),
        _form(der.sequence(der.oid("1.3.101.113")), b"", 57, "ed448"),
        _form(der.sequence(der.oid("2.16.840.1.101.3.4.3.17")), b"", 1312, "ml-dsa-44"),
        _form(der.sequence(der.oid("2.16.840.1.101.3.4.3.18")), b"", 1952, "ml-dsa-65"),
        _form(der.sequence(der.oid("2.16.840.1.101.3.4.3.19")), b"", 2592, "ml-dsa-87"),
        _form(der.sequence(der.oid("2.16.840.1.101.3.4.4.2")), b"", 1184, "ml-kem-768"),
        _form(der.sequence(der.oid("2.16.840.1.101.3.4.4.3")), b"", 1568, "ml-kem-1024"),
    ]
)

_LOADED_TYPES = (
    rsa.RSAPublicKey,
    ec.EllipticCurvePublicKey,
    ed25519.Ed25519PublicKey,
    ed448.Ed448PublicKey,
    mldsa.MLDSA44PublicKey,
    mldsa.MLDSA65PublicKey,
    mldsa.MLDSA87PublicKey,
)
_KEM_TYPES = (mlkem.MLKEM768PublicKey, mlkem.MLKEM1024PublicKey)


def facts_of(spki_der: bytes) -> PublicKeyFacts:
    """What this SubjectPublicKeyInfo holds, looked at but not checked: see ``check_fit``.

    Raises ``KeyRejected`` for what is no key, is of an algorithm, curve or form that is never certified, or
    is an RSA key so large that handling it would be costly.
    """
    form = _FORMS.get(len(spki_der))
    digest = hashlib.sha256(spki_der).digest()
    if form is not None and spki_der.startswith(form.prefix):
        return PublicKeyFacts(spki_der, digest, form.algorithm, form.bits, form.curve)
    modulus, _ = _rsa_numbers(spki_der)
    bits = modulus.bit_length()
    if bits > MAX_RSA_BITS:
        raise KeyRejected("rsa-key-too-large", f"an RSA key of {bits} bits; at most {MAX_RSA_BITS} are taken")
    return PublicKeyFacts(spki_der, digest, "rsa", bits)


def _rsa_numbers(spki: bytes) -> tuple[int, int]:
    """Modulus and public exponent. Raises ``KeyRejected`` when this is not an RSA key."""
    try:
        reader = der.whole(spki)
        identifier = reader.raw(der.SEQUENCE)
        if identifier != _RSA_ENCRYPTION:
            raise _unsupported(identifier)
        key = der.whole(reader.bit_string())
        reader.finish()
        modulus, exponent = key.integer(), key.integer()
        key.finish()
    except der.DERError as error:
        raise KeyRejected("bad-public-key", f"not a SubjectPublicKeyInfo: {error}") from None
    if modulus <= 0 or exponent <= 0:
        raise KeyRejected("bad-public-key", "an RSA key whose numbers are not positive")
    return modulus, exponent


def _unsupported(identifier: bytes) -> KeyRejected:
    reader = der.whole(identifier)
    oid = reader.oid()
    what = f"public key algorithm {oid} is not supported"
    if oid == "1.2.840.113549.1.1.1":
        what = "an RSA key whose algorithm parameters are not NULL"
    elif oid == "1.2.840.113549.1.1.10":
        what = "an RSA key restricted to RSASSA-PSS is not supported; use rsaEncryption"
    elif oid == _EC_PUBLIC_KEY:
        what = "EC keys must be on the named curves P-256, P-384 or P-521, as an uncompressed point"
    elif oid == "2.16.840.1.101.3.4.4.1":
        what = "ML-KEM-512 keys are not supported; use ML-KEM-768"
    elif any(form.prefix.find(der.oid(oid)) >= 0 for form in _FORMS.values()):
        what = "a key with parameters or a length that its algorithm does not have"
    return KeyRejected("unsupported-key", what)


@lru_cache(maxsize=512)
def _load(spki: bytes) -> PublicKey | KEMPublicKey:
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyRejected("bad-public-key", f"not a valid public key: {error}") from None
    if not isinstance(key, _LOADED_TYPES + _KEM_TYPES):
        raise KeyRejected("unsupported-key", f"keys of type {type(key).__name__} are not supported")
    return key


def public_key(facts: PublicKeyFacts) -> PublicKey:
    """The key for ``cryptography`` to verify with; its point is on its curve. Raises ``KeyRejected``."""
    if facts.algorithm == "rsa" and facts.bits < 1024:
        raise _too_small(facts.bits)
    key = _load(facts.spki)
    if isinstance(key, _KEM_TYPES):
        raise KeyRejected(
            "unsupported-key",
            f"a key for {facts.algorithm} cannot sign, and so prove nothing of itself: "
            "have it made by the server where its profile lets it be",
        )
    return key


def check_fit(facts: PublicKeyFacts, *, min_exponent: int = MIN_RSA_EXPONENT) -> None:
    """Raise ``KeyRejected`` unless this key is sound enough for anyone's certificate.

    RSA: 2048 to 8192 bits; an odd exponent from ``min_exponent`` to below 2^256; no factor below 6,000; no
    two primes so close that Fermat's method finds them in 100 rounds (CVE-2022-26320); not made by the ROCA
    generator. EC: a point on the curve. EdDSA: not a point of low order. ML-KEM: numbers below its modulus
    (FIPS 203 section 7.2).
    """
    match facts.algorithm:
        case "rsa":
            _check_rsa(facts, min_exponent)
        case "ed25519" | "ed448":
            _check_edwards(facts)
        case _:
            _load(facts.spki)


def _too_small(bits: int) -> KeyRejected:
    return KeyRejected(
        "rsa-key-too-small", f"an RSA key of {bits} bits; at least {MIN_RSA_BITS} are required"
    )


_MAX_VERDICTS = 4096
_verdicts: dict[tuple[bytes, int], tuple[str, str] | None] = {}


def _check_rsa(facts: PublicKeyFacts, min_exponent: int) -> None:
    key = (facts.spki_sha256, min_exponent)
    if key in _verdicts:
        verdict = _verdicts[key]
    else:
        verdict = _judge_rsa(facts, min_exponent)
        while len(_verdicts) >= _MAX_VERDICTS:
            _verdicts.pop(next(iter(_verdicts)), None)  # the oldest
        _verdicts[key] = verdict
    if verdict is not None:
        raise KeyRejected(*verdict)


def _judge_rsa(facts: PublicKeyFacts, min_exponent: int) -> tuple[str, str] | None:
    """The code and message to reject this key with, or None."""
    modulus, exponent = _rsa_numbers(facts.spki)
    bits = modulus.bit_length()
    if bits < MIN_RSA_BITS:
        return "rsa-key-too-small", str(_too_small(bits))
    if exponent % 2 == 0 or exponent < min_exponent or exponent.bit_length() > 256:
        return "rsa-exponent", f"an RSA public exponent must be odd, at least {min_exponent} and below 2^256"
    if modulus % 2 == 0 or math.gcd(modulus, _SMALL_PRIMES) != 1:
        return "rsa-small-factor", "the RSA modulus has a small factor"
    if roca.is_vulnerable(modulus):
        return "rsa-roca", "the RSA key was made by a flawed generator (ROCA, CVE-2017-15361)"
    if _has_close_primes(modulus):
        return "rsa-close-primes", "the RSA modulus is the product of two primes close to each other"
    return None


def _product_of_primes(below: int) -> int:
    sieve = bytearray([1]) * below
    product = 1
    for n in range(2, below):
        if sieve[n]:
            product *= n
            sieve[n * n :: n] = bytes(len(range(n * n, below, n)))
    return product


_SMALL_PRIMES = _product_of_primes(6000)

_FERMAT_ROUNDS = 100
_SQUARES_MOD_64 = frozenset(n * n % 64 for n in range(64))


def _has_close_primes(modulus: int) -> bool:
    """Fermat's factorization: look for a square a² - n, with a from the square root of n upward."""
    a = math.isqrt(modulus)
    if a * a == modulus:
        return True
    a += 1
    rest = a * a - modulus
    for _ in range(_FERMAT_ROUNDS):
        if rest & 63 in _SQUARES_MOD_64 and math.isqrt(rest) ** 2 == rest:
            return True
        rest += 2 * a + 1
        a += 1
    return False


# A point of low order has one of a few y coordinates; with such a key anyone can sign. Ed25519 (RFC 8032
# section 5.1): order 1 and 2 have y = ±1, order 4 has y = 0, order 8 solves d·y⁴ + 2y² = 1. Ed448 (section
# 5.2): y = ±1 and 0.
_P25519 = 2**255 - 19
_Y_OF_ORDER_8 = 0x5FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_LOW_ORDER_25519 = frozenset({0, 1, _P25519 - 1, _Y_OF_ORDER_8, _P25519 - _Y_OF_ORDER_8})
_P448 = 2**448 - 2**224 - 1
_LOW_ORDER_448 = frozenset({0, 1, _P448 - 1})


def _check_edwards(facts: PublicKeyFacts) -> None:
    if facts.algorithm == "ed25519":
        y = int.from_bytes(facts.spki[-32:], "little") & (2**255 - 1)
        weak = y >= _P25519 or y in _LOW_ORDER_25519
    else:
        y = int.from_bytes(facts.spki[-57:], "little") & (2**455 - 1)
        weak = y >= _P448 or y in _LOW_ORDER_448
    if weak:
        raise KeyRejected("weak-point", f"an {facts.algorithm} key that is not canonical or of low order")
    public_key(facts)


_CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
}


def generate(algorithm: str) -> PrivateKey:
    """A new private key: ``rsa-2048``, ``rsa-3072``, ``rsa-4096``, ``P-256``, ``P-384``, ``P-521``,
    ``ed25519``, ``ed448``, ``ml-dsa-44``, ``ml-dsa-65`` or ``ml-dsa-87``. Else ``ValueError``."""
    if algorithm in _CURVES:
        return ec.generate_private_key(_CURVES[algorithm])
    match algorithm:
        case "rsa-2048" | "rsa-3072" | "rsa-4096":
            return rsa.generate_private_key(MIN_RSA_EXPONENT, int(algorithm[4:]))
        case "ed25519":
            return ed25519.Ed25519PrivateKey.generate()
        case "ed448":
            return ed448.Ed448PrivateKey.generate()
        case "ml-dsa-44":
            return mldsa.MLDSA44PrivateKey.generate()
        case "ml-dsa-65":
            return mldsa.MLDSA65PrivateKey.generate()
        case "ml-dsa-87":
            return mldsa.MLDSA87PrivateKey.generate()
    raise ValueError(f"unknown key algorithm {algorithm!r}")


def generate_for_leaf(algorithm: str) -> LeafPrivateKey:
    """A new private key for an end entity: as ``generate``, and also ``ml-kem-768`` or ``ml-kem-1024``."""
    match algorithm:
        case "ml-kem-768":
            return mlkem.MLKEM768PrivateKey.generate()
        case "ml-kem-1024":
            return mlkem.MLKEM1024PrivateKey.generate()
    return generate(algorithm)


def spki_of(key: PublicKey | KEMPublicKey | LeafPrivateKey) -> bytes:
    """DER SubjectPublicKeyInfo of a key, or of a private key's public half."""
    public = key if isinstance(key, _LOADED_TYPES + _KEM_TYPES) else key.public_key()
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def private_to_der(key: LeafPrivateKey) -> bytes:
    """PKCS#8 PrivateKeyInfo, not encrypted: what is stored must be sealed."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def private_from_der(data: bytes) -> PrivateKey:
    """The key in an unencrypted PKCS#8 PrivateKeyInfo, if it can sign.

    Raises ``KeyRejected``, which tells nothing of it. An ML-DSA key is taken as its seed alone (RFC 9881
    section 6): nobody then has to ask whether an expanded key beside it is the same one.
    """
    key = leaf_private_from_der(data)
    if isinstance(key, mlkem.MLKEM768PrivateKey | mlkem.MLKEM1024PrivateKey):
        raise KeyRejected("unsupported-key", "a key for ML-KEM cannot sign")
    return key


def leaf_private_from_der(data: bytes) -> LeafPrivateKey:
    """As ``private_from_der``, and keys for ML-KEM."""
    try:
        key = load_der_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise KeyRejected("bad-private-key", _why_not_private(data)) from None
    if isinstance(
        key,
        rsa.RSAPrivateKey
        | ec.EllipticCurvePrivateKey
        | ed25519.Ed25519PrivateKey
        | ed448.Ed448PrivateKey
        | mldsa.MLDSA44PrivateKey
        | mldsa.MLDSA65PrivateKey
        | mldsa.MLDSA87PrivateKey
        | mlkem.MLKEM768PrivateKey
        | mlkem.MLKEM1024PrivateKey,
    ):
        facts_of(spki_of(key))  # the same algorithms and curves as for public keys
        return key
    raise KeyRejected("unsupported-key", f"private keys of type {type(key).__name__} are not supported")


def _why_not_private(data: bytes) -> str:
    try:
        info = der.whole(data)
        info.integer()
        oid = info.enter().oid()
    except der.DERError:
        oid = ""
    if (algorithm := _SEEDED.get(oid)) is not None:
        return (
            f"an {algorithm} private key is taken as its seed alone: "
            f"openssl pkey -provparam {algorithm}.output_formats=seed-only"
        )
    return "not an unencrypted PKCS#8 private key"


_SEEDED = {
    **{f"2.16.840.1.101.3.4.3.{arc}": "ml-dsa" for arc in (17, 18, 19)},
    **{f"2.16.840.1.101.3.4.4.{arc}": "ml-kem" for arc in (1, 2, 3)},
}
