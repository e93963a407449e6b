"""Anti-replay nonces (RFC 8555 section 6.5): single use, no database, bounded memory.

A nonce names a slice of time and its place among those issued in that slice, under a MAC whose key lives as
long as this process. For each slice one bit per issued nonce tells whether it was used. A slice is forgotten
when all its nonces have expired, and never before: a flood of newNonce costs one bit a nonce and pushes
nobody out. A nonce from before a restart fails its MAC and is answered with ``badNonce`` and a fresh one.
"""

from __future__ import annotations

import os
import random
from binascii import a2b_base64, b2a_base64
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct

from certloom.clock import Clock
from certloom.protocols.acme.problems import Problem, malformed

_SLICES = 16
_MAC_BYTES = 16
_PLACE = Struct(">II")
_LENGTH = (_PLACE.size + _MAC_BYTES) * 4 // 3
_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_BITS = tuple(1 << n for n in range(8))
_random = random.SystemRandom()


def bad_nonce() -> Problem:
    """The detail's wording is an interface: acme.sh knows the error by nothing else."""
    return Problem("badNonce", "JWS has an invalid anti-replay nonce")


class Nonces:
    """Issues and takes nonces. One per process, used from the event loop only."""

    def __init__(self, clock: Clock, lifetime: int, refuse_good: float = 0.0) -> None:
        """``lifetime`` is in seconds; ``refuse_good`` is the share of good nonces refused, for tests."""
        self._now = clock.now
        self._slice_seconds = max(1, lifetime // _SLICES)
        self._kept = -(-lifetime // self._slice_seconds) + 1
        self._refuse_good = refuse_good
        self._mac = blake2b(key=os.urandom(32), digest_size=_MAC_BYTES)
        self._used: dict[int, bytearray] = {}
        self._current = -1
        self._bits = bytearray()
        self._count = 0

    def issue(self) -> bytes:
        """A fresh nonce, as it stands in the header field."""
        slice = self._now() // self._slice_seconds
        if slice > self._current:
            self._turn(slice)
        count = self._count
        self._count = count + 1
        if not count & 7:
            self._bits.append(0)
        place = _PLACE.pack(self._current, count)
        mac = self._mac.copy()
        mac.update(place)
        return b2a_base64(place + mac.digest(), newline=False).translate(_TO_URL)

    def use(self, nonce: str) -> None:
        """Take a nonce, once. Raises ``badNonce``, or ``malformed`` for what is not base64url."""
        try:
            text = nonce.encode("ascii").translate(_TO_STANDARD)
            data = a2b_base64(text + b"=="[: -len(text) & 3], strict_mode=True)
        except ValueError:
            raise malformed("the nonce is not base64url") from None
        if len(text) != _LENGTH:
            raise bad_nonce()
        mac = self._mac.copy()
        mac.update(data[:8])
        if not compare_digest(mac.digest(), data[8:]):
            raise bad_nonce()
        slice, count = _PLACE.unpack_from(data)
        bits = self._used.get(slice)
        if bits is None or slice + self._kept <= self._now() // self._slice_seconds:
            raise bad_nonce()
        bit = _BITS[count & 7]
        if bits[count >> 3] & bit:
            raise bad_nonce()
        bits[count >> 3] |= bit
        if self._refuse_good and _random.random() < self._refuse_good:
            raise bad_nonce()

    def _turn(self, slice: int) -> None:
        self._current, self._count, self._bits = slice, 0, bytearray()
        self._used[slice] = self._bits
        for old in [known for known in self._used if known + self._kept <= slice]:
            del self._used[old]

    @property
    def remembered_bytes(self) -> int:
        """Memory that the bits take now."""
        return sum(len(bits) for bits in self._used.values())
