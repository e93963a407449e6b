"""EST over HTTP: an ASGI callable for the paths of RFC 7030 section 3.2.2, with and without a label.

A label stands behind ``/.well-known/est`` as the RFC wants it, or before it, since some clients can only be
given an address that the rest is appended to. What goes wrong anywhere below becomes one plain sentence here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from certloom.enrollment.books import UnknownName
from certloom.pki.containers import certs_only
from certloom.policy.channels import EST_OPERATIONS, ESTChannel
from certloom.protocols.est import cmc, enrolling, messages, server_keygen
from certloom.protocols.est.authentication import Peer
from certloom.protocols.est.ca_certificates import ca_certificates
from certloom.protocols.est.csr_attributes import csr_attributes
from certloom.protocols.est.exchange import Answer, Call
from certloom.protocols.est.problems import ESTProblem, retry_after
from certloom.protocols.est.service import ESTService
from certloom.store.base import StoreError

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Operation = Callable[[ESTService, Call], Awaitable[Answer]]

WELL_KNOWN = "/.well-known/est/"
_DEFAULT = "default"
_EMPTY_SEQUENCE = b"0\x00"
_IN_BASE64 = (b"application/pkcs7-mime", b"application/csrattrs")

_log = structlog.get_logger("certloom.est")

_POST: dict[str, tuple[Operation, bytes]] = {
    "simpleenroll": (enrolling.simple_enroll, messages.PKCS10),
    "simplereenroll": (enrolling.simple_reenroll, messages.PKCS10),
    "fullcmc": (cmc.full_cmc, messages.PKCS7),
    "serverkeygen": (server_keygen.server_keygen, messages.PKCS10),
}
"""What is asked for with a body, and the body's media type."""


def is_est(path: str) -> bool:
    """Whether this path is EST's: ``/.well-known/est/...``, or that behind one label."""
    if path.startswith(WELL_KNOWN):
        return True
    at = path.find(WELL_KNOWN, 1)
    return at > 1 and path.find("/", 1) == at


class ESTApp:
    """The ASGI application."""

    def __init__(self, service: ESTService) -> None:
        self._service = service
        self._kept: dict[tuple[int, str], bytes] = {}
        """/cacerts of a generation of the configuration, by authority; made anew by the day."""
        self._kept_until = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            answer = await self._answer(scope, receive)
        except ESTProblem as problem:
            _log.info(
                "est.refused",
                trace=scope["certloom.trace"],
                path=scope["path"],
                status=problem.status,
                detail=problem.detail,
            )
            answer = _told(problem.status, "" if problem.silent else problem.detail, *problem.headers)
        except StoreError:
            _log.exception("est.store", trace=scope["certloom.trace"])
            answer = _told(503, "the server's store cannot be used at the moment", retry_after(10))
        except Exception:
            _log.exception("est.broken", trace=scope["certloom.trace"], path=scope["path"])
            answer = _told(500, f"the server failed; nothing was lost (request {scope['certloom.trace']})")
        headers = list(answer.headers)
        if answer.status != 204:
            headers.insert(0, (b"content-type", answer.type))
        if answer.type.startswith(_IN_BASE64):
            # RFC 8951 section 3 has everybody ignore it, and clients of before (libest, Bouncy Castle) take a
            # body without it for DER.
            headers.append((b"content-transfer-encoding", b"base64"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: Scope, receive: Receive) -> Answer:
        channel, operation = self._locate(scope["path"])
        method = scope["method"]
        folded = scope["http_version"] == "1.0"
        found = _POST.get(operation)
        if found is None:
            if method not in ("GET", "HEAD"):
                raise ESTProblem(405, f"{operation} is asked for by GET", (b"allow", b"GET, HEAD"))
            return self._told_to_all(channel, operation, folded=folded)
        if method != "POST":
            raise ESTProblem(405, f"{operation} is asked for by POST", (b"allow", b"POST"))
        handler, media = found
        authorization = _headers(scope, media, operation)
        body = (await receive()).get("body", b"")
        client = scope.get("client")
        peer = Peer(
            address=client[0] if client else "",
            authorization=authorization,
            certificate=scope.get("certloom.peer_certificate"),
            chain=scope.get("certloom.peer_chain", ()),
            tls_unique=scope.get("certloom.tls_unique"),
        )
        try:
            content = messages.decode_body(body)
        except messages.MessageError as error:
            raise ESTProblem(400, str(error)) from None
        call = Call(channel, operation, content, peer, folded, scope["certloom.trace"])
        return await handler(self._service, call)

    def _locate(self, path: str) -> tuple[ESTChannel, str]:
        """The channel and the operation that a path names. Raises ``ESTProblem``."""
        label, _, rest = path[1:].partition(WELL_KNOWN[1:])
        parts = [part for part in (label.rstrip("/"), *rest.split("/")) if part]
        if 1 <= len(parts) <= 2 and parts[-1] in EST_OPERATIONS:
            channel = self._service.books.est_channel(parts[0] if len(parts) == 2 else _DEFAULT)
            if channel is not None:
                return channel, parts[-1]
        raise ESTProblem(404, "there is no such channel or operation of EST")

    def _told_to_all(self, channel: ESTChannel, operation: str, *, folded: bool) -> Answer:
        """What needs no authentication (RFC 7030 sections 4.1 and 4.5)."""
        service = self._service
        profile = service.profile(channel)
        if operation == "csrattrs":
            attributes = csr_attributes(profile, bound=channel.channel_binding == "required")
            if attributes == _EMPTY_SEQUENCE:
                return Answer(b"", b"", 204)
            return Answer(messages.encode_body(attributes, folded=folded), messages.CSR_ATTRIBUTES)
        return Answer(self._ca_certificates(profile.authority, folded=folded), messages.CERTS_ONLY)

    def _ca_certificates(self, authority: str, *, folded: bool) -> bytes:
        books, now = self._service.books, self._service.clock.now()
        if now >= self._kept_until:
            self._kept.clear()
            self._kept_until = now + 3600
        place = (books.generation, authority)
        found = self._kept.get(place)
        if found is None:
            self._kept = {key: body for key, body in self._kept.items() if key[0] == books.generation}
            try:
                found = self._kept[place] = certs_only(ca_certificates(books, authority, now))
            except UnknownName as error:
                raise ESTProblem(503, str(error), retry_after(60)) from None
        return messages.encode_body(found, folded=folded)


def _headers(scope: Scope, media: bytes, operation: str) -> bytes | None:
    """The Authorization header, once it is certain that the body says it is what the operation takes. A body
    that does not say what it is, is taken for that."""
    authorization: bytes | None = None
    for name, value in scope["headers"]:
        if name == b"content-type":
            if value != media and value.partition(b";")[0].strip().lower() != media:
                raise ESTProblem(415, f"{operation} takes {media.decode()}")
        elif name == b"authorization":
            if authorization is not None:
                raise ESTProblem(400, "there are two Authorization headers")
            authorization = value
    return authorization


def _told(status: int, detail: str, *headers: tuple[bytes, bytes]) -> Answer:
    return Answer(detail.encode() + b"\n" if detail else b"", messages.TEXT, status, headers)
