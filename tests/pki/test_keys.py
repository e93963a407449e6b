from __future__ import annotations

import contextlib
import hashlib
import math
import secrets
from functools import lru_cache

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki import der, keys, roca
from certloom.pki.keys import KeyRejected, check_fit, facts_of, public_key, spki_of
from tests.pki.making import SIGNING_ALGORITHMS, key

_RSA = bytes.fromhex("300d06092a864886f70d0101010500")


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    return der.sequence(_RSA, der.bit_string(der.sequence(der.integer(modulus), der.integer(exponent))))


def is_prime(n: int) -> bool:
    """Miller-Rabin: enough for making test keys."""
    if n < 4 or n % 2 == 0:
        return n in (2, 3)
    d, s = n - 1, 0
    while d % 2 == 0:
        d, s = d // 2, s + 1
    for _ in range(12):
        x = pow(secrets.randbelow(n - 3) + 2, d, n)
        if x in (1, n - 1):
            continue
        for _ in range(s - 1):
            x = x * x % n
            if x == n - 1:
                break
        else:
            return False
    return True


@lru_cache
def sound_prime(bits: int) -> int:
    private = rsa.generate_private_key(65537, 2 * bits)
    return private.private_numbers().p


def rejected(spki: bytes) -> str:
    """The code that this key is rejected with."""
    with pytest.raises(KeyRejected) as caught:
        check_fit(facts_of(spki))
    return caught.value.code


@pytest.mark.parametrize(
    ("algorithm", "kind", "bits", "curve"),
    [
        ("rsa-2048", "rsa", 2048, ""),
        ("P-256", "ec", 256, "P-256"),
        ("P-384", "ec", 384, "P-384"),
        ("P-521", "ec", 521, "P-521"),
        ("ed25519", "ed25519", 0, ""),
        ("ed448", "ed448", 0, ""),
        ("ml-dsa-44", "ml-dsa-44", 0, ""),
        ("ml-dsa-65", "ml-dsa-65", 0, ""),
        ("ml-dsa-87", "ml-dsa-87", 0, ""),
    ],
)
def test_a_sound_key_is_described_and_fit(algorithm: str, kind: str, bits: int, curve: str) -> None:
    spki = spki_of(key(algorithm))
    facts = facts_of(spki)
    assert (facts.algorithm, facts.bits, facts.curve) == (kind, bits, curve)
    assert facts.spki == spki
    assert facts.spki_sha256 == hashlib.sha256(spki).digest()
    check_fit(facts)
    check_fit(facts)
    assert spki_of(public_key(facts)) == spki


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_private_keys_come_back_from_pkcs8(algorithm: str) -> None:
    private = key(algorithm)
    again = keys.private_from_der(keys.private_to_der(private))
    assert spki_of(again) == spki_of(private)
    assert keys.private_to_der(again) == keys.private_to_der(private)


def test_keys_of_unknown_algorithms_are_not_made() -> None:
    for algorithm in ("", "rsa-1024", "rsa", "P-192", "ml-dsa", "ed25518"):
        with pytest.raises(ValueError, match="unknown key algorithm"):
            keys.generate(algorithm)


def test_other_and_encrypted_private_keys_are_refused() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    password = b"pass"
    for encoded in (
        b"",
        b"\x30\x00",
        private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, BestAvailableEncryption(password)),
        x25519.X25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        ec.generate_private_key(ec.SECP256K1()).private_bytes(
            Encoding.DER, PrivateFormat.PKCS8, NoEncryption()
        ),
    ):
        with pytest.raises(KeyRejected):
            keys.private_from_der(encoded)


def test_an_ml_dsa_key_whose_seed_and_expansion_differ_is_refused() -> None:
    # RFC 9881 section 6: "both" holds the seed and the expanded key, which must agree.
    seed = keys.private_to_der(key("ml-dsa-44"))[-32:]
    both = der.sequence(der.octet_string(seed), der.octet_string(bytes(2560)))
    encoded = der.sequence(
        der.integer(0), der.sequence(der.oid("2.16.840.1.101.3.4.3.17")), der.octet_string(both)
    )
    with pytest.raises(KeyRejected, match="seed alone"):
        keys.private_from_der(encoded)


@pytest.mark.parametrize(("algorithm", "arc"), [("ml-dsa-44", "3.17"), ("ml-kem-768", "4.2")])
def test_a_key_of_lattices_is_taken_as_its_seed_alone(algorithm: str, arc: str) -> None:
    whole = keys.private_to_der(keys.generate_for_leaf(algorithm))
    size = 32 if algorithm == "ml-dsa-44" else 64
    seed = whole[-size:]
    assert keys.private_to_der(keys.leaf_private_from_der(whole)) == whole
    identifier = der.sequence(der.oid(f"2.16.840.1.101.3.4.{arc}"))
    for private, parameters in (
        (der.octet_string(bytes(2560 if size == 32 else 2400)), b""),  # the expanded key
        (der.tlv(0x80, seed + b"\0"), b""),
        (der.tlv(0x80, seed[:-1]), b""),
        (seed, b""),
        (der.tlv(0x80, seed), der.NULL),  # parameters, which are absent (RFC 9881 section 2)
    ):
        algorithm_identifier = identifier if not parameters else der.sequence(identifier[2:], parameters)
        encoded = der.sequence(der.integer(0), algorithm_identifier, der.octet_string(private))
        with pytest.raises(KeyRejected):
            keys.leaf_private_from_der(encoded)


@pytest.mark.parametrize(("algorithm", "size"), [("ml-kem-768", 1184), ("ml-kem-1024", 1568)])
def test_keys_that_encapsulate_are_fit_and_cannot_sign(algorithm: str, size: int) -> None:
    private = keys.generate_for_leaf(algorithm)
    spki = spki_of(private)
    facts = facts_of(spki)
    assert (facts.algorithm, facts.key_type) == (algorithm, algorithm)
    check_fit(facts)
    with pytest.raises(KeyRejected, match="cannot sign"):
        public_key(facts)
    with pytest.raises(KeyRejected, match="cannot sign"):
        keys.private_from_der(keys.private_to_der(private))
    with pytest.raises(ValueError, match="unknown key algorithm"):
        keys.generate(algorithm)
    # Numbers that are not below the modulus (FIPS 203 section 7.2).
    assert rejected(spki[:-size] + b"\xff" * (size - 32) + spki[-32:]) == "bad-public-key"


def test_ml_kem_512_is_said_not_to_be_supported() -> None:
    spki = der.sequence(der.sequence(der.oid("2.16.840.1.101.3.4.4.1")), der.bit_string(bytes(800)))
    with pytest.raises(KeyRejected, match="ML-KEM-512"):
        facts_of(spki)


@pytest.mark.parametrize("bits", [512, 1024, 2040, 2047])
def test_small_rsa_keys_are_rejected(bits: int) -> None:
    assert rejected(rsa_spki((1 << (bits - 1)) | 1)) == "rsa-key-too-small"


def test_a_modulus_need_not_fill_whole_octets() -> None:
    facts = facts_of(rsa_spki(sound_prime(1024) * sound_prime(1101)))
    assert facts.bits % 8
    check_fit(facts)


def test_an_rsa_key_beyond_8192_bits_is_rejected_before_any_work() -> None:
    with pytest.raises(KeyRejected) as caught:
        facts_of(rsa_spki((1 << 8192) | 1))
    assert caught.value.code == "rsa-key-too-large"


@pytest.mark.parametrize("exponent", [1, 2, 3, 17, 65535, 65536, 65538, 1 << 255, (1 << 256) + 1])
def test_bad_public_exponents_are_rejected(exponent: int) -> None:
    modulus = sound_prime(1024) * sound_prime(1025)
    assert rejected(rsa_spki(modulus, exponent)) == "rsa-exponent"


@pytest.mark.parametrize("exponent", [65537, 65539, (1 << 256) - 1])
def test_good_public_exponents_are_taken(exponent: int) -> None:
    check_fit(facts_of(rsa_spki(sound_prime(1024) * sound_prime(1025), exponent)))


def test_a_lower_exponent_can_be_allowed() -> None:
    facts = facts_of(rsa_spki(sound_prime(1024) * sound_prime(1025), 3))
    check_fit(facts, min_exponent=3)
    with pytest.raises(KeyRejected):
        check_fit(facts)


@pytest.mark.parametrize("factor", [2, 3, 751, 752 + 5, 5987])
def test_a_modulus_with_a_small_factor_is_rejected(factor: int) -> None:
    p = sound_prime(1100)
    modulus = factor * p * sound_prime(1024)
    assert rejected(rsa_spki(modulus)) == "rsa-small-factor"


def test_close_primes_are_rejected() -> None:
    p = sound_prime(1024)
    q = p + 2
    while not is_prime(q):
        q += 2
    assert rejected(rsa_spki(p * q)) == "rsa-close-primes"
    assert rejected(rsa_spki(p * p)) == "rsa-close-primes"


def test_fermat_goes_on_for_a_hundred_rounds() -> None:
    # n = a² - b² is found in round a - isqrt(n), whether the factors are primes or not.
    a = sound_prime(1024)

    def found_in_round(number: int) -> bool:
        b = math.isqrt(2 * a * number)
        return keys._has_close_primes((a + b) * (a - b))

    assert all(found_in_round(number) for number in (1, 10, 50, 99))
    assert not found_in_round(200)


@lru_cache
def roca_prime(bits: int, seed: int) -> int:
    """A prime as the flawed generator made it, with M the product of the first 126 primes."""
    m = math.prod(roca._primes(126))
    lowest, beyond = (3 << (bits - 2)) // m + 1, (1 << bits) // m  # so that two of them fill their modulus
    while True:
        residue = pow(65537, secrets.randbelow(1 << 256), m)
        candidate = (lowest + secrets.randbelow(beyond - lowest)) * m + residue
        if is_prime(candidate):
            return candidate


def test_a_modulus_of_the_roca_generator_is_rejected() -> None:
    modulus = roca_prime(1024, 1) * roca_prime(1024, 2)
    assert modulus.bit_length() == 2048
    assert rejected(rsa_spki(modulus)) == "rsa-roca"


def test_one_roca_prime_alone_does_not_bear_the_mark() -> None:
    assert not roca.is_vulnerable(roca_prime(1024, 1) * sound_prime(1024))


@given(st.integers(1 << 2047, (1 << 2048) - 1))
def test_random_moduli_do_not_bear_the_mark_of_roca(modulus: int) -> None:
    assert not roca.is_vulnerable(modulus | 1)


def test_other_algorithms_curves_and_forms_are_unsupported() -> None:
    compressed = ec.generate_private_key(ec.SECP256R1()).public_key()
    point = compressed.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    p256 = der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7"))
    ed25519 = spki_of(key("ed25519"))[-32:]
    ml_dsa = spki_of(key("ml-dsa-44"))[-1312:]
    rsa_key = der.bit_string(
        der.sequence(der.integer(sound_prime(1024) * sound_prime(1025)), der.integer(65537))
    )
    for spki in (
        x25519.X25519PrivateKey.generate()
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        dsa.generate_private_key(1024)
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        ec.generate_private_key(ec.SECP256K1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.sequence(p256, der.bit_string(point)),
        der.sequence(p256, der.bit_string(b"\x00")),
        der.sequence(der.sequence(der.oid("1.3.101.112"), der.NULL), der.bit_string(ed25519)),
        der.sequence(der.sequence(der.oid("1.3.101.112")), der.bit_string(ed25519 + b"\x00")),
        der.sequence(der.sequence(der.oid("2.16.840.1.101.3.4.3.17"), der.NULL), der.bit_string(ml_dsa)),
        der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.1")), rsa_key),
        der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.10")), rsa_key),
    ):
        with pytest.raises(KeyRejected) as caught:
            facts_of(spki)
        assert caught.value.code == "unsupported-key"


def test_a_point_off_its_curve_is_rejected() -> None:
    spki = bytearray(spki_of(key("P-256")))
    spki[-1] ^= 1
    assert rejected(bytes(spki)) == "bad-public-key"


_P = 2**255 - 19


def test_the_point_of_order_8_is_on_the_curve_and_doubles_to_one_of_order_4() -> None:
    d = -121665 * pow(121666, -1, _P) % _P
    y2 = pow(keys._Y_OF_ORDER_8, 2, _P)
    x2 = (y2 - 1) * pow(d * y2 + 1, -1, _P) % _P  # the curve is -x² + y² = 1 + d·x²·y²
    assert pow(x2, (_P - 1) // 2, _P) == 1
    assert (y2 + x2) % _P == 0  # the numerator of the doubled point's y


@pytest.mark.parametrize("y", [*sorted(keys._LOW_ORDER_25519), _P, _P + 1])
def test_ed25519_points_of_low_order_or_not_canonical_are_rejected(y: int) -> None:
    for sign in (0, 1 << 255):
        spki = spki_of(key("ed25519"))[:-32] + (y | sign).to_bytes(32, "little")
        assert rejected(spki) == "weak-point"


@pytest.mark.parametrize("y", [0, 1, 2**448 - 2**224 - 2, 2**448 - 2**224])
def test_ed448_points_of_low_order_or_not_canonical_are_rejected(y: int) -> None:
    spki = spki_of(key("ed448"))[:-57] + y.to_bytes(57, "little")
    assert rejected(spki) == "weak-point"


@given(st.binary(max_size=300))
def test_no_octets_make_it_raise_anything_but_its_own_error(data: bytes) -> None:
    for spki in (data, der.sequence(_RSA, der.bit_string(data)), der.sequence(data, der.bit_string(data))):
        with contextlib.suppress(KeyRejected):
            check_fit(facts_of(spki))


def test_verdicts_are_kept_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_MAX_VERDICTS", 3)
    for exponent in range(65537, 65557, 2):
        check_fit(facts_of(rsa_spki(sound_prime(1024) * sound_prime(1025), exponent)))
    assert len(keys._verdicts) <= 3
