"""Distinguished names (RFC 5280 section 4.1.2.4), as ordered attribute pairs."""

from __future__ import annotations

import msgspec


class Name(msgspec.Struct, frozen=True):
    """A distinguished name: RDNs of one attribute each, in encoding order, as (dotted OID, text)."""

    attributes: tuple[tuple[str, str], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.attributes)
