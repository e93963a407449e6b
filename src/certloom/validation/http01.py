"""http-01: the key authorization at a well-known path (RFC 8555 section 8.3, RFC 8738 section 4)."""

from __future__ import annotations

import hmac
import re
import ssl
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from certloom import __version__
from certloom.outbound import fetch
from certloom.outbound.fetch import FetchFailed, Response, TLSFailed
from certloom.validation.proof import Proof, ValidationFailed, ValidationRecord, excerpt
from certloom.validation.reach import Reach, Reached, is_address

BODY_LIMIT = 4_096
"""Bytes of body read; a key authorization has about 90."""
URL_LIMIT = 2_000

_WELL_KNOWN = "/.well-known/acme-challenge/"
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOST = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_REQUEST = (
    f"GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Certloom/{__version__} (ACME http-01)\r\n"
    "Accept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
)


class _Target(msgspec.Struct, frozen=True):
    """Where one request goes. ``authority`` is what the Host header says."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"


class HTTP01:
    """Checks http-01 challenges. ``port`` is asked in place of 80, ``tls_port`` allowed in place of 443."""

    def __init__(self, reach: Reach, *, port: int = 80, tls_port: int = 443, redirects: int = 5) -> None:
        self._reach = reach
        self._port = port
        self._redirects = redirects
        self._ports = frozenset({80, 443, port, tls_port})
        self._tls: ssl.SSLContext | None = None

    async def check(self, proof: Proof, deadline: float) -> tuple[ValidationRecord, ...]:
        """The requests made, first to last. ``deadline`` is a loop time. Raises ``ValidationFailed``."""
        if proof.is_wildcard:
            raise ValidationFailed("malformed", "http-01 cannot prove a wildcard name (RFC 8555)")
        target = self._first(proof)
        records: list[ValidationRecord] = []
        visited: set[str] = set()
        while True:
            url = target.url
            if url in visited:
                raise ValidationFailed("connection", f"{_of(url)} redirects in a loop")
            visited.add(url)
            reached = await self._fetch(target, url, deadline)
            response = reached.got
            records.append(ValidationRecord(target.host, url, target.port, reached.resolved, reached.address))
            if response.status not in _REDIRECTS:
                break
            if len(visited) > self._redirects:
                raise ValidationFailed(
                    "connection", f"{_of(url)}: more than {self._redirects} redirects are not followed"
                )
            target = self._next(url, response.location)
        # Somebody else's server may be named by a redirect: its words are not passed on to the requester.
        own = target.host == proof.base_name
        _judge(response, proof.key_authorization, f"{_of(url)} at {reached.address}", show=own)
        return tuple(records)

    async def _fetch(self, target: _Target, url: str, deadline: float) -> Reached[Response]:
        request = (_REQUEST % (target.path, target.authority)).encode("ascii")
        tls = self._tls_context() if target.scheme == "https" else None
        # A server name is a DNS name, never an address (RFC 6066 section 3).
        server_name = "" if is_address(target.host) else target.host

        async def talk(address: str, connect_by: float) -> Response:
            return await fetch.get(
                request,
                address,
                target.port,
                connect_by=connect_by,
                finish_by=deadline,
                body_limit=BODY_LIMIT,
                tls=tls,
                server_name=server_name,
            )

        try:
            return await self._reach.connect(target.host, target.port, deadline, talk)
        except TLSFailed as failure:
            raise ValidationFailed("tls", f"{_of(url)}: {failure}") from failure
        except FetchFailed as failure:
            raise ValidationFailed("connection", f"{_of(url)}: {failure}", retryable=True) from failure

    def _first(self, proof: Proof) -> _Target:
        host = proof.base_name
        shown = f"[{host}]" if ":" in host else host
        authority = shown if self._port == 80 else f"{shown}:{self._port}"
        return _Target("http", host, self._port, authority, _WELL_KNOWN + proof.token)

    def _next(self, url: str, location: str) -> _Target:
        """Where a redirect leads. Raises ``ValidationFailed`` if that is no place to go."""
        where = f"{_of(url)} redirects to {excerpt(location)}"
        if not location or len(location) > URL_LIMIT:
            raise ValidationFailed("connection", f"{_of(url)} redirects without a usable Location")
        try:
            parts = urlsplit(urljoin(url, location.strip()))
            host, port = (parts.hostname or "").rstrip("."), parts.port
        except ValueError:
            raise ValidationFailed("connection", f"{where}: not a URL") from None
        if parts.scheme not in ("http", "https"):
            raise ValidationFailed("connection", f"{where}: only http and https are followed")
        if parts.username is not None or parts.password is not None:
            raise ValidationFailed("connection", f"{where}: a URL with user information is not followed")
        if not (_HOST.fullmatch(host) or is_address(host)) or "%" in host:
            raise ValidationFailed("connection", f"{where}: no usable host name")
        usual = 443 if parts.scheme == "https" else 80
        port = port or usual
        if port not in self._ports:
            raise ValidationFailed("connection", f"{where}: only ports 80 and 443 are followed")
        shown = f"[{host}]" if ":" in host else host
        authority = shown if port == usual else f"{shown}:{port}"
        # Nothing but printable ASCII without spaces gets into the request line.
        path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            path += "?" + quote(parts.query, safe="/?%:@!$&'()*+,;=~-._")
        return _Target(parts.scheme, host, port, authority, path)

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            # The host asks for a certificate and may well have none that anybody trusts yet.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self._tls = context
        return self._tls


def _judge(response: Response, expected: str, where: str, *, show: bool) -> None:
    if response.status != 200:
        raise ValidationFailed(
            "incorrectResponse",
            f"{where} answered with status {response.status}, expected 200",
            response.status in _PASSING_STATUS,
        )
    # RFC 8555 section 8.3: trailing whitespace does not count.
    body = response.body.rstrip()
    if not response.cut and hmac.compare_digest(body, expected.encode()):
        return
    if response.cut:
        got = f"more than {BODY_LIMIT} bytes"
    elif response.encoding and response.encoding.lower() != "identity":
        got = "a body with a Content-Encoding that was not asked for"
    elif not show:
        got = f"{len(body)} other bytes"
    else:
        got = excerpt(body)
    raise ValidationFailed(
        "incorrectResponse", f"{where}: expected the key authorization {excerpt(expected, 128)}, got {got}"
    )


def _of(url: str) -> str:
    """A URL as shown in details: printable already, but perhaps long."""
    return url if len(url) <= 200 else url[:200] + "..."
