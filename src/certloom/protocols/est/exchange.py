"""One EST request on its way to an answer."""

from __future__ import annotations

import msgspec

from certloom.audit import Origin
from certloom.policy.channels import ESTChannel
from certloom.policy.decisions import Requester
from certloom.protocols.est.authentication import Peer
from certloom.protocols.est.problems import Header


class Call(msgspec.Struct, frozen=True):
    """What somebody asks of one channel."""

    channel: ESTChannel
    operation: str
    body: bytes
    """DER."""
    peer: Peer
    folded: bool
    """Whether base64 is answered in lines: to HTTP/1.0, which the clients speak that read no other."""
    trace: str

    def origin(self, requester: Requester) -> Origin:
        """Who and where from, for events."""
        return Origin(f"{requester.kind}:{requester.id}", self.peer.address, self.trace)


class Answer(msgspec.Struct, frozen=True):
    """What is answered; ``routes`` adds what every answer has."""

    body: bytes
    type: bytes
    status: int = 200
    headers: tuple[Header, ...] = ()
