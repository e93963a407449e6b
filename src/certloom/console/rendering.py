"""Pages out of templates, and the headers that every answer carries.

Templates escape whatever they are given, and refuse names they are not. What strangers wrote is also made
visible: characters that reorder, break or hide text are shown as marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import resources
from typing import Any

import jinja2
import msgspec

from certloom.policy.durations import format_duration

Header = tuple[bytes, bytes]

_HEADERS: tuple[Header, ...] = (
    (
        b"content-security-policy",
        b"default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    ),
    # Not no-referrer: then a browser sends our own forms with "Origin: null" (Fetch, section 3.1).
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_NO_STORE: Header = (b"cache-control", b"no-store")


class Reply(msgspec.Struct, frozen=True):
    """An answer to a browser."""

    body: bytes = b""
    status: int = 200
    type: bytes = b"text/html; charset=utf-8"
    headers: tuple[Header, ...] = ()

    def all_headers(self) -> list[Header]:
        """Its headers with those that every answer has."""
        cached = any(name == b"cache-control" for name, _ in self.headers)
        return [(b"content-type", self.type), *_HEADERS, *(() if cached else (_NO_STORE,)), *self.headers]


def redirect(path: str, *more: Header) -> Reply:
    """Have the browser GET another page (303), as after every form."""
    return Reply(status=303, headers=((b"location", path.encode("ascii")), *more))


def plain(text: object) -> str:
    """Text of which all can be seen: what reorders, breaks or hides becomes a replacement character."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in str(text))


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _machine_time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(text: str) -> str:
    """A name as ``type:value``; DNS names, which most are, go without their type."""
    return plain(text.removeprefix("dns:"))


def _names(texts: Sequence[str]) -> str:
    return ", ".join(_name(text) for text in texts)


class Templates:
    """The console's pages. Read once, at the start."""

    def __init__(self) -> None:
        self._environment = jinja2.Environment(
            loader=jinja2.PackageLoader("certloom.console", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters |= {
            "plain": plain,
            "time": _time,
            "machine_time": _machine_time,
            "duration": format_duration,
            "name": _name,
            "names": _names,
        }
        self.style = resources.files("certloom.console").joinpath("static/console.css").read_bytes()

    def page(
        self, template: str, status: int = 200, headers: tuple[Header, ...] = (), **values: Any
    ) -> Reply:
        """A page out of a template and its values."""
        text = self._environment.get_template(template).render(values)
        return Reply(text.encode(), status, headers=headers)
