"""Who asks: by bearer token, client certificate, session cookie, or through the admin socket.

A browser sends cookies with whatever another site makes it ask, so a request that changes something counts
as the session's only if the browser says that it comes from this site (Sec-Fetch-Site, or Origin from those
that do not send it). Tokens and the admin socket need no such check: no browser adds them by itself. One does
add a client certificate, so the same holds for those where a browser speaks: it sends one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from certloom.api.problems import CROSS_SITE, UNAUTHENTICATED, Problem
from certloom.api.routing import NOBODY, Public, Route
from certloom.identity.authentication import Authentication
from certloom.identity.principals import Principal

COOKIE = "__Host-certloom"
_SAFE = frozenset({"GET", "HEAD"})
_SAME_SITE = frozenset({"same-origin", "none"})
_CHALLENGE = (("www-authenticate", 'Bearer realm="certloom"'),)


def unauthenticated(detail: str) -> Problem:
    """401, with how to do better."""
    return Problem(UNAUTHENTICATED, detail, headers=_CHALLENGE)


async def authenticate(
    authentication: Authentication, route: Route, scope: Mapping[str, Any], headers: Mapping[str, str]
) -> Principal:
    """Who asks; ``NOBODY`` where that is enough. Raises ``Problem``: 401, 403."""
    known: Principal | None = scope.get("certloom.principal")
    if known is not None:
        return known
    public = isinstance(route.permission, Public)
    if "authorization" in headers:
        found = await _bearer(authentication, headers["authorization"])
        if found is None:
            raise unauthenticated("the token is not one that is good here and now")
        return found
    if public and scope["method"] not in _SAFE and headers.get("sec-fetch-site", "none") not in _SAME_SITE:
        raise Problem(CROSS_SITE, "a browser sent this for another site")
    certificate: bytes | None = scope.get("certloom.peer_certificate")
    if certificate is not None:
        found = await authentication.certificate(certificate)
        if found is not None:
            if "sec-fetch-site" in headers or "origin" in headers:
                _check_site(scope, headers)
            return found
        if not public:
            raise unauthenticated("the client certificate stands for nobody who may use this")
    secret = session_secret(headers.get("cookie", ""))
    if secret:
        found = await authentication.session(secret)
        if found is not None:
            _check_site(scope, headers)
            return found
        if not public:
            raise unauthenticated("the session is over; log in again")
    if public:
        return NOBODY
    raise unauthenticated("say who you are: a bearer token, a client certificate or a session")


async def _bearer(authentication: Authentication, header: str) -> Principal | None:
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer":
        return None
    return await authentication.token(token.strip())


def session_secret(header: str) -> str:
    """The session's secret out of a Cookie header; empty where there is none."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


def _check_site(scope: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    """Raise ``Problem`` unless a request that may change something comes from this site's own pages."""
    if scope["method"] in _SAFE:
        return
    site = headers.get("sec-fetch-site")
    if site is None:
        same = headers.get("origin", "") == scope["certloom.base_url"] != ""
    else:
        same = site == "same-origin"
    if not same:
        raise Problem(CROSS_SITE, "a session changes things only from this site's own pages")
