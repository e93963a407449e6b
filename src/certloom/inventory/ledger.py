"""Recording certificates, and what becomes of them. Every function runs inside the caller's unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from certloom.audit import Origin, record
from certloom.authorities.base import Issued
from certloom.clock import Clock
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import facts_of
from certloom.policy.decisions import CertificateContents
from certloom.store import authorities as authority_statements
from certloom.store import certificates as statements
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate


class NotReserved(Exception):
    """A certificate's serial is not (any more) reserved, so the certificate must never be shown to anyone."""


def enter_issued(
    tx: Tx,
    clock: Clock,
    issued: Issued,
    contents: CertificateContents,
    spki_sha256: bytes,
    *,
    requester: str,
    request_id: str,
    replaces: int | None,
    origin: Origin,
    owner: str | None = None,
    team: str | None = None,
    notes: Mapping[str, object] | None = None,
    channel: str = "",
) -> int:
    """Record a certificate an authority has just made, link it to its predecessor, and answer its id.

    ``owner`` and ``team`` are whose it is: the requester's. ``notes`` are for the event.

    Raises ``NotReserved`` when its serial's reservation is gone (another node has burned it).
    """
    if issued.reserved and not authority_statements.consume_serial(tx, issued.authority, issued.serial):
        raise NotReserved(f"serial {issued.serial.hex()} of {issued.authority} is not reserved")
    id = statements.insert(
        tx,
        StoredCertificate(
            id=0,
            authority=issued.authority,
            serial=issued.serial,
            der=issued.der,
            spki_sha256=spki_sha256,
            not_before=contents.not_before,
            not_after=contents.not_after,
            profile=contents.profile,
            profile_version=contents.profile_version,
            requester=requester,
            request_id=request_id,
            crl_shard=issued.crl_shard,
            issued=clock.now(),
            key_type=facts_of(contents.spki).key_type,
            owner=owner,
            team=team,
            channel=channel,
            generation=issued.generation,
        ),
        contents.identifiers,
    )
    succeeds = replaces is not None and statements.set_replaced_by(tx, replaces, id)
    record(
        tx,
        clock.now_ms(),
        "certificate.issued",
        f"certificate:{id}",
        origin,
        {
            "authority": issued.authority,
            "serial": issued.serial.hex(),
            "names": _texts(contents.identifiers),
            "not_after": contents.not_after,
            "profile": contents.profile,
            "profile_version": contents.profile_version,
            "protocol": channel.partition("/")[0],
            "request": request_id,
            "requester": requester,
            **({"owner": owner} if owner is not None else {}),
            **({"team": team} if team is not None else {}),
            **({"replaces": replaces} if succeeds else {}),
            **(notes or {}),
        },
    )
    return id


def _texts(identifiers: Sequence[Identifier]) -> list[str]:
    return [str(identifier) for identifier in identifiers]


def mark_for_replacement(tx: Tx, clock: Clock, certificate_id: int, why: str, origin: Origin) -> bool:
    """Ask for a certificate's replacement: its renewal window moves to now. False when it does not exist."""
    if not statements.set_replace(tx, certificate_id, clock.now(), why):
        return False
    record(
        tx,
        clock.now_ms(),
        "certificate.replacement_asked",
        f"certificate:{certificate_id}",
        origin,
        {"why": why},
    )
    return True


def unmark_for_replacement(tx: Tx, clock: Clock, certificate_id: int, origin: Origin) -> bool:
    """Take the mark away again. False when the certificate does not exist."""
    if not statements.set_replace(tx, certificate_id, None, None):
        return False
    record(tx, clock.now_ms(), "certificate.replacement_withdrawn", f"certificate:{certificate_id}", origin)
    return True
