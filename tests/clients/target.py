"""What a client must be told of a server, whichever server it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EAB:
    """An external account binding credential (RFC 8555 section 7.3.4)."""

    kid: str
    hmac: str
    """base64url, without padding."""


@dataclass(frozen=True)
class Target:
    """One ACME directory."""

    directory: str
    tls_ca: Path
    """What the HTTPS certificate chains to."""
    roots: Path
    """What issued certificates chain to."""
    eab: EAB | None = None
