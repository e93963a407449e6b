"""The one way to revoke, whichever door the wish comes through (ACME, later CMP, EST, REST, incidents).

The door has authenticated who asks; here are the rules on reasons, the record, the event, and the job that
brings the CRL up to date.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from certloom.audit import Origin, record
from certloom.authorities.certifying import PROFILE as CA_PROFILE
from certloom.clock import Clock
from certloom.enrollment.errors import Refused, Unavailable
from certloom.jobs import enqueue
from certloom.policy.decisions import Reason
from certloom.store import certificates as statements
from certloom.store import crls
from certloom.store.base import Store, StoreError, Tx
from certloom.store.certificates import StoredCertificate

KEY_COMPROMISE = 1
CRL_JOB = "status.crl"
COMPROMISE_JOB = "key.compromised"

REQUESTER_REASONS = frozenset({0, 1, 3, 4, 5})
"""What a certificate's owner may give: unspecified, keyCompromise, affiliationChanged, superseded and
cessationOfOperation. The others are the CA's to give (RFC 5280 section 5.3.1)."""
OPERATOR_REASONS = REQUESTER_REASONS | {9}
"""An operator may also withdraw a privilege. cACompromise and aACompromise speak of other certificates than
these, removeFromCRL stands in delta CRLs only, and a hold is not a reason but an act of its own."""
CA_REASONS = OPERATOR_REASONS | {2}
"""What an operator may say of a CA's certificate: there cACompromise is in its place. aACompromise is about
attribute authorities, of which there are none here."""


def _at_once(authority: str) -> int:
    return 0


class Revoker:
    """Revokes, inside one unit with whatever the protocol adds."""

    def __init__(self, store: Store, clock: Clock, publish_seconds: Callable[[str], int] = _at_once) -> None:
        """``publish_seconds``: how long, by authority, a CRL may wait for further revocations."""
        self._store = store
        self._clock = clock
        self._publish_seconds = publish_seconds

    async def revoke(
        self,
        certificate_id: int,
        reason: int,
        origin: Origin,
        *,
        by_operator: bool = False,
        also: Callable[[Tx, StoredCertificate], None] | None = None,
    ) -> StoredCertificate:
        """Revoke one certificate; answers it as it then is. A compromised key is blocked for ever.

        ``reason`` is a CRLReason of RFC 5280 section 5.3.1. A certificate on hold is revoked as of when the
        hold began: it was not good since. That a key was compromised may also be found out later, and is said
        of a certificate that was revoked for another reason. Raises ``Refused`` (``bad-revocation-reason``,
        ``unknown-certificate``, ``already-revoked``) or ``Unavailable``.
        """
        if reason not in (OPERATOR_REASONS if by_operator else REQUESTER_REASONS):
            raise Refused(Reason("bad-revocation-reason", f"the reason code {reason} cannot be given here"))

        def unit(tx: Tx) -> StoredCertificate:
            return self.revoke_in(tx, certificate_id, reason, origin, also=also)

        return await self._write(unit)

    def revoke_in(
        self,
        tx: Tx,
        certificate_id: int,
        reason: int,
        origin: Origin,
        *,
        also: Callable[[Tx, StoredCertificate], None] | None = None,
        alone: bool = False,
    ) -> StoredCertificate:
        """The same inside the caller's unit, which has seen to it that the reason may be given.

        Others with the same compromised key are revoked soon after it, unless it is revoked ``alone``.
        """
        found = _locked(tx, certificate_id)
        now = self._clock.now()
        was = found.revocation_reason
        changed = statements.set_revoked(tx, certificate_id, now, reason)
        if not changed and was is not None and (was == statements.HOLD or reason == KEY_COMPROMISE != was):
            changed = statements.set_reason(tx, certificate_id, was, reason, now)
        if not changed:
            raise Refused(Reason("already-revoked", "the certificate is already revoked"))
        if reason == KEY_COMPROMISE and statements.block_key(
            tx, found.spki_sha256, f"certificate {certificate_id} revoked for keyCompromise", now
        ):
            record(tx, self._clock.now_ms(), "key.blocked", f"key:{found.spki_sha256.hex()}", origin)
        others = (found.spki_sha256, now, KEY_COMPROMISE, 1)
        if reason == KEY_COMPROMISE and not alone and statements.to_revoke(tx, *others, but=CA_PROFILE):
            revoke_all_of(tx, self._clock.now_ms(), found.spki_sha256, origin)
        return self._changed(tx, found, "certificate.revoked", origin, {"reason": reason}, also)

    async def hold(self, certificate_id: int, origin: Origin) -> StoredCertificate:
        """Revoke one certificate until it is released or revoked for good (certificateHold).

        Raises ``Refused`` (``unknown-certificate``, ``already-revoked``) or ``Unavailable``.
        """
        return await self._write(lambda tx: self.hold_in(tx, certificate_id, origin))

    def hold_in(self, tx: Tx, certificate_id: int, origin: Origin) -> StoredCertificate:
        """The same inside the caller's unit."""
        found = _locked(tx, certificate_id)
        if not statements.set_revoked(tx, certificate_id, self._clock.now(), statements.HOLD):
            raise Refused(Reason("already-revoked", "the certificate is already revoked or on hold"))
        return self._changed(tx, found, "certificate.held", origin)

    async def release(self, certificate_id: int, origin: Origin) -> StoredCertificate:
        """End a hold: the certificate leaves the CRL, and nothing tells that it was ever on it.

        Raises ``Refused`` (``unknown-certificate``, ``not-held``) or ``Unavailable``.
        """
        return await self._write(lambda tx: self.release_in(tx, certificate_id, origin))

    def release_in(self, tx: Tx, certificate_id: int, origin: Origin) -> StoredCertificate:
        """The same inside the caller's unit."""
        found = _locked(tx, certificate_id)
        now = self._clock.now()
        if not statements.set_released(tx, certificate_id, now):
            raise Refused(Reason("not-held", "the certificate is not on hold"))
        crls.note_removed(tx, found.authority, found.generation, found.crl_shard, found.serial, now)
        return self._changed(tx, found, "certificate.released", origin)

    def _changed(
        self,
        tx: Tx,
        was: StoredCertificate,
        kind: str,
        origin: Origin,
        data: dict[str, Any] | None = None,
        also: Callable[[Tx, StoredCertificate], None] | None = None,
    ) -> StoredCertificate:
        """The event, and the job that brings the CRL up to date."""
        now = statements.get(tx, was.id)
        assert now is not None
        if now.revoked is not None and was.revoked is None:
            crls.forget_removed(tx, was.authority, was.generation, was.crl_shard, was.serial)
        record(
            tx,
            self._clock.now_ms(),
            kind,
            f"certificate:{was.id}",
            origin,
            {
                "authority": was.authority,
                "serial": was.serial.hex(),
                "profile": was.profile,
                "protocol": was.channel.partition("/")[0],
                **(data or {}),
                "before": _revocation(was),
                "after": _revocation(now),
            },
        )
        enqueue(
            tx,
            self._clock.now_ms(),
            CRL_JOB,
            {"authority": was.authority, "generation": was.generation, "shard": was.crl_shard},
            due_ms=self._clock.now_ms() + 1000 * self._publish_seconds(was.authority),
            key=f"{was.authority}/{was.generation}/{was.crl_shard}",
        )
        if also is not None:
            also(tx, now)
        return now

    async def _write(self, unit: Callable[[Tx], StoredCertificate]) -> StoredCertificate:
        try:
            return await self._store.write(unit)
        except StoreError as error:
            raise Unavailable(Reason("store-unavailable", "the revocation could not be recorded")) from error


def revoke_all_of(tx: Tx, now_ms: int, key: bytes, origin: Origin, *, authorities: bool = False) -> None:
    """Have everything revoked, by a job of ``Compromise``, that has a key (SHA-256 of its SPKI)."""
    payload = {
        "spki_sha256": key.hex(),
        "origin": [origin.actor, origin.address, origin.trace],
        "authorities": authorities,
    }
    enqueue(tx, now_ms, COMPROMISE_JOB, payload, key=f"{key.hex()}{'/authorities' if authorities else ''}")


def _locked(tx: Tx, certificate_id: int) -> StoredCertificate:
    found = statements.get(tx, certificate_id, lock=True)
    if found is None:
        raise Refused(Reason("unknown-certificate", "there is no such certificate"))
    return found


def _revocation(certificate: StoredCertificate) -> dict[str, int | None]:
    return {"revoked": certificate.revoked, "reason": certificate.revocation_reason}
