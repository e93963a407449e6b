"""TLS that ends at a trusted proxy: whose word on the client's certificate and address counts (RFC 9440).

Theory of operation. Only who connects from an address that the settings name is believed, and then entirely:
the client is the one it names (X-Forwarded-For), the client's certificate the one it passes on (Client-Cert),
or none. A certificate that the proxy itself showed, and the channel binding of its own TLS session, are not
the client's and are dropped. From anybody else the same headers are dropped before an application sees them.
That the client has the certificate's key is what the proxy vouches for; whether the certificate counts is
asked here as if TLS had brought it, so a proxy may pass on any, expired ones too.
"""

from __future__ import annotations

import binascii
import ipaddress
from base64 import b64decode
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from certloom.server.connections import ASGIApp, Receive, Scope, Send
from certloom.settings.schema import Proxy

CHAIN_HEADER = b"client-cert-chain"
FORWARDED_FOR = b"x-forwarded-for"
_MOST_IN_CHAIN = 8
_PEM_BEGIN, _PEM_END = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class HeaderError(ValueError):
    """A trusted proxy's header cannot be read."""


class TrustedProxies:
    """The ASGI application in front of others."""

    def __init__(self, app: ASGIApp, settings: Proxy) -> None:
        self._app = app
        self._header = settings.certificate_header.lower().encode()
        self._ours = frozenset({self._header, CHAIN_HEADER})
        networks = tuple(ipaddress.ip_network(text) for text in settings.trusted)
        self._trusts = lru_cache(maxsize=4096)(lambda address: _is_within(address, networks))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        client = scope.get("client")
        if client is None or not self._trusts(client[0]):
            scope["headers"] = [pair for pair in headers if pair[0] not in self._ours]
            await self._app(scope, receive, send)
            return
        for name in ("certloom.peer_certificate", "certloom.peer_chain", "certloom.tls_unique"):
            scope.pop(name, None)
        try:
            self._believe(scope, headers)
        except HeaderError as error:
            await _refuse(send, str(error))
            return
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope, headers: Sequence[tuple[bytes, bytes]]) -> None:
        found = [value for name, value in headers if name == self._header]
        if len(found) > 1:
            raise HeaderError(f"the header {self._header.decode()} is there twice")
        if found and found[0]:
            scope["certloom.peer_certificate"] = read_certificate(found[0])
            chains = [value for name, value in headers if name == CHAIN_HEADER]
            scope["certloom.peer_chain"] = read_chain(b",".join(chains)) if chains else ()
        forwarded = b",".join([value for name, value in headers if name == FORWARDED_FOR])
        if forwarded and (address := self._client(forwarded)) is not None:
            scope["client"] = (address, 0)
        scope["headers"] = [pair for pair in headers if pair[0] not in self._ours]

    def _client(self, forwarded: bytes) -> str | None:
        """The last address that no trusted proxy has: what stands before it anybody may have written."""
        for text in reversed(forwarded.decode("latin-1").split(",")):
            try:
                address = str(ipaddress.ip_address(text.strip().strip("[]")))
            except ValueError:
                return None
            if not self._trusts(address):
                return address
        return None


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed.version == network.version and parsed in network for network in networks)


def read_certificate(value: bytes) -> bytes:
    """DER of a certificate in a header: an RFC 8941 byte sequence (``:base64:``), percent-escaped PEM as
    nginx writes it (``$ssl_client_escaped_cert``), or bare base64. Raises ``HeaderError``; whether it is a
    certificate is for its reader to say."""
    value = value.strip()
    if value.startswith(b":"):
        return _byte_sequence(value)
    if value[:1] in (b"-", b"%"):
        pem = unquote_to_bytes(value).strip()
        if not (pem.startswith(_PEM_BEGIN) and pem.endswith(_PEM_END)) or pem.count(_PEM_BEGIN) != 1:
            raise HeaderError("the client certificate's header is not one certificate in escaped PEM")
        return _base64(b"".join(pem.removeprefix(_PEM_BEGIN).removesuffix(_PEM_END).split()))
    return _base64(value)


def read_chain(value: bytes) -> tuple[bytes, ...]:
    """DER of the certificates in a Client-Cert-Chain header (RFC 9440 section 2.3). Raises
    ``HeaderError``."""
    items = [item.strip() for item in value.split(b",") if item.strip()]
    if len(items) > _MOST_IN_CHAIN:
        raise HeaderError(f"more than {_MOST_IN_CHAIN} certificates in {CHAIN_HEADER.decode()}")
    return tuple(_byte_sequence(item) for item in items)


def _byte_sequence(item: bytes) -> bytes:
    """RFC 8941 section 3.3.5, without parameters."""
    if len(item) < 3 or not (item.startswith(b":") and item.endswith(b":")):
        raise HeaderError("the client certificate's header is not a byte sequence (RFC 9440 section 2.1)")
    return _base64(item[1:-1])


def _base64(text: bytes) -> bytes:
    try:
        decoded = b64decode(text, validate=True)
    except binascii.Error:
        raise HeaderError("the client certificate's header is not base64") from None
    if not decoded:
        raise HeaderError("the client certificate's header is empty")
    return decoded


async def _refuse(send: Send, detail: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 400, "headers": headers})
    await send({"type": "http.response.body", "body": detail.encode() + b"\n"})
