"""The console as an ASGI application, below ``/console/``: what a browser asks for, and who asks.

GET changes nothing. A form is answered with a redirect to what it led to, so that reloading repeats nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import structlog

from certloom.audit import Origin
from certloom.console import forms
from certloom.console.approvals import Approvals
from certloom.console.forms import BadForm, CrossSite
from certloom.console.rendering import Header, Reply, Templates, redirect
from certloom.console.visit import COOKIE, FORM_COOKIE, OIDC_COOKIE, Visit
from certloom.enrollment.approvals import Approvals as EnrollmentApprovals
from certloom.identity.authentication import Authentication
from certloom.identity.login import LoggedIn, LoginRefused, Logins, LoginThrottled
from certloom.identity.oidc import LOGIN_SECONDS, OIDCError
from certloom.identity.oidc_login import OIDCLogins
from certloom.identity.passwords import Busy
from certloom.identity.ratelimit import Limit
from certloom.identity.throttle import address_group
from certloom.store.base import Store, StoreError

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_HOME = "/console/approvals"
_CALLBACK = "/console/login/oidc/callback"
_MOST_FORM = 65_536
_DROP = "; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
_FORGET: Header = (b"clear-site-data", b'"cache"')
"""No-store keeps a page from being kept on disk; Chromium still goes back to one that it has in memory."""

_log = structlog.get_logger("certloom.console")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the console works with."""

    store: Store
    approvals: EnrollmentApprovals
    authentication: Authentication
    logins: Logins
    oidc: OIDCLogins | None
    visits: Limit
    """Requests that one address may make in a minute without a session."""


class Console:
    """The ASGI application."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._templates = Templates()
        self._approvals = Approvals(parts.store, parts.approvals, self._templates)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = await self._reply(scope, receive)
        await send({"type": "http.response.start", "status": reply.status, "headers": reply.all_headers()})
        await send({"type": "http.response.body", "body": reply.body})

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        try:
            visit = await self._visit(scope, receive)
            if isinstance(visit, Reply):
                return visit
            return await self._page(visit)
        except BadForm as error:
            return self._sorry(400, "That cannot be read", str(error))
        except CrossSite:
            return self._sorry(
                403,
                "Not sent from this page",
                "The form did not come from a page of this session. Go back, reload the page and try again.",
            )
        except StoreError:
            _log.exception("the store failed", trace=scope.get("certloom.trace", ""))
            return self._sorry(503, "Not now", "The server cannot do this at the moment. Try again soon.")

    async def _visit(self, scope: Scope, receive: Receive) -> Visit | Reply:
        """Who asks what; a form's fields are read, and checked to come from one of our pages."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope.get("client")
        address = client[0] if client else ""
        sent = forms.cookies(headers)
        secret = sent.get(COOKIE, "")
        session = await self._parts.authentication.session_of(secret) if secret else None
        if session is None:
            quota = self._parts.visits.take(address_group(address))
            if not quota.allowed:
                wait = (b"retry-after", b"%d" % quota.reset)
                return self._sorry(
                    429, "Too often", "Too many requests from your address. Wait a minute.", wait
                )
        method = scope["method"]
        if method not in ("GET", "HEAD", "POST"):
            return self._sorry(
                405, "Not that way", "Pages are read and forms are sent.", (b"allow", b"GET, POST")
            )
        principal = None if session is None else session.principal
        fields: dict[str, str] = {}
        if method == "POST":
            body = (await receive()).get("body", b"")
            if len(body) > _MOST_FORM:
                return self._sorry(413, "Too much", "The form is longer than any of ours.")
            fields = forms.read(headers, body)
            bound_to = secret if session is not None else sent.get(FORM_COOKIE, "")
            forms.check(headers, scope["certloom.base_url"], bound_to, fields.get("token", ""))
        return Visit(
            posts=method == "POST",
            path=scope["path"],
            query=forms.query(scope["query_string"]),
            fields=fields,
            cookies=sent,
            secret=secret if session is not None else "",
            principal=principal,
            origin=Origin(
                principal.actor if principal else "nobody", address, scope.get("certloom.trace", "")
            ),
            base_url=scope["certloom.base_url"],
        )

    async def _page(self, visit: Visit) -> Reply:
        match visit.path.split("/")[2:]:
            case [""]:
                return redirect(_HOME)
            case ["console.css"] if not visit.posts:
                cached = ((b"cache-control", b"public, max-age=3600"),)
                return Reply(self._templates.style, type=b"text/css; charset=utf-8", headers=cached)
            case ["login"]:
                return await (self._login(visit) if visit.posts else self._login_page(visit))
            case ["login", "oidc"] if not visit.posts:
                return await self._depart(visit)
            case ["login", "oidc", "callback"] if not visit.posts:
                return await self._arrive(visit)
            case ["logout"] if visit.posts:
                return await self._logout(visit)
            case ["approvals"] if not visit.posts:
                return await self._approvals.waiting(visit) if visit.principal else _to_login(visit)
            # No id has a control character, and PostgreSQL takes no NUL to look for one.
            case ["approvals", id] if id and id.isprintable():
                if visit.principal is None:
                    return _to_login(visit)
                if visit.posts:
                    return await self._approvals.decide(visit, id)
                return await self._approvals.show(visit, id)
        return self._sorry(
            404, "No such page", "There is nothing here.", principal=visit.principal, visit=visit
        )

    # -- logging in and out --------------------------------------------------------------------------------

    async def _login_page(self, visit: Visit, status: int = 200, problem: str = "", *more: Header) -> Reply:
        if visit.principal is not None:
            return redirect(_within(visit.query.get("next", "")))
        secret = visit.cookies.get(FORM_COOKIE, "")
        headers = list(more)
        if len(secret) < 32:
            # What the form's token is bound to before there is a session.
            secret = secrets.token_urlsafe(32)
            headers.append(_cookie(FORM_COOKIE, secret, "Lax"))
        oidc = self._parts.oidc
        asked = visit.fields.get("next", visit.query.get("next", ""))
        return self._templates.page(
            "login.html",
            status,
            tuple(headers),
            visit=None,
            token=forms.token(secret),
            next=_within(asked),
            name=visit.fields.get("name", "")[:256],
            problem=problem,
            provider=oidc.provider.name if oidc is not None else "",
            oidc_path=f"/console/login/oidc?next={quote(_within(asked), safe='')}",
        )

    async def _login(self, visit: Visit) -> Reply:
        try:
            opened = await self._parts.logins.login(
                visit.fields.get("name", ""), visit.fields.get("password", ""), visit.origin
            )
        except LoginRefused as error:
            return await self._login_page(visit, 403, str(error))
        except LoginThrottled as error:
            return await self._login_page(visit, 429, str(error), (b"retry-after", b"%d" % error.retry_after))
        except Busy as error:
            return await self._login_page(visit, 503, str(error), (b"retry-after", b"5"))
        if visit.secret:
            await self._parts.logins.logout(visit.secret, visit.origin)
        return redirect(_within(visit.fields.get("next", "")), *_session(opened))

    async def _depart(self, visit: Visit) -> Reply:
        oidc = self._parts.oidc
        if oidc is None:
            return self._sorry(404, "No such page", "No identity provider is configured.")
        try:
            departure = await oidc.provider.depart(
                f"{visit.base_url}{_CALLBACK}", _within(visit.query.get("next", ""))
            )
        except OIDCError as error:
            return await self._login_page(visit, 503, str(error))
        cookie = _cookie(OIDC_COOKIE, departure.cookie, "Lax", LOGIN_SECONDS)
        return Reply(status=303, headers=((b"location", departure.url.encode("ascii")), cookie))

    async def _arrive(self, visit: Visit) -> Reply:
        oidc = self._parts.oidc
        if oidc is None:
            return self._sorry(404, "No such page", "No identity provider is configured.")
        over: Header = (b"set-cookie", f"{OIDC_COOKIE}={_DROP}".encode())
        try:
            identity = await oidc.provider.arrive(visit.cookies.get(OIDC_COOKIE, ""), visit.query)
            opened = await oidc.login(identity, visit.origin)
        except OIDCError as error:
            _log.info("login refused", why=str(error), trace=visit.origin.trace)
            return await self._login_page(visit, 403, str(error), over)
        return redirect(_within(identity.next), over, *_session(opened))

    async def _logout(self, visit: Visit) -> Reply:
        if visit.secret:
            await self._parts.logins.logout(visit.secret, visit.origin)
        return redirect("/console/login", (b"set-cookie", f"{COOKIE}={_DROP}".encode()), _FORGET)

    def _sorry(self, status: int, title: str, text: str, *headers: Header, **more: Any) -> Reply:
        return self._templates.page(
            "sorry.html", status, headers, visit=more.get("visit"), title=title, text=text
        )


def _session(opened: LoggedIn) -> tuple[Header, ...]:
    """The session's cookie; the one that the login form was bound to has done its work."""
    return (
        _cookie(COOKIE, opened.secret, "Lax"),
        (b"set-cookie", f"{FORM_COOKIE}={_DROP}".encode()),
    )


def _cookie(name: str, value: str, same_site: str, seconds: int | None = None) -> Header:
    age = "" if seconds is None else f"; Max-Age={seconds}"
    return b"set-cookie", f"{name}={value}; Path=/{age}; Secure; HttpOnly; SameSite={same_site}".encode(
        "ascii"
    )


def _to_login(visit: Visit) -> Reply:
    return redirect(f"/console/login?next={quote(visit.path, safe='')}")


def _within(next: str) -> str:
    """A path of the console, or its home: nothing that leads a browser anywhere else."""
    good = (
        next.startswith("/console/")
        and len(next) <= 500
        and next.isascii()
        and next.isprintable()
        and not any(c in next for c in '\\ "<>')
        and "//" not in next
        and "/." not in next
    )
    return next if good and not next.startswith(("/console/login", "/console/logout")) else _HOME


__all__ = ["Console", "Parts"]
