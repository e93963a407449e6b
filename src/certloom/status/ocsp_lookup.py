"""What is known of a certificate, and what OCSP says of that (RFC 6960 section 2.2).

=======================================  ====================================================================
the certificate                          the answer
=======================================  ====================================================================
is on record                             good, or revoked with time and reason (on hold: certificateHold)
has a serial that was burned             revoked: something may have been signed under it
has a serial that is reserved            as if it had not been issued: it has not been, yet
has a serial that a restore lost         unknown: it may have been issued, and nothing is known of it
was never issued                         unknown, or where the authority says so revoked as RFC 6960 section
                                         2.2 has it, unless a restore may have lost it
is another issuer's                      unknown; ``unauthorized`` where the whole request is about such
=======================================  ====================================================================
"""

from __future__ import annotations

from typing import NamedTuple

from certloom.pki import ocsp
from certloom.pki.ocsp import CertStatus
from certloom.status.ocsp_sources import Source
from certloom.store import ocsp as statements
from certloom.store import recovery
from certloom.store.base import Tx


class Found(NamedTuple):
    """What is known of one certificate."""

    status: CertStatus
    lasting: bool = False
    """Whether it stays so until somebody revokes, holds or releases it."""
    extended: bool = False
    """Whether it is ``revoked`` for not having been issued (RFC 6960 section 4.4.8)."""


GOOD = Found(ocsp.GOOD, True)
UNKNOWN = Found(ocsp.UNKNOWN)
_NON_ISSUED = Found(ocsp.NON_ISSUED, extended=True)


def look_up(tx: Tx, source: Source, serial: bytes) -> Found:
    """The status of the certificate with this serial number; point reads."""
    if serial:
        standing = statements.standing(tx, source.authority, serial)
        if standing is not None:
            if standing.generation == source.generation:
                if standing.revoked is None:
                    return GOOD
                return Found(CertStatus("revoked", standing.revoked, standing.reason or None), True)
        elif serial in source.cas:
            return GOOD
        else:
            reservation = statements.reservation(tx, source.authority, serial)
            if reservation is not None:
                state, reserved = reservation
                if state == "burned":
                    return Found(CertStatus("revoked", reserved), True)
                if state == "unknown":
                    return UNKNOWN
    if source.options.ocsp_non_issued == "revoked" and not any(
        until >= source.created for _, until in recovery.lost_spans(tx)
    ):
        return _NON_ISSUED
    return UNKNOWN
