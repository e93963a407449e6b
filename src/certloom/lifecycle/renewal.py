"""When to renew: the suggested windows of ACME Renewal Information (RFC 9773).

A profile names a span of a certificate's life (``RenewalRule``). Each certificate gets its own window inside
that span: a quarter of it long, at a place drawn from a hash of its serial number. So a window is the same
whenever and on whichever node it is asked for, and certificates issued together are renewed apart, even by
clients that do not pick a random moment in the window themselves.

A certificate that is revoked or marked for replacement gets a window that ended when that happened, which
RFC 9773 section 4.2 makes "renew immediately". It too stays the same from poll to poll.
"""

from __future__ import annotations

from hashlib import blake2b

import msgspec

from certloom.policy.profile_parts import RenewalRule

_MOVED_WIDTH = 3600
"""Seconds that a moved window lasted before the moment it marks."""
_LONGEST_POLL = 6 * 3600
"""A day's notice of a mass revocation reaches every client with time to spare (RFC 9773 section 4.3.1)."""
_SHORTEST_POLL = 60
"""Clients may take anything shorter for a minute (RFC 9773 section 4.3.2)."""
_USUAL = RenewalRule()


class Window(msgspec.Struct, frozen=True):
    """A suggested renewal window in Unix seconds; ``end`` is always after ``start``."""

    start: int
    end: int
    moved: bool
    """Whether the certificate is to be replaced ahead of its time: worth an ``explanationURL``."""


def renewal_window(
    not_before: int,
    not_after: int,
    serial: bytes,
    rule: RenewalRule,
    now: int,
    *,
    revoked_at: int | None = None,
    replace_since: int | None = None,
) -> Window:
    """The window for one certificate; times in Unix seconds, ``serial`` as stored.

    ``revoked_at`` and ``replace_since`` say since when it is revoked or marked for replacement; the earlier
    counts. An unmarked certificate's window never starts within the first quarter of its life, and policy
    never backdates by more than that, so it is not in the past when the certificate is new.
    """
    marks = [mark for mark in (revoked_at, replace_since) if mark is not None]
    if marks:
        # A mark from a node whose clock is ahead counts from now.
        end = min(*marks, now)
        return Window(end - _MOVED_WIDTH, end, True)
    first, last = _span(rule, max(not_after - not_before + 1, 1))
    width = (last - first) // 4
    room = last - first - width
    draw = int.from_bytes(blake2b(serial, digest_size=8, person=b"certloom renewal").digest(), "big")
    start = not_before + first + (draw * (room + 1) >> 64)
    return Window(start, start + max(width, 1), False)


def retry_after(now: int, window: Window) -> int:
    """Seconds after which a client should ask again.

    Six hours, or the window's own length where that is less (so in proportion to a short life), or as long as
    it is until the window opens.
    """
    wait = window.end - window.start
    if window.start > now:
        wait = min(wait, window.start - now)
    return max(_SHORTEST_POLL, min(wait, _LONGEST_POLL))


def _span(rule: RenewalRule, lifetime: int) -> tuple[int, int]:
    """The rule's span as seconds since notBefore.

    Times before expiry were meant for the profile's ordinary lifetime. A certificate that was asked to live
    shorter may have no room for them; it then follows the usual shares of its life.
    """
    first, last = _elapsed(rule.start, lifetime), _elapsed(rule.end, lifetime)
    if first < lifetime // 4 or last <= first:
        return _elapsed(_USUAL.start, lifetime), _elapsed(_USUAL.end, lifetime)
    return first, last


def _elapsed(point: float | int, lifetime: int) -> int:
    return int(lifetime * point) if isinstance(point, float) else lifetime - point
