"""The general HTTP client: webhooks, identity providers, other CAs.

Guarded like every connection made on somebody's word: the name is resolved by our resolver, each address is
judged, and the address a socket is made for is judged once more at that moment. Redirects are never followed;
whoever configures a URL names where it really leads. Nothing is kept from one request to the next.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult

from certloom import __version__
from certloom.outbound.guard import AddressDenied, AddressGuard
from certloom.outbound.resolver import ResolutionError, Resolver

BODY_LIMIT = 1_048_576
"""Bytes of body read unless told otherwise."""


class HTTPAnswer(msgspec.Struct, frozen=True):
    """Status, headers (names in lower case, the last of each) and body."""

    status: int
    headers: dict[str, str]
    body: bytes


class HTTPFailed(Exception):
    """No answer: not allowed, not reached, not in time, or too long. The message is fit for an operator."""


class HTTPClient:
    """One per process, made inside the event loop; ``close`` when done."""

    def __init__(self, resolver: Resolver, guard: AddressGuard, *, tls: ssl.SSLContext | None = None) -> None:
        """``tls`` replaces the system's trust anchors."""

        def guarded_socket(info: aiohttp.AddrInfoType) -> socket.socket:
            family, kind, protocol, _, address = info
            guard.check(str(address[0]))
            made = socket.socket(family, kind, protocol)
            made.setblocking(False)
            return made

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                resolver=_GuardedResolver(resolver, guard),
                socket_factory=guarded_socket,
                use_dns_cache=False,
                force_close=True,
                ssl=tls or True,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"User-Agent": f"Certloom/{__version__}", "Accept-Encoding": "identity"},
        )

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        seconds: float = 30.0,
        body_limit: int = BODY_LIMIT,
    ) -> HTTPAnswer:
        """One request to an http or https URL, answered within ``seconds`` by at most ``body_limit`` bytes.

        Raises ``HTTPFailed``. Any status is an answer.
        """
        try:
            async with self._session.request(
                method,
                url,
                headers=headers,
                data=body,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=seconds),
            ) as response:
                received = b""
                async for chunk in response.content.iter_chunked(65_536):
                    received += chunk
                    if len(received) > body_limit:
                        raise HTTPFailed(f"{url}: the body is longer than {body_limit} bytes")
                return HTTPAnswer(
                    response.status, {k.lower(): v for k, v in response.headers.items()}, received
                )
        except AddressDenied as denied:
            raise HTTPFailed(f"{url}: {denied}") from denied
        except TimeoutError:
            raise HTTPFailed(f"{url}: no answer within {seconds:.0f} s") from None
        except (aiohttp.ClientError, ValueError, OSError) as error:
            raise HTTPFailed(f"{url}: {error}") from error

    async def close(self) -> None:
        """Close what is open."""
        await self._session.close()


class _GuardedResolver(AbstractResolver):
    """Our resolver in aiohttp's terms; addresses that must not be contacted are left out."""

    def __init__(self, resolver: Resolver, guard: AddressGuard) -> None:
        self._resolver = resolver
        self._guard = guard

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        try:
            addresses = await self._resolver.addresses(host.lower())
        except ResolutionError as error:
            raise OSError(None, str(error)) from error
        permitted = [address for address in addresses if self._guard.permits(address)]
        if not permitted:
            self._guard.check(addresses[0])
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
            for address in permitted
        ]

    async def close(self) -> None:
        """Nothing is held."""
