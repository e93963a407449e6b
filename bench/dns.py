"""A name server for load: every A query gets one address, everything else an empty answer.

``python -m bench.dns LISTEN-ADDRESS PORT ANSWER-ADDRESS``; a process of its own, whose time is nobody
else's, and which ends with the process that started it.
"""

from __future__ import annotations

import os
import socket
import sys

_A, _IN = 1, 1


def answer(query: bytes, address: bytes) -> bytes | None:
    """The answer to a query of one question (RFC 1035 section 4), or None to a datagram that is none."""
    if len(query) < 17 or query[2] & 0x80:
        return None
    at = 12
    while at < len(query) and query[at]:
        at += query[at] + 1
    at += 1
    if at + 4 > len(query):
        return None
    question = query[12 : at + 4]
    kind = int.from_bytes(query[at : at + 2], "big")
    # Recursion desired is echoed, recursion available, no error.
    flags = bytes((0x80 | (query[2] & 0x01), 0x80))
    if kind != _A:
        return query[:2] + flags + b"\0\1\0\0\0\0\0\0" + question
    record = b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4" + address
    return query[:2] + flags + b"\0\1\0\1\0\0\0\0" + question + record


def main() -> None:
    listen, port, address = sys.argv[1], int(sys.argv[2]), socket.inet_aton(sys.argv[3])
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        server.bind((listen, port))
        print("ready", flush=True)
        parent = os.getppid()
        server.settimeout(5)
        while os.getppid() == parent:
            try:
                query, peer = server.recvfrom(4096)
            except TimeoutError:
                continue
            said = answer(query, address)
            if said is not None:
                server.sendto(said, peer)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
