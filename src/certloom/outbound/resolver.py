"""Asks recursive resolvers. Nothing is remembered: every call is a question sent, so no answer is ever stale.

Questions go over UDP, each from a socket of its own (the kernel picks an unpredictable port, RFC 5452 section
9.2), and over TCP when the answer was cut. A resolver that does not answer, or answers with an error, is
passed over for the next, and the one that answered last is asked first the next time.

The hosts file counts only when the system's resolvers are used: then names mean what they mean to every other
program on this host, which small installations rely on. Resolvers named in the settings are asked alone.
Every name is absolute; no search list is applied.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
from collections.abc import Sequence

from certloom.outbound import dns_message
from certloom.outbound.dns_message import (
    RCODE_FORMERR,
    RCODE_NAMES,
    RCODE_NOERROR,
    RCODE_NXDOMAIN,
    TYPE_A,
    TYPE_AAAA,
    TYPE_CAA,
    TYPE_NAMES,
    TYPE_TXT,
    Answer,
    CAARecord,
    InvalidName,
    MessageError,
)
from certloom.outbound.system_dns import Endpoint, SystemDNS, parse_resolver

ROUNDS = 2
"""How often each resolver is asked over before giving up."""


class ResolutionError(Exception):
    """No records. ``name`` and ``record_type`` say what was asked."""

    def __init__(self, name: str, record_type: str, message: str) -> None:
        super().__init__(message)
        self.name = name
        self.record_type = record_type


class NoSuchName(ResolutionError):
    """The name does not exist, with any type (NXDOMAIN)."""


class NoData(ResolutionError):
    """The name exists, or may, but has no record of this type."""


class ServerFailure(ResolutionError):
    """The resolvers answered with an error, not at all readably, or without the DNSSEC proof asked for."""


class ResolverTimeout(ResolutionError):
    """No resolver answered in time."""


class Resolver:
    """A stub resolver. Holds no sockets between calls."""

    def __init__(
        self,
        servers: Sequence[str] = (),
        *,
        dnssec: bool = False,
        timeout_seconds: float = 5.0,
        system: SystemDNS | None = None,
    ) -> None:
        """``servers`` as in the settings: ``address`` or ``address:port``, IPv6 with a port in brackets; none
        means the system's. With ``dnssec``, ``caa`` requires the AD bit. ``timeout_seconds`` bounds one call.

        Raises ``ValueError`` for a server that cannot be read.
        """
        self._servers = tuple(parse_resolver(text) for text in servers)
        self._system = system or SystemDNS()
        self._dnssec = dnssec
        self._timeout = timeout_seconds
        self._answered_last: Endpoint | None = None

    async def ipv4(self, name: str, *, timeout_seconds: float | None = None) -> tuple[str, ...]:
        """The A records of ``name``, at least one. Raises ``ResolutionError``, as all of these do."""
        return await self._addresses(name, TYPE_A, socket.AF_INET, timeout_seconds)

    async def ipv6(self, name: str, *, timeout_seconds: float | None = None) -> tuple[str, ...]:
        """The AAAA records of ``name``, at least one."""
        return await self._addresses(name, TYPE_AAAA, socket.AF_INET6, timeout_seconds)

    async def addresses(self, name: str, *, timeout_seconds: float | None = None) -> tuple[str, ...]:
        """All addresses of ``name``, IPv6 first, both asked at once. Fails only if there are none at all."""
        answers = await asyncio.gather(
            self.ipv6(name, timeout_seconds=timeout_seconds),
            self.ipv4(name, timeout_seconds=timeout_seconds),
            return_exceptions=True,
        )
        found: list[str] = []
        for answer in answers:
            if isinstance(answer, tuple):
                found.extend(answer)
            elif not isinstance(answer, ResolutionError):
                raise answer
        if not found:
            # A failure tells more than a name that merely has no address of the other family.
            failures = [answer for answer in answers if isinstance(answer, ResolutionError)]
            raise next((f for f in failures if not isinstance(f, NoData)), failures[-1])
        return tuple(found)

    async def txt(self, name: str, *, timeout_seconds: float | None = None) -> tuple[bytes, ...]:
        """The TXT records of ``name``, at least one, each with its strings joined."""
        answer = await self._ask(name, TYPE_TXT, timeout_seconds)
        try:
            return tuple([dns_message.parse_txt(rdata) for rdata in answer.rdatas])
        except MessageError as error:
            raise ServerFailure(name, "TXT", f"a TXT record of {name} is malformed: {error}") from None

    async def caa(self, name: str, *, timeout_seconds: float | None = None) -> tuple[CAARecord, ...]:
        """The CAA records of ``name``, at least one. A malformed one fails the call: it might forbid."""
        answer = await self._ask(name, TYPE_CAA, timeout_seconds)
        try:
            return tuple([dns_message.parse_caa(rdata) for rdata in answer.rdatas])
        except MessageError as error:
            raise ServerFailure(name, "CAA", f"a CAA record of {name} is malformed: {error}") from None

    async def _addresses(
        self, name: str, record_type: int, family: socket.AddressFamily, timeout_seconds: float | None
    ) -> tuple[str, ...]:
        if not self._servers:
            listed = self._system.hosts(name)
            if listed:
                version = 4 if family == socket.AF_INET else 6
                matching = tuple([a for a in listed if ipaddress.ip_address(a).version == version])
                if not matching:
                    raise NoData(
                        name, TYPE_NAMES[record_type], f"the hosts file has no IPv{version} for {name}"
                    )
                return matching
        answer = await self._ask(name, record_type, timeout_seconds)
        try:
            return tuple([socket.inet_ntop(family, rdata) for rdata in answer.rdatas])
        except ValueError:
            kind = TYPE_NAMES[record_type]
            raise ServerFailure(name, kind, f"an {kind} record of {name} is malformed") from None

    async def _ask(self, name: str, record_type: int, timeout_seconds: float | None) -> Answer:
        """A NOERROR answer with at least one record."""
        timeout = self._timeout if timeout_seconds is None else min(self._timeout, timeout_seconds)
        answer, problem = await self._first_answer(name, record_type, timeout)
        kind = TYPE_NAMES[record_type]
        asked = f"looking up {kind} of {name}"
        if answer is None:
            if problem:
                raise ServerFailure(name, kind, f"{asked}: {problem}")
            raise ResolverTimeout(name, kind, f"{asked}: no answer within {timeout:.0f} s")
        if answer.rcode not in (RCODE_NOERROR, RCODE_NXDOMAIN):
            rcode = RCODE_NAMES.get(answer.rcode, f"RCODE {answer.rcode}")
            why = "".join(c if " " <= c <= "~" else "?" for c in answer.explanation[:100])
            raise ServerFailure(
                name, kind, f"{asked}: the resolver said {rcode}" + (f" ({why})" if why else "")
            )
        # That there is nothing needs proof as well: a forged "no CAA" would be a permission.
        if self._dnssec and record_type == TYPE_CAA and not answer.authentic:
            raise ServerFailure(name, kind, f"{asked}: the answer is not secured by DNSSEC")
        if answer.rcode == RCODE_NXDOMAIN:
            raise NoSuchName(name, kind, f"{asked}: no such name (NXDOMAIN)")
        if not answer.rdatas:
            raise NoData(name, kind, f"{asked}: the name has no {kind} record")
        return answer

    async def _first_answer(self, name: str, record_type: int, seconds: float) -> tuple[Answer | None, str]:
        """The first answer that is none of the resolver's own troubles; failing that, the last answer of any
        kind (or None) and what else went wrong (or an empty string)."""
        servers = self._in_order()
        now = asyncio.get_running_loop().time
        deadline = now() + seconds
        share = seconds / (ROUNDS * len(servers))
        answer: Answer | None = None
        problem = ""
        for attempt in range(ROUNDS * len(servers)):
            server = servers[attempt % len(servers)]
            until = min(now() + share, deadline)
            try:
                answer = await self._exchange(server, name, record_type, until)
            except InvalidName as error:
                kind = TYPE_NAMES[record_type]
                raise NoSuchName(name, kind, f"looking up {kind} of {name}: {error}") from None
            except MessageError as error:
                problem = f"the answer is malformed: {error}"
            except TimeoutError:
                pass
            except OSError as error:
                problem = f"a resolver cannot be reached: {error.strerror or error}"
            else:
                if answer.rcode in (RCODE_NOERROR, RCODE_NXDOMAIN):
                    self._answered_last = server
                    break
        return answer, problem

    def _in_order(self) -> tuple[Endpoint, ...]:
        servers = self._servers or self._system.resolvers()
        first = self._answered_last
        if first is None or first == servers[0] or first not in servers:
            return servers
        return (first, *(server for server in servers if server != first))

    async def _exchange(self, server: Endpoint, name: str, record_type: int, until: float) -> Answer:
        """One resolver's answer by ``until`` (loop time): over TCP if it does not fit a datagram, without
        EDNS if the resolver does not know that. Raises ``MessageError``, ``TimeoutError``, ``OSError``."""
        for edns in (True, False):
            query = dns_message.encode_query(
                os.urandom(2), name, record_type, edns=edns, dnssec=edns and self._dnssec
            )
            answer = await _over_udp(server, query, until)
            if answer.truncated:
                async with asyncio.timeout_at(until):
                    answer = await _over_tcp(server, query)
            if answer.rcode != RCODE_FORMERR:
                break
        return answer


async def _over_udp(server: Endpoint, query: bytes, until: float) -> Answer:
    """The first datagram from ``server`` that answers ``query``; others are ignored."""
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[Answer] = loop.create_future()
    udp = socket.socket(
        socket.AF_INET6 if ":" in server[0] else socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    )
    # A connected socket takes datagrams from this server only, and reports its port unreachable as an error.
    try:
        udp.connect(server)
        udp.send(query)
    except OSError:
        udp.close()
        raise

    def readable() -> None:
        if answered.done():
            return
        try:
            answer = dns_message.parse_answer(query, udp.recv(65535))
        except BlockingIOError:
            return
        except (OSError, MessageError) as error:
            answered.set_exception(error)
        else:
            if answer is not None:
                answered.set_result(answer)

    def expire() -> None:
        if not answered.done():
            answered.set_exception(TimeoutError())

    timer = loop.call_at(until, expire)
    loop.add_reader(udp, readable)
    try:
        return await answered
    finally:
        timer.cancel()
        loop.remove_reader(udp)
        udp.close()


async def _over_tcp(server: Endpoint, query: bytes) -> Answer:
    """The answer over TCP (RFC 7766). Raises ``MessageError``, ``OSError``."""
    reader, writer = await asyncio.open_connection(*server)
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        try:
            length = int.from_bytes(await reader.readexactly(2), "big")
            message = await reader.readexactly(length)
        except asyncio.IncompleteReadError:
            raise MessageError("the TCP connection ended early") from None
        answer = dns_message.parse_answer(query, message)
        if answer is None or answer.truncated:
            raise MessageError("the TCP answer is no answer to the question")
        return answer
    finally:
        writer.transport.abort()
