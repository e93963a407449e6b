"""A small DNS server on loopback, UDP and TCP, that says and does what a test tells it.

It behaves as a recursive resolver would: a CNAME is followed within its own records.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = dict[tuple[str, str], list[str]]
"""(name, type) to record data in zone file text: ``{("a.example", "A"): ["127.0.0.1"]}``."""
Behaviour = Literal["servfail", "nxdomain", "refused", "silent", "garbage", "formerr"]


class DNSServer:
    """Everything but ``asked`` may be changed at any time, from the test's thread."""

    def __init__(self, records: Mapping[tuple[str, str], list[str]] | None = None) -> None:
        self.records: Records = dict(records or {})
        self.behaviour: dict[str, Behaviour] = {}
        """By name: how to fail; ``*`` stands for every name."""
        self.truncate = False
        """Whether answers over UDP carry nothing but the TC bit."""
        self.authentic = False
        """Whether answers carry the AD bit."""
        self.knows_edns = True
        self.extended_error: tuple[int, str] | None = None
        """Code and text that come with every failure (RFC 8914)."""
        self.on_query: Callable[[str, str], None] = lambda name, kind: None
        """Called with name and type before each answer is made: to change answers between queries."""
        self.asked: list[tuple[str, str, str]] = []
        """Name, type and transport of every question, in order."""
        self.port = 0

    @property
    def address(self) -> str:
        """As settings want it."""
        return f"127.0.0.1:{self.port}"

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        """The response to a query's bytes; None for silence."""
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True).lower()
        kind = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind, transport))
        self.on_query(name, kind)
        behaviour = self.behaviour.get(name) or self.behaviour.get("*")
        if behaviour == "silent":
            return None
        if behaviour == "garbage":
            return wire[:2] + b"\x81\x80" + wire[4:6] + b"\x00\x05" + wire[8:] + b"\xff\xff\xff"
        response = dns.message.make_response(query, recursion_available=True)
        if query.edns >= 0 and not self.knows_edns:
            behaviour = "formerr"
        if behaviour:
            response.set_rcode(dns.rcode.from_text(behaviour))
            if self.extended_error:
                code, text = self.extended_error
                response.use_edns(options=[dns.edns.EDEOption(dns.edns.EDECode.make(code), text)])
            return response.to_wire()
        if self.authentic:
            response.flags |= dns.flags.AD
        self._fill(response, name, kind)
        wired: bytes
        try:
            if self.truncate and transport == "udp":
                raise dns.exception.TooBig
            wired = response.to_wire(max_size=65535 if transport == "tcp" else max(query.payload, 512))
        except dns.exception.TooBig:
            response.answer.clear()
            response.flags |= dns.flags.TC
            wired = response.to_wire()
        return wired

    def _fill(self, response: dns.message.Message, name: str, kind: str) -> None:
        for _ in range(8):
            target = self.records.get((name, "CNAME"))
            if not target or kind == "CNAME":
                break
            response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", f"{target[0]}."))
            name = target[0]
        data = self.records.get((name, kind))
        if data:
            response.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", kind, *data))
        elif not any(held == name or held.endswith("." + name) for held, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)


@contextlib.contextmanager
def serve_dns(records: Mapping[tuple[str, str], list[str]] | None = None) -> Iterator[DNSServer]:
    """A running server; UDP and TCP on the same free port of 127.0.0.1."""
    server = DNSServer(records)
    udp, tcp = _sockets()
    server.port = udp.getsockname()[1]

    def over_udp() -> None:
        while True:
            wire, client = udp.recvfrom(4096)
            if not wire:
                return
            answer = server.answer(wire, "udp")
            if answer is not None:
                udp.sendto(answer, client)

    def over_tcp() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = tcp.accept()
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

    def talk(connection: socket.socket) -> None:
        connection.settimeout(5)
        with contextlib.suppress(OSError), connection, connection.makefile("rwb") as stream:
            wire = stream.read(int.from_bytes(stream.read(2), "big"))
            answer = server.answer(wire, "tcp") if wire else None
            if answer is not None:
                stream.write(len(answer).to_bytes(2, "big") + answer)

    threads = [threading.Thread(target=target, daemon=True) for target in (over_udp, over_tcp)]
    for thread in threads:
        thread.start()
    try:
        yield server
    finally:
        udp.sendto(b"", udp.getsockname())
        tcp.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()
        udp.close()
        tcp.close()


def _sockets() -> tuple[socket.socket, socket.socket]:
    for _ in range(20):
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        try:
            return udp, socket.create_server(udp.getsockname())
        except OSError:  # the port is another's over TCP
            udp.close()
    raise OSError("no port is free over both UDP and TCP")
