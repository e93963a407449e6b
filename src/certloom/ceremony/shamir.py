"""Shamir's secret sharing ("How to share a secret", 1979), octet by octet over GF(256).

A random polynomial of degree ``threshold - 1`` has the secret as its value at 0; each share is its value at
another point. As many shares as the threshold give the polynomial, and one fewer leaves every secret equally
likely. The field is that of AES (FIPS 197 section 4): polynomials over GF(2) modulo x^8 + x^4 + x^3 + x + 1.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping

MOST_SHARES = 255
"""There are no more points than that beside 0."""
_MODULUS = 0x11B
_GENERATOR = 3


def _tables() -> tuple[bytes, bytes]:
    powers, logarithms = bytearray(510), bytearray(256)
    value = 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logarithms[value] = exponent
        value ^= value << 1  # times 3, the generator
        if value & 0x100:
            value ^= _MODULUS
    return bytes(powers), bytes(logarithms)


_POWERS, _LOGARITHMS = _tables()


def multiply(a: int, b: int) -> int:
    """In the field."""
    return _POWERS[_LOGARITHMS[a] + _LOGARITHMS[b]] if a and b else 0


def divide(a: int, b: int) -> int:
    """In the field; ``b`` is not 0."""
    if not b:
        raise ZeroDivisionError
    return _POWERS[_LOGARITHMS[a] + 255 - _LOGARITHMS[b]] if a else 0


def split(
    secret: bytes, threshold: int, shares: int, random: Callable[[int], bytes] = secrets.token_bytes
) -> dict[int, bytes]:
    """Shares by their point, 1 to ``shares``. Raises ``ValueError``."""
    if not secret:
        raise ValueError("there is nothing to share")
    if not 1 <= threshold <= shares <= MOST_SHARES:
        raise ValueError(f"the threshold is from 1 to the number of shares, which is at most {MOST_SHARES}")
    # Every coefficient is uniform, the highest too: were it never 0, fewer shares would tell something.
    higher = [random(len(secret)) for _ in range(threshold - 1)]
    found = {}
    for point in range(1, shares + 1):
        value = bytes(len(secret))
        for coefficient in reversed(higher):
            value = bytes(multiply(v ^ c, point) for v, c in zip(value, coefficient, strict=True))
        found[point] = bytes(v ^ s for v, s in zip(value, secret, strict=True))
    return found


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The value at 0 of the polynomial through these shares (Lagrange).

    It is the secret when all are of one splitting and no fewer than its threshold; else it is noise, which
    the caller has to tell from a secret. Raises ``ValueError``.
    """
    lengths = {len(value) for value in shares.values()}
    if not shares or len(lengths) != 1 or not all(1 <= point <= MOST_SHARES for point in shares):
        raise ValueError("shares have points from 1 to 255 and one length")
    result = bytes(lengths.pop())
    for point, value in shares.items():
        weight = 1
        for other in shares:
            if other != point:
                weight = multiply(weight, divide(other, other ^ point))
        result = bytes(r ^ multiply(v, weight) for r, v in zip(result, value, strict=True))
    return result
