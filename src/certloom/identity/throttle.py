"""Bounds on failed attempts: per account, per address. Kept in memory, by each process for itself."""

from __future__ import annotations

import ipaddress

from certloom.clock import Clock

_MOST_KEYS = 20_000


class Throttle:
    """Lets each key try ``count`` times at once, and then once in every ``seconds / count``.

    An attempt is taken before it is known how it ends, so that many at one instant gain nothing, and given
    back when it turned out well.
    """

    def __init__(self, clock: Clock, count: int, seconds: int) -> None:
        self._clock = clock
        self._each_ms = seconds * 1000 // count
        self._burst_ms = seconds * 1000
        self._until: dict[str, int] = {}
        """By key: when, in milliseconds, all its attempts will be there again."""

    def take(self, key: str) -> int:
        """Take an attempt; answers 0, or how many seconds to wait for the next (nothing is taken then)."""
        now = self._clock.now_ms()
        until = max(self._until.get(key, 0), now) + self._each_ms
        if until - now > self._burst_ms:
            return -(-(until - now - self._burst_ms) // 1000)
        if key not in self._until and len(self._until) >= _MOST_KEYS:
            self._make_room(now)
        self._until[key] = until
        return 0

    def give_back(self, key: str) -> None:
        """The attempt was no failure."""
        if key in self._until:
            self._until[key] -= self._each_ms

    def _make_room(self, now: int) -> None:
        self._until = {key: until for key, until in self._until.items() if until > now}
        while len(self._until) >= _MOST_KEYS:
            self._until.pop(next(iter(self._until)))


def address_group(address: str) -> str:
    """What counts as one address: an IPv6 host has a /64 to itself."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        mapped = parsed.ipv4_mapped
        return str(mapped) if mapped else str(ipaddress.ip_network((int(parsed) >> 64 << 64, 64)))
    return str(parsed)
