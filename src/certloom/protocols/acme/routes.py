"""ACME over HTTP (RFC 8555 section 6): an ASGI callable for everything below ``/acme/``.

Dispatched by hand and answered in one pair of messages: this is the hottest path of the product. What every
answer carries is added here, and what goes wrong anywhere below becomes a problem document here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from certloom.policy.channels import ACMEChannel
from certloom.protocols.acme import (
    accounts,
    ari,
    authorizations,
    certificates,
    challenges,
    directory,
    finalize,
    orders,
    revocation,
)
from certloom.protocols.acme.exchange import Answer, Exchange, Header, retry_after
from certloom.protocols.acme.problems import Problem, malformed
from certloom.protocols.acme.service import ACMEService, by_account, expect_get, nothing
from certloom.protocols.acme.site import Site
from certloom.protocols.acme.site import site as site_of
from certloom.store.base import StoreError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Handler = Callable[..., Awaitable[Answer]]

_PROBLEM = b"application/problem+json"
_JOSE = b"application/jose+json"
_NO_STORE: Header = (b"cache-control", b"no-store")
_PREFIX = "/acme/"

_log = structlog.get_logger("certloom.acme")

# The resources, by the first part of their path behind the channel's name, with how many more parts follow.
_POST: dict[str, tuple[Handler, int, int]] = {
    "new-account": (accounts.new_account, 0, 0),
    "new-order": (orders.new_order, 0, 0),
    "new-authz": (authorizations.new_authz, 0, 0),
    "revoke-cert": (revocation.revoke_cert, 0, 0),
    "key-change": (accounts.key_change, 0, 0),
    "account": (accounts.account, 1, 1),
    "orders": (accounts.orders_list, 1, 1),
    "order": (orders.order, 1, 1),
    "authz": (authorizations.authorization, 1, 1),
    "chall": (challenges.challenge, 2, 2),
    "finalize": (finalize.finalize, 1, 1),
    "cert": (certificates.certificate, 1, 2),
    "renewal-info": (ari.renewal_info_by_post, 1, 1),
}


class ACMEApp:
    """The ASGI application. Make it before the job runner starts: it registers the validation job."""

    def __init__(self, service: ACMEService) -> None:
        self._service = service
        self._most_bytes = service.settings.limits.body_bytes
        challenges.register(service)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service = self._service
        method: str = scope["method"]
        base_url: str = scope["certloom.base_url"]
        site: Site | None = None
        try:
            path = scope["raw_path"].decode("latin-1")
            channel, parts = self._locate(path)
            site = site_of(base_url, channel.name)
            if method == "POST":
                query = scope["query_string"].decode("latin-1")
                x = Exchange(
                    url=f"{base_url}{path}?{query}" if query else base_url + path,
                    query=query,
                    site=site,
                    channel=channel,
                    body=await self._body(scope, receive),
                    address=_address(scope),
                    trace=scope["certloom.trace"],
                )
                answer = await self._post(x, parts)
            else:
                answer = await self._get(method, site, channel, parts)
        except Problem as problem:
            answer = self._refuse(problem, scope)
        except StoreError:
            _log.exception("acme.store", trace=scope["certloom.trace"])
            answer = _broken(scope, 503, "the server's store cannot be used at the moment; nothing was lost")
        except Exception:
            _log.exception("acme.broken", trace=scope["certloom.trace"], path=scope["path"])
            answer = _broken(scope, 500, "the server failed; nothing was lost")
        headers = [(b"content-type", answer.type), *answer.headers] if answer.body else [*answer.headers]
        if site is not None and answer.index:
            headers.append(site.index_link)
        if method == "POST":
            headers.append((b"replay-nonce", service.nonces.issue()))
        if answer.status != 204:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        body = b"" if method == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    def _locate(self, path: str) -> tuple[ACMEChannel, list[str]]:
        parts = path.split("/")
        channel = self._service.books.acme_channel(parts[2]) if len(parts) > 3 else None
        if channel is None:
            raise malformed("there is no such ACME channel", 404)
        return channel, parts[3:]

    async def _post(self, x: Exchange, parts: list[str]) -> Answer:
        service = self._service
        found = _POST.get(parts[0])
        if found is not None:
            handler, least, most = found
            given = len(parts) - 1
            if least <= given <= most:
                return await handler(service, x, *parts[1:], *("",) * (most - given))
        elif len(parts) == 1 and parts[0] == "directory":
            expect_get((await by_account(service, x, nothing)).payload)
            return directory.directory(service, x.site, x.channel)
        elif len(parts) == 1 and parts[0] == "new-nonce":
            expect_get((await by_account(service, x, nothing)).payload)
            return Answer(b"", _NO_STORE, status=204)
        raise malformed("there is no such resource", 404)

    async def _get(self, method: str, site: Site, channel: ACMEChannel, parts: list[str]) -> Answer:
        service, resource = self._service, parts[0]
        if method in ("GET", "HEAD"):
            if len(parts) == 1 and resource == "new-nonce":
                nonce = (b"replay-nonce", service.nonces.issue())
                return Answer(b"", nonce, _NO_STORE, status=200 if method == "HEAD" else 204)
            if len(parts) == 1 and resource == "directory":
                return directory.directory(service, site, channel)
            if len(parts) == 2 and resource == "renewal-info":
                return await ari.renewal_info(service, channel, parts[1])
        if resource not in _POST and resource not in ("directory", "new-nonce"):
            raise malformed("there is no such resource", 404)
        raise malformed("this resource is asked for by POST with a signed body", 405)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        for name, value in scope["headers"]:
            if name == b"content-type":
                if value != _JOSE and value.partition(b";")[0].strip().lower() != _JOSE:
                    raise malformed("the Content-Type must be application/jose+json", 415)
                break
        else:
            raise malformed("the Content-Type must be application/jose+json", 415)
        message = await receive()
        body: bytes = message.get("body", b"")
        while message.get("more_body"):
            if len(body) > self._most_bytes:
                break
            message = await receive()
            body += message.get("body", b"")
        if len(body) > self._most_bytes:
            raise malformed(f"the body has more than {self._most_bytes} octets", 413)
        return body

    def _refuse(self, problem: Problem, scope: Scope) -> Answer:
        _log.info(
            "acme.refused",
            trace=scope["certloom.trace"],
            path=scope["path"],
            type=problem.type,
            detail=problem.detail,
        )
        links = problem.links
        if problem.type == "rateLimited" and (website := self._service.settings.acme.website):
            links = (*links, ("help", website))
        headers: list[Header] = [(b"link", f'<{url}>;rel="{relation}"'.encode()) for relation, url in links]
        if problem.retry_after is not None:
            headers.append(retry_after(problem.retry_after))
        if problem.location is not None:
            headers.append((b"location", problem.location.encode()))
        if problem.status == 405:
            headers.append((b"allow", b"POST"))
        return Answer(problem.document(), *headers, status=problem.status, type=_PROBLEM)


def _broken(scope: Scope, status: int, detail: str) -> Answer:
    """Our fault: the client is told under which id the log has the rest."""
    problem = Problem("serverInternal", f"{detail} (request {scope['certloom.trace']})", status=status)
    return Answer(problem.document(), retry_after(10), status=status, type=_PROBLEM)


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else ""
