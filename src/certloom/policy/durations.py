"""Lengths of time as people write them: ``90d``, ``12h``, ``1d12h``. Everything else here counts seconds."""

from __future__ import annotations

import re

_UNITS = {"y": 365 * 86400, "w": 7 * 86400, "d": 86400, "h": 3600, "m": 60, "s": 1}
_WHOLE = re.compile(r"(?:[0-9]{1,9}[ywdhms])+")
_PART = re.compile(r"([0-9]+)([ywdhms])")

LONGEST = 100 * 365 * 86400
"""No duration is longer, in seconds."""


def parse_duration(text: str) -> int:
    """Seconds. Units are y (365 days), w, d, h, m and s. Raises ``ValueError``."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 90d, 12h or 1d12h")
    seconds = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(text))
    if seconds > LONGEST:
        raise ValueError(f"{text!r} is longer than 100 years")
    return seconds


def format_duration(seconds: int) -> str:
    """The same length in the largest units that say it exactly, without years."""
    if seconds == 0:
        return "0s"
    text = ""
    for unit in "dhms":
        count, seconds = divmod(seconds, _UNITS[unit])
        if count:
            text += f"{count}{unit}"
    return text
