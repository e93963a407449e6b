"""ROCA (CVE-2017-15361): RSA keys whose primes were made from a power of 65537.

The flawed generator made its primes as p = k·M + (65537^a mod M) with M the product of the first n
primes. The modulus is then a power of 65537 modulo every prime that divides M, which a random modulus
is not. M has at least 126 primes in keys of 1984 bits and more, so those are the primes looked at.
"""

from __future__ import annotations

_GENERATOR = 65537


def _primes(count: int) -> list[int]:
    found: list[int] = []
    n = 2
    while len(found) < count:
        if all(n % p for p in found):
            found.append(n)
        n += 1
    return found


def _powers(prime: int) -> frozenset[int]:
    """The subgroup that the generator spans modulo this prime."""
    powers = [1]
    while (following := powers[-1] * _GENERATOR % prime) != 1:
        powers.append(following)
    return frozenset(powers)


# Where the generator spans the whole group, every modulus passes: those primes tell nothing.
_MARKS = tuple((p, powers) for p in _primes(126) if len(powers := _powers(p)) < p - 1)


def is_vulnerable(modulus: int) -> bool:
    """Whether this modulus bears the mark of the flawed generator."""
    return all(modulus % prime in powers for prime, powers in _MARKS)
