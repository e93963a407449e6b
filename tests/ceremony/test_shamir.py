"""Sharing a secret: any so many shares give it, and fewer tell nothing."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shamir_mnemonic import shamir as theirs

from certloom.ceremony import shamir


@given(st.data(), st.binary(min_size=1, max_size=64), st.integers(1, 12))
def test_any_so_many_shares_give_the_secret(data: st.DataObject, secret: bytes, count: int) -> None:
    threshold = data.draw(st.integers(1, count))
    shares = shamir.split(secret, threshold, count)
    some = data.draw(st.permutations(sorted(shares)))[: data.draw(st.integers(threshold, count))]
    assert shamir.combine({point: shares[point] for point in some}) == secret


@given(st.data(), st.binary(min_size=1, max_size=32), st.integers(2, 9))
def test_another_program_puts_them_together(data: st.DataObject, secret: bytes, threshold: int) -> None:
    shares = shamir.split(secret, threshold, 9)
    some = data.draw(st.permutations(sorted(shares)))[:threshold]
    raw = [theirs.RawShare(point, shares[point]) for point in some]
    assert theirs._interpolate(raw, 0) == secret


@pytest.mark.parametrize("secret", [0, 1, 0x53, 0xFF])
def test_one_share_fewer_leaves_every_secret_equally_likely(secret: int) -> None:
    """Counted out: over all random coefficients, one of two needed shares takes each value equally often, and
    so do two of three, whatever the secret is."""

    def shares(threshold: int, *coefficients: int) -> tuple[int, ...]:
        drawn = iter(coefficients)
        found = shamir.split(bytes([secret]), threshold, 3, lambda _: bytes([next(drawn)]))
        return tuple(found[point][0] for point in range(1, threshold))

    octets = range(256)
    assert Counter(shares(2, one) for one in octets) == Counter((value,) for value in octets)
    pairs = Counter(shares(3, one, two) for one in octets for two in octets)
    assert len(pairs) == 65536


def test_fewer_or_foreign_shares_give_something_else() -> None:
    secret = bytes(range(32))
    shares = shamir.split(secret, 3, 5)
    assert shamir.combine({1: shares[1], 2: shares[2]}) != secret
    other = shamir.split(secret, 3, 5)
    assert shamir.combine({1: shares[1], 2: shares[2], 3: other[3]}) != secret


@pytest.mark.parametrize(
    ("secret", "threshold", "count"), [(b"", 1, 1), (b"x", 0, 1), (b"x", 2, 1), (b"x", 1, 256), (b"x", -1, 3)]
)
def test_what_cannot_be_shared_is_refused(secret: bytes, threshold: int, count: int) -> None:
    with pytest.raises(ValueError, match=r"share|threshold"):
        shamir.split(secret, threshold, count)


@pytest.mark.parametrize("shares", [{}, {0: b"x"}, {1: b"x", 2: b"xy"}, {256: b"x"}])
def test_what_cannot_be_put_together_is_refused(shares: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="shares have points"):
        shamir.combine(shares)


def test_the_field_is_that_of_aes() -> None:
    assert shamir.multiply(0x57, 0x83) == 0xC1  # the example of FIPS 197 section 4.2
    for a, b in itertools.product(range(0, 256, 7), range(1, 256, 5)):
        assert shamir.multiply(shamir.divide(a, b), b) == a
    with pytest.raises(ZeroDivisionError):
        shamir.divide(1, 0)
