"""The one way to revoke, whichever door the wish comes through (ACME, later CMP, EST, REST, incidents).

The door has authenticated who asks; here are the rules on reasons, the record, the event, and the job that
brings the CRL up to date.
"""

from __future__ import annotations

from collections.abc import Callable

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.enrollment.errors import Refused, Unavailable
from certloom.jobs import enqueue
from certloom.policy.decisions import Reason
from certloom.store import certificates as statements
from certloom.store.base import Store, StoreError, Tx
from certloom.store.certificates import StoredCertificate

KEY_COMPROMISE = 1
CRL_JOB = "status.crl"

REQUESTER_REASONS = frozenset({0, 1, 3, 4, 5})
"""What a certificate's owner may give: unspecified, keyCompromise, affiliationChanged, superseded and
cessationOfOperation. The others are the CA's to give (RFC 5280 section 5.3.1)."""
OPERATOR_REASONS = REQUESTER_REASONS | {9}
"""An operator may also withdraw a privilege. cACompromise and aACompromise speak of other certificates than
these, removeFromCRL stands in delta CRLs only, and holds are not reversible here."""


class Revoker:
    """Revokes, inside one unit with whatever the protocol adds."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

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

        ``reason`` is a CRLReason of RFC 5280 section 5.3.1. Raises ``Refused`` (``bad-revocation-reason``,
        ``unknown-certificate``, ``already-revoked``) or ``Unavailable``.
        """
        if reason not in (OPERATOR_REASONS if by_operator else REQUESTER_REASONS):
            raise Refused(Reason("bad-revocation-reason", f"the reason code {reason} cannot be given here"))

        def unit(tx: Tx) -> StoredCertificate:
            found = statements.get(tx, certificate_id, lock=True)
            if found is None:
                raise Refused(Reason("unknown-certificate", "there is no such certificate"))
            now = self._clock.now()
            if not statements.set_revoked(tx, certificate_id, now, reason):
                raise Refused(Reason("already-revoked", "the certificate is already revoked"))
            if reason == KEY_COMPROMISE and statements.block_key(
                tx, found.spki_sha256, f"certificate {certificate_id} revoked for keyCompromise", now
            ):
                record(tx, self._clock.now_ms(), "key.blocked", f"key:{found.spki_sha256.hex()}", origin)
            record(
                tx,
                self._clock.now_ms(),
                "certificate.revoked",
                f"certificate:{certificate_id}",
                origin,
                {"authority": found.authority, "serial": found.serial.hex(), "reason": reason},
            )
            enqueue(
                tx,
                self._clock.now_ms(),
                CRL_JOB,
                {"authority": found.authority, "shard": found.crl_shard},
                key=f"{found.authority}/{found.crl_shard}",
            )
            revoked = statements.get(tx, certificate_id)
            assert revoked is not None
            if also is not None:
                also(tx, revoked)
            return revoked

        try:
            return await self._store.write(unit)
        except StoreError as error:
            raise Unavailable(Reason("store-unavailable", "the revocation could not be recorded")) from error
