"""Forms: reading what a browser posts, and the marks that it was posted from one of our own pages.

Two checks stand between a session and a foreign page. The browser says where a request comes from
(Sec-Fetch-Site, or Origin from those that do not send it), and every form carries a token that is a MAC under
the secret in a cookie: who cannot read the cookie cannot make it, and it ends with the session.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qsl

FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 50


class BadForm(Exception):
    """What was posted is no form of ours. The message is fit for whoever sent it."""


class CrossSite(Exception):
    """It was not posted from one of our pages, or not from this session's."""


def read(headers: Mapping[str, str], body: bytes) -> dict[str, str]:
    """The fields of a posted form. Raises ``BadForm``."""
    if headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise BadForm(f"expected {FORM}")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except (UnicodeDecodeError, ValueError):
        raise BadForm("the form cannot be read") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name in fields or "\0" in value:
            raise BadForm("the form cannot be read")
        # A browser ends lines with CR LF, whatever the page had.
        fields[name] = value.replace("\r\n", "\n")
    return fields


def query(raw: bytes) -> dict[str, str]:
    """The parameters of a URL; the first of each. What cannot be read is left out."""
    try:
        pairs = parse_qsl(raw.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except (UnicodeDecodeError, ValueError):
        return {}
    return dict(reversed(pairs))


def cookies(headers: Mapping[str, str]) -> dict[str, str]:
    """The cookies that came along."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie", "")).items()}
    except CookieError:
        return {}


def token(secret: str) -> str:
    """What every form carries that belongs to the holder of a cookie."""
    mac = hmac.new(secret.encode(), b"certloom console form", hashlib.sha256).digest()
    return base64.urlsafe_b64encode(mac).rstrip(b"=").decode()


def check(headers: Mapping[str, str], base_url: str, secret: str, given: str) -> None:
    """Raises ``CrossSite`` unless a form was posted from one of our pages, made for this cookie."""
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None and site != "same-origin":
        raise CrossSite
    if origin is not None and origin != base_url:
        raise CrossSite
    if site is None and origin is None:
        raise CrossSite
    if not secret or not hmac.compare_digest(token(secret).encode(), given.encode()):
        raise CrossSite
