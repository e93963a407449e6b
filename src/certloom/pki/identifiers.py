"""What a certificate can name: DNS names, IP addresses, URIs and mailboxes.

An ``Identifier`` is always in canonical form (``parse_*`` makes it so): DNS names are lower-case
A-labels without a trailing dot, IP addresses are RFC 5952 text. Two identifiers that mean the
same are therefore equal and hash alike.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class IdentifierType(StrEnum):
    """Identifier types; the values are those of the ACME registry (RFC 8555 section 9.7.7) where it has one."""

    DNS = "dns"
    IP = "ip"
    URI = "uri"
    EMAIL = "email"


class Identifier(msgspec.Struct, frozen=True, order=True):
    """One name in canonical form. A wildcard DNS name keeps its ``*.``."""

    type: IdentifierType
    value: str

    @property
    def is_wildcard(self) -> bool:
        """Whether this is a DNS wildcard name (RFC 8555 section 7.1.3)."""
        return self.type is IdentifierType.DNS and self.value.startswith("*.")

    def __str__(self) -> str:
        return f"{self.type.value}:{self.value}"
