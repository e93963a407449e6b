"""A TCP server on loopback whose every connection is handled by a function of the test, TLS if asked."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

Handler = Callable[[socket.socket], None]


class TCPServer:
    """``port`` to connect to; ``connections`` made so far."""

    def __init__(self, host: str) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listening = socket.socket(family, socket.SOCK_STREAM)
        self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listening.bind((host, 0))
        self._listening.listen(32)
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0

    def serve(self, handler: Handler, tls: ssl.SSLContext | None) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(5)
            threading.Thread(target=self._handle, args=(connection, handler, tls), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    @staticmethod
    def _handle(connection: socket.socket, handler: Handler, tls: ssl.SSLContext | None) -> None:
        with contextlib.suppress(OSError), connection:
            if tls is None:
                handler(connection)
            else:
                with tls.wrap_socket(connection, server_side=True) as wrapped:
                    handler(wrapped)


@contextlib.contextmanager
def serve_tcp(
    handler: Handler, *, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> Iterator[TCPServer]:
    """A running server on a free port."""
    server = TCPServer(host)
    threading.Thread(target=server.serve, args=(handler, tls), daemon=True).start()
    try:
        yield server
    finally:
        server.close()


def read_request(connection: socket.socket) -> str:
    """The head of one HTTP request."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = connection.recv(4096)
        if not chunk:
            break
        received += chunk
    return received.decode("latin-1")


def answering(*pieces: bytes) -> Handler:
    """A handler that reads one request and sends ``pieces``."""

    def handle(connection: socket.socket) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)

    return handle


def http_response(body: bytes = b"", status: str = "200 OK", *headers: str) -> bytes:
    """A whole response with a Content-Length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body
