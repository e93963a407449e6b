"""Values that people write on a command line, as the API takes them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_AXES = {"team": "teams", "profile": "profiles", "channel": "channels", "name": "names"}


def seconds(text: str | None) -> int | None:
    """``90d``, ``12h``, ``30m``, ``45s`` or ``2w`` in seconds. Raises ``typer.BadParameter``."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if match is None:
        raise typer.BadParameter(f"{text!r}: expected a number with s, m, h, d or w, such as 30d")
    return int(match[1]) * _UNITS[match[2]]


def from_now(text: str | None) -> str | None:
    """The moment that is such a time away, as the API takes it. Raises ``typer.BadParameter``."""
    return _away(text, 1)


def _away(text: str | None, direction: int) -> str | None:
    distance = seconds(text)
    if distance is None:
        return None
    try:
        reached = datetime.now(UTC) + direction * timedelta(seconds=distance)
    except OverflowError:
        raise typer.BadParameter(f"{text!r} is too long") from None
    return reached.strftime("%Y-%m-%dT%H:%M:%SZ")


def moment(text: str | None) -> str | None:
    """A day, a moment or a time from now (``30d``), as the API takes it. Raises ``typer.BadParameter``."""
    return _moment(text, 1)


def moment_before(text: str | None) -> str | None:
    """The same for what is past: ``30d`` is thirty days ago."""
    return _moment(text, -1)


def _moment(text: str | None, direction: int) -> str | None:
    if text is None or re.fullmatch(r"[0-9]+[smhdw]", text):
        return _away(text, direction)
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r}: expected 2026-11-23, 2026-11-23T10:00:00Z or 30d") from None
    if parsed.tzinfo is None:
        parsed = parsed.replace(tzinfo=UTC)
    return parsed.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def grants(texts: list[str] | None) -> list[dict[str, Any]]:
    """``approver``, ``approver:team=web,name=**.example.com``: roles and where they hold."""
    found = []
    for text in texts or []:
        role, _, rest = text.partition(":")
        scope: dict[str, list[str]] = {}
        for part in filter(None, rest.split(",")):
            axis, equals, value = part.partition("=")
            if axis not in _AXES or not equals or not value:
                raise typer.BadParameter(
                    f"{text!r}: expected ROLE or ROLE:team=T,profile=P,channel=PROTOCOL/NAME,name=PATTERN"
                )
            scope.setdefault(_AXES[axis], []).append(value)
        found.append({"role": role, "scope": scope} if scope else {"role": role})
    return found


def granted(held: list[dict[str, Any]]) -> list[str]:
    """Grants as ``grants`` reads them."""
    shown = []
    for grant in held:
        scope = grant.get("scope") or {}
        parts = [f"{axis}={value}" for axis, field in _AXES.items() for value in scope.get(field) or ()]
        shown.append(grant["role"] + (":" + ",".join(parts) if parts else ""))
    return shown
