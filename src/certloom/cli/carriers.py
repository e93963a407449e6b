"""How a request gets to the API: a Unix socket, HTTPS, or a call within this process.

A carrier sends one request at a time and answers with a ``Reply``; its body is read before the next is sent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

_CONNECT_SECONDS = 10.0
_CHUNK = 65_536


class Unreachable(Exception):
    """Nobody answered. ``sent`` is whether the request may have arrived, and so may have been acted upon."""

    def __init__(self, message: str, *, sent: bool = False) -> None:
        super().__init__(message)
        self.sent = sent


@dataclass(frozen=True)
class Reply:
    """An answer, its body not read yet. Reading it raises ``Unreachable`` when the other side breaks off."""

    status: int
    headers: Mapping[str, str]
    """By name in lower case."""
    chunks: Iterator[bytes]

    def read(self) -> bytes:
        return b"".join(self.chunks)

    def lines(self) -> Iterator[bytes]:
        """The body's lines as they come, without their ends."""
        rest = b""
        for chunk in self.chunks:
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest


class Carrier(Protocol):
    """One way to the API."""

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Reply:
        """Send one request. ``seconds`` is how long the other side may be silent. Raises ``Unreachable``."""
        ...

    def close(self) -> None:
        """Give back what is held."""
        ...


class HTTPCarrier:
    """HTTP/1.1 over a connection that is kept while it lasts."""

    def __init__(self, name: str, connect: Callable[[], HTTPConnection]) -> None:
        self._name = name
        self._make = connect
        self._connection: HTTPConnection | None = None

    def send(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, seconds: float
    ) -> Reply:
        from http.client import HTTPException

        connection = self._connected()
        if connection.sock is not None:
            connection.sock.settimeout(seconds)
        try:
            connection.request(method, target, body or None, dict(headers))
            response = connection.getresponse()
        except (OSError, HTTPException) as error:
            self.close()
            raise self._broke_off(error) from error
        lowered = {name.lower(): value for name, value in response.getheaders()}
        return Reply(response.status, lowered, self._chunks(response))

    def _connected(self) -> HTTPConnection:
        if self._connection is not None and self._connection.sock is not None:
            return self._connection
        self._connection = self._make()
        try:
            self._connection.connect()
        except OSError as error:
            self._connection = None
            raise Unreachable(f"cannot reach {self._name}: {_why(error)}") from error
        return self._connection

    def _chunks(self, response: HTTPResponse) -> Iterator[bytes]:
        from http.client import HTTPException

        whole = False
        try:
            while chunk := response.read1(_CHUNK):
                yield chunk
            if response.length:
                raise ConnectionError("the answer is not whole")
            # The last read1 leaves it open, and then the connection takes no further request.
            response.close()
            whole = True
        except (OSError, HTTPException) as error:
            raise self._broke_off(error) from error
        finally:
            if not whole:
                # What is left of this answer must not be taken for the next one.
                self.close()

    def _broke_off(self, error: Exception) -> Unreachable:
        return Unreachable(f"{self._name} broke off: {_why(error)}", sent=True)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _why(error: Exception) -> str:
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({error.verify_message}); name its root with --ca-file"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def over_unix(path: Path) -> HTTPCarrier | None:
    """The running server's admin socket, or None where nobody listens. Raises ``Unreachable``."""
    from http.client import HTTPConnection

    from certloom.unix_sockets import connect_unix

    class Connection(HTTPConnection):
        def connect(self) -> None:
            self.sock = connect_unix(path)

    name = f"the server through {path}"
    try:
        connect_unix(path).close()
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise Unreachable(f"cannot reach {name}: {_why(error)}") from error
    return HTTPCarrier(name, lambda: Connection("localhost"))


class BadServer(ValueError):
    """A server's address, root, client certificate or token file is of no use."""


def over_https(url: str, ca_file: Path | None, cert: Path | None, key: Path | None) -> HTTPCarrier:
    """A server elsewhere. Raises ``BadServer``."""
    import ssl
    from http.client import HTTPSConnection

    parts = urlsplit(url)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme != "https" or not host or parts.path.strip("/") or parts.query or parts.username:
        raise BadServer(f"{url}: expected https://HOST or https://HOST:PORT")
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else os.fspath(ca_file))
    except (OSError, ssl.SSLError) as error:
        raise BadServer(f"{ca_file}: {_why(error)}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            raise BadServer(f"{cert}: {_why(error)}") from None

    def connect() -> HTTPConnection:
        return HTTPSConnection(host, port, timeout=_CONNECT_SECONDS, context=context)

    return HTTPCarrier(url, connect)
