"""Which of the offered media types a client likes best (RFC 9110 section 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence


def choose(accept: str, offered: Sequence[str]) -> str | None:
    """The offered type with the highest weight, the earlier one of equals; None where none is acceptable.

    A header that says nothing, or nothing that can be read, accepts everything.
    """
    ranges = [found for part in accept.split(",") if (found := _range(part)) is not None]
    if not ranges:
        return offered[0] if offered else None
    best, best_weight = None, 0.0
    for media in offered:
        weight = _weight(media, ranges)
        if weight > best_weight:
            best, best_weight = media, weight
    return best


def _range(part: str) -> tuple[str, float] | None:
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    if "/" not in media:
        return None
    weight = 1.0
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return None
    return media, weight


def _weight(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """By the most specific range that has it."""
    kind = media.partition("/")[0]
    weights = dict(ranges)
    for pattern in (media, f"{kind}/*", "*/*"):
        if pattern in weights:
            return weights[pattern]
    return 0.0
