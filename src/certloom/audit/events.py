"""Writing events."""

from __future__ import annotations

from typing import Any

import msgspec

from certloom.store.base import Tx

_encode = msgspec.json.Encoder(order="sorted").encode


class Origin(msgspec.Struct, frozen=True):
    """Where a change came from."""

    actor: str
    """Who: ``acme-account:ID``, ``person:NAME``, ``admin-socket``, ``system`` ..."""
    address: str = ""
    """The peer's IP address, or empty for the product itself."""
    trace: str = ""
    """The request id the client was also told."""


SYSTEM = Origin("system")


def record(
    tx: Tx, at_ms: int, kind: str, subject: str, origin: Origin, data: dict[str, Any] | None = None
) -> None:
    """Append one event in the transaction of the change it tells of.

    ``kind`` is ``thing.change`` (``certificate.issued``), ``subject`` is ``thing:ID``, ``data`` is JSON-able
    and never holds a secret.
    """
    tx.run(
        "INSERT INTO events (at_ms, kind, subject, actor, origin, trace, data) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (at_ms, kind, subject, origin.actor, origin.address, origin.trace, _encode(data or {}).decode()),
    )
