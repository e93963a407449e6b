"""How many requests somebody may make in a minute (draft-ietf-httpapi-ratelimit-headers).

Counted in this process's memory, in minutes that begin for everybody at once: forgetting a whole minute is
one assignment, and no table of who asked when outlives it. Several servers before one database each count
for themselves.
"""

from __future__ import annotations

import msgspec

from certloom.clock import Clock

WINDOW = 60
"""Seconds."""
_MOST = 100_000
"""Counters at a time; whoever comes after them shares one."""
_OTHERS = ""


class Quota(msgspec.Struct, frozen=True):
    """What is left."""

    policy: str
    allowed: bool
    quota: int
    left: int
    reset: int
    """Seconds until it is whole again."""

    def headers(self) -> list[tuple[bytes, bytes]]:
        """``RateLimit`` and ``RateLimit-Policy``, structured fields both."""
        return [
            (b"ratelimit-policy", b'"%s";q=%d;w=%d' % (self.policy.encode(), self.quota, WINDOW)),
            (b"ratelimit", b'"%s";r=%d;t=%d' % (self.policy.encode(), self.left, self.reset)),
        ]


class Limit:
    """Counts what many do against one quota each."""

    def __init__(self, policy: str, quota: int, clock: Clock) -> None:
        self._policy = policy
        self._quota = quota
        self._clock = clock
        self._window = -1
        self._counts: dict[str, int] = {}

    def take(self, who: str) -> Quota:
        """Count one, and say whether it was still allowed."""
        return self._state(who, 1)

    def look(self, who: str) -> Quota:
        """What is left, without counting; ``allowed`` is whether one more would be."""
        return self._state(who, 0)

    def _state(self, who: str, more: int) -> Quota:
        window, past = divmod(self._clock.now(), WINDOW)
        if window != self._window:
            self._window = window
            self._counts = {}
        counts = self._counts
        if who not in counts and len(counts) >= _MOST:
            who = _OTHERS
        used = counts.get(who, 0) + more
        if more:
            counts[who] = used
        allowed = used <= self._quota if more else used < self._quota
        return Quota(self._policy, allowed, self._quota, max(0, self._quota - used), WINDOW - past)
