"""Answers that were signed ahead, by the request that asks for one certificate and nothing else.

Bounded by octets; what was asked for longest ago goes first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from certloom.pki.ocsp import CertID, CertStatus
from certloom.status.ocsp_sources import Source

MOST_OCTETS = 64 << 20
"""What all answers together may take, about."""
_OVERHEAD = 1500
"""Octets of an entry beside the answer's own, about."""


class Answer:
    """An OCSP response, with what HTTP says of it. Times are Unix seconds."""

    __slots__ = ("body", "headers", "label", "max_age", "next_update", "this_update")

    def __init__(
        self, body: bytes, label: str, this_update: int = 0, next_update: int = 0, max_age: int = 0
    ) -> None:
        self.body = body
        """DER of the OCSPResponse."""
        self.label = label
        """``good``, ``revoked``, ``unknown``, ``several``, or the status of a response without signature."""
        self.this_update = this_update
        self.next_update = next_update
        self.max_age = max_age
        """For how many seconds others may keep it; 0: not at all."""
        self.headers: Any = None
        """For who sends it over HTTP, to keep what it makes of the rest."""


class Entry:
    """One answer that is kept."""

    __slots__ = ("answer", "asked", "cert_id", "checked", "renew_from", "source", "status", "until")

    def __init__(
        self, answer: Answer, source: Source, cert_id: CertID, status: CertStatus, checked: int
    ) -> None:
        self.answer = answer
        self.source = source
        self.cert_id = cert_id
        self.status = status
        self.checked = checked
        """The count of changes up to which the status is known to be right."""
        self.asked = False
        """Whether anybody asked for it since it was signed."""
        life = answer.next_update - answer.this_update
        self.renew_from = answer.this_update + life * 2 // 5
        """When a new one is signed, if this one was asked for."""
        self.until = answer.this_update + life // 2
        """When it is no longer given out while another can be signed."""


class Cache:
    """Entries by the DER of the request."""

    def __init__(self, most_octets: int = MOST_OCTETS) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._most = most_octets
        self.octets = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, request: bytes) -> Entry | None:
        entry = self._entries.get(request)
        if entry is not None:
            self._entries.move_to_end(request)
        return entry

    def put(self, request: bytes, entry: Entry) -> None:
        self.pop(request)
        self._entries[request] = entry
        self.octets += len(entry.answer.body) + _OVERHEAD
        while self.octets > self._most:
            _, gone = self._entries.popitem(last=False)
            self.octets -= len(gone.answer.body) + _OVERHEAD

    def pop(self, request: bytes) -> None:
        entry = self._entries.pop(request, None)
        if entry is not None:
            self.octets -= len(entry.answer.body) + _OVERHEAD

    def items(self) -> Iterator[tuple[bytes, Entry]]:
        """All, as they are at this moment."""
        return iter(list(self._entries.items()))

    def drop(self, sources: set[tuple[str, int]]) -> None:
        """Forget the answers for these generations."""
        for request, entry in self.items():
            if (entry.source.authority, entry.source.generation) in sources:
                self.pop(request)
