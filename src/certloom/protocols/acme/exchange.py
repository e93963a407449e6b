"""One ACME request on its way to an answer."""

from __future__ import annotations

from certloom.audit import Origin
from certloom.policy.channels import ACMEChannel
from certloom.protocols.acme.site import Site

Header = tuple[bytes, bytes]

JSON = b"application/json"


class Exchange:
    """A request to one channel. ``url`` is what the JWS's ``url`` must be, character by character."""

    __slots__ = ("address", "body", "channel", "query", "site", "trace", "url")

    def __init__(
        self,
        *,
        url: str,
        query: str,
        site: Site,
        channel: ACMEChannel,
        body: bytes,
        address: str,
        trace: str,
    ) -> None:
        self.url = url
        self.query = query
        self.site = site
        self.channel = channel
        self.body = body
        self.address = address
        self.trace = trace

    def origin(self, account_id: str) -> Origin:
        """Who and where from, for events."""
        return Origin(f"acme-account:{account_id}", self.address, self.trace)


class Answer:
    """What a handler says; ``routes`` adds what every answer has."""

    __slots__ = ("body", "headers", "index", "status", "type")

    def __init__(
        self, body: bytes, *headers: Header, status: int = 200, type: bytes = JSON, index: bool = True
    ) -> None:
        self.body = body
        self.index = index
        self.status = status
        self.type = type
        self.headers = headers


def location(url: str) -> Header:
    return (b"location", url.encode())


def up(url: str) -> Header:
    return (b"link", f'<{url}>;rel="up"'.encode())


def retry_after(seconds: int) -> Header:
    """Whole seconds; the date form is legal, but shell clients and some libraries read integers only."""
    return (b"retry-after", b"%d" % seconds)
