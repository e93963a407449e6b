"""The API as an ASGI application: from a request to an answer, for every route alike.

The order: find the route, tell who asks, count the request against their limit, ask whether there is anything
they have the permission for, decode, look whether an answer was kept under the Idempotency-Key, and only then
ask the handler. Whatever goes wrong on the way becomes a problem document here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from time import perf_counter
from typing import Any

import structlog

from certloom.api import problems
from certloom.api.authentication import authenticate
from certloom.api.decoding import Bound
from certloom.api.idempotency import IdempotencyKey, Kept, Keys, Repeated
from certloom.api.matching import Matcher
from certloom.api.problems import Problem
from certloom.api.rendering import Header, Rendered, gathered, head, render, stream, whole
from certloom.api.resources import table
from certloom.api.routing import NOBODY, Answer, Call, Public, Route, Stream
from certloom.api.services import Services
from certloom.audit import Origin
from certloom.enrollment.books import UnknownName
from certloom.enrollment.errors import EnrollmentError, Unavailable, Waiting
from certloom.identity.credentials import is_service
from certloom.identity.principals import Principal
from certloom.identity.ratelimit import Limit, Quota
from certloom.identity.throttle import address_group
from certloom.store.base import Conflict, StoreError

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_SAFE = frozenset({"GET", "HEAD"})
_STORE_SECONDS = 10
_NO_STORE: Header = (b"cache-control", b"no-store")
_REVALIDATE: Header = (b"cache-control", b"private, no-cache")
_NO_SNIFF: Header = (b"x-content-type-options", b"nosniff")

_log = structlog.get_logger("certloom.api")


class API:
    """The ASGI application below ``/api/v1``."""

    def __init__(self, services: Services, routes: Iterable[Route] | None = None) -> None:
        self.services = services
        self.routes = tuple(table() if routes is None else routes)
        self._matcher = Matcher(self.routes)
        self._keys = Keys(services)
        settings, clock = services.settings.api, services.clock
        self._principals = Limit("principal", settings.requests_per_minute, clock)
        self._addresses = Limit("address", settings.requests_per_minute, clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, status = perf_counter(), 0

        async def noted(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._serve(scope, receive, noted)
        finally:
            _log.info(
                "api.call",
                trace=_trace(scope),
                method=scope["method"],
                route=scope.get("certloom.route", ""),
                status=status,
                ms=round((perf_counter() - began) * 1000, 1),
                principal=scope.get("certloom.actor", "nobody"),
            )

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        more: list[Header] = [_NO_SNIFF]
        is_head = scope["method"] == "HEAD"
        try:
            answer = await self._answer(scope, receive, more)
            if isinstance(answer, Answer) and isinstance(answer.value, Stream):
                # The first pieces come before the status: what is wrong from the start is a problem still.
                pieces = gathered(answer.value.pieces)
                first = await anext(pieces, b"")
            else:
                rendered, pieces = render(answer) if isinstance(answer, Answer) else answer, None
        except Exception as error:
            rendered, pieces = self._refuse(error, scope, more), None
        if pieces is not None:
            assert isinstance(answer, Answer)
            await stream(send, answer.status, [*head(answer), *more, _NO_STORE], first, pieces, is_head)
            return
        etag = next((value for name, value in rendered.headers if name == b"etag"), None)
        more.append(_NO_STORE if etag is None else _REVALIDATE)
        if etag is not None and rendered.status == 200 and scope["method"] in _SAFE:
            rendered = _unless_seen(rendered, etag, scope)
        await whole(send, rendered, more, is_head)

    # -- the way to the handler --------------------------------------------------------------------------

    async def _answer(self, scope: Scope, receive: Receive, more: list[Header]) -> Answer | Rendered:
        method: str = scope["method"]
        raw_path: str = scope["raw_path"].decode("latin-1")
        raw_query: str = scope["query_string"].decode("latin-1")
        bound, segments = self._matcher.find(method, raw_path)
        route = bound.route
        scope["certloom.route"] = route.template
        headers = _headers(scope)
        address = _address(scope)
        principal = await self._principal(route, scope, headers, address, more)
        scope["certloom.actor"] = principal.actor if principal is not NOBODY else "nobody"
        _check_permission(route, principal)
        body = await _body(receive)
        origin = Origin(principal.actor if principal is not NOBODY else "nobody", address, _trace(scope))
        key: IdempotencyKey | None = None
        if route.keyed and principal is not NOBODY and "idempotency-key" in headers:
            target = f"{raw_path}?{raw_query}"
            key = self._keys.read(headers["idempotency-key"], principal.actor, method, target, body)
        call = Call(
            services=self.services,
            route=route,
            principal=principal,
            origin=origin,
            path=bound.path(segments),
            query=bound.query(raw_query),
            body=bound.body(headers, body),
            headers=headers,
            raw_query=raw_query,
            base_url=scope["certloom.base_url"],
            key=key,
        )
        if key is None:
            return await route.handler(call)
        return await self._once(bound, call, key)

    async def _principal(
        self, route: Route, scope: Scope, headers: dict[str, str], address: str, more: list[Header]
    ) -> Principal:
        """Who asks, counted. What many wrong guesses cost is bounded; what is right is let through."""
        if isinstance(route.permission, Public) and scope["method"] not in _SAFE:
            _within(self.services.failures.look(address_group(address)), more)
        principal = await authenticate(self.services.authentication, route, scope, headers)
        if principal is NOBODY:
            _within(self._addresses.take(address_group(address)), more)
        elif principal.kind != "local":
            _within(self._principals.take(_counted(principal)), more)
        return principal

    async def _once(self, bound: Bound, call: Call[Any, Any, Any], key: IdempotencyKey) -> Answer | Rendered:
        """Ask the handler unless the answer is there already.

        Handlers keep it in the transaction of its effect (``Call.create``, ``Call.remember``): kept here, a
        crash in between would let a repeat have a second effect.
        """
        self._keys.begin(key)
        try:
            kept = await key.kept()
            if kept is not None:
                return await _again(bound.route, call, kept)
            try:
                return await bound.route.handler(call)
            except Repeated:
                kept = await key.kept()
                if kept is None:
                    raise Problem(problems.IN_PROGRESS, "another server answered this; ask again") from None
                return await _again(bound.route, call, kept)
        finally:
            self._keys.end(key)

    # -- what goes wrong ---------------------------------------------------------------------------------

    def _refuse(self, error: Exception, scope: Scope, more: list[Header]) -> Rendered:
        trace = _trace(scope)
        if isinstance(error, Waiting):
            return Rendered(202, head(waiting(error)))
        problem = _problem(error)
        if problem is not None and problem.code == problems.UNAUTHENTICATED:
            problem = self._count_failure(problem, scope, more)
        if problem is None:
            _log.error("api.broken", trace=trace, path=scope["path"], exc_info=error)
            problem = Problem(
                problems.INTERNAL, "the server failed; its log tells why, under this request_id"
            )
        else:
            if problem.code == problems.UNAVAILABLE and isinstance(error, StoreError):
                _log.error("api.store", trace=trace, path=scope["path"], exc_info=error)
            _log.info(
                "api.refused",
                trace=trace,
                method=scope["method"],
                path=scope["path"],
                code=problem.code,
                detail=problem.detail,
            )
        headers: list[Header] = [(b"content-type", problems.MEDIA.encode())]
        headers += [(name.encode(), value.encode("latin-1")) for name, value in problem.headers]
        if problem.retry_after is not None:
            headers.append((b"retry-after", b"%d" % problem.retry_after))
        return Rendered(problem.status, headers, problems.document(problem, trace))

    def _count_failure(self, problem: Problem, scope: Scope, more: list[Header]) -> Problem:
        """A guess that was wrong, of a token or a password, counts against its address."""
        try:
            _within(self.services.failures.take(address_group(_address(scope))), more)
        except Problem as too_many:
            return too_many
        return problem


async def _again(route: Route, call: Call[Any, Any, Any], kept: Kept) -> Rendered:
    """A kept answer, for who still may what it took. Raises ``Problem``."""
    for permission, thing in kept.allowed:
        call.allow(permission, thing)
    if route.again is not None:
        await route.again(call, kept.rendered.body)
    return kept.rendered


def waiting(error: Waiting) -> Answer:
    """A request that waits for people or an upstream CA: 202, and where to look when."""
    return Answer(status=202, location=f"/requests/{error.request_id}", retry_after=error.retry_after)


def _problem(error: Exception) -> Problem | None:
    if isinstance(error, Problem):
        return error
    if isinstance(error, Unavailable):
        return Problem(problems.UNAVAILABLE, str(error), reasons=error.reasons, retry_after=error.retry_after)
    if isinstance(error, EnrollmentError):
        return Problem(problems.REFUSED, str(error), reasons=error.reasons)
    if isinstance(error, UnknownName):
        return Problem(problems.NOT_FOUND, str(error))
    if isinstance(error, Conflict):
        return Problem(problems.CONFLICT, "something like it exists already")
    if isinstance(error, StoreError):
        detail = "the server's store cannot be used at the moment; nothing was lost"
        return Problem(problems.UNAVAILABLE, detail, retry_after=_STORE_SECONDS)
    return None


def _counted(principal: Principal) -> str:
    """Whose limit a request counts against. A person's tokens are one with them: they make as many as they
    like."""
    return principal.actor if is_service(principal.owner) else principal.owner


def _check_permission(route: Route, principal: Principal) -> None:
    permission = route.permission
    if isinstance(permission, str) and not principal.may_somewhere(permission):
        raise Problem(problems.FORBIDDEN, f"this takes the permission {permission}")


def _within(quota: Quota, more: list[Header]) -> None:
    more[:] = [header for header in more if not header[0].startswith(b"ratelimit")]
    more += quota.headers()
    if not quota.allowed:
        raise Problem(problems.TOO_MANY, "too many requests in this minute", retry_after=quota.reset)


def _headers(scope: Scope) -> dict[str, str]:
    """By lower-case name; what comes several times as one list (RFC 9110 section 5.3)."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


async def _body(receive: Receive) -> bytes:
    message = await receive()
    body: bytes = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    return body


def _unless_seen(rendered: Rendered, etag: bytes, scope: Scope) -> Rendered:
    """304 where the client has this very version already (RFC 9110 section 13.1.2)."""
    for name, value in scope["headers"]:
        if name == b"if-none-match" and (
            value.strip() == b"*" or etag in (part.strip().removeprefix(b"W/") for part in value.split(b","))
        ):
            return Rendered(304, [(b"etag", etag)])
    return rendered


def _address(scope: Scope) -> str:
    """The client's; empty for the admin socket."""
    client = scope.get("client")
    return client[0] if client else ""


def _trace(scope: Scope) -> str:
    trace: str = scope["certloom.trace"]
    return trace
