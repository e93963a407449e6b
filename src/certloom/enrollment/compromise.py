"""Compromised keys: blocked for ever, and every certificate that has one revoked.

Whoever says so, and however they know, what follows is the same (``Report``): no door certifies the key
again, and all certificates with it are revoked for keyCompromise, the first of them in the transaction of the
report and the others by a durable job. A CA's certificates are not revoked along with others, because
everything beneath them would fall: that is asked for in so many words (cACompromise, RFC 5280 section 5.3.1).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from certloom.audit import Origin, record
from certloom.authorities.certifying import PROFILE as CA_PROFILE
from certloom.clock import Clock
from certloom.enrollment.revoke import COMPROMISE_JOB, KEY_COMPROMISE, Revoker, revoke_all_of
from certloom.jobs import Job, Runner
from certloom.pki.csr import CertificateRequest
from certloom.store import certificates as statements
from certloom.store.base import Tx

CA_COMPROMISE = 2
_AT_ONCE = 100
"""Certificates revoked in one unit: others that write wait for it."""
_RETRIES = (1, 5, 15, 60, 300, 3600)

PROOF = "proof of key compromise"
"""What the common name of a CSR begins with, in any case of letters, that says that its key is compromised.
No request for a certificate says so: a CSR that was sent for one must be of no use against its sender."""


class Report(msgspec.Struct, frozen=True):
    """What became of a report."""

    new: bool
    """Whether the key was not blocked before."""
    revoked: int
    """Certificates revoked in this transaction."""
    left: bool
    """Whether there are more, which a job revokes."""
    authorities: tuple[int, ...]
    """Ids of CA certificates with the key, which were left alone."""


def is_proof(csr: CertificateRequest) -> bool:
    """Whether a CSR, whose signature was verified, says that its key is compromised (``PROOF``)."""
    return csr.common_name is not None and csr.common_name.strip().lower().startswith(PROOF)


class Compromise:
    """Acts on reports of compromised keys."""

    def __init__(self, clock: Clock, revoker: Revoker, runner: Runner) -> None:
        self._clock = clock
        self._revoker = revoker
        runner.register(COMPROMISE_JOB, self._go_on, retries=_RETRIES)

    def report_in(
        self, tx: Tx, spki_sha256: bytes, why: str, origin: Origin, *, authorities: bool = False
    ) -> Report:
        """Block a key and revoke what has it, inside the caller's unit.

        ``authorities``: CA certificates too. A repeat changes nothing but what is new: certificates that were
        issued elsewhere and have come in since, or CA certificates that are now meant.
        """
        now = self._clock.now()
        new = statements.block_key(tx, spki_sha256, why, now)
        if new:
            record(
                tx,
                self._clock.now_ms(),
                "key.blocked",
                f"key:{spki_sha256.hex()}",
                origin,
                {"why": why, "compromised": True},
            )
        revoked, left, cas = self._revoke(tx, spki_sha256, origin, authorities=authorities)
        return Report(new, revoked, left, cas)

    async def _go_on(self, job: Job) -> Callable[[Tx], None]:
        key = bytes.fromhex(job.payload["spki_sha256"])
        origin = Origin(*job.payload["origin"])
        authorities = bool(job.payload.get("authorities"))

        def unit(tx: Tx) -> None:
            self._revoke(tx, key, origin, authorities=authorities)

        return unit

    def _revoke(
        self, tx: Tx, key: bytes, origin: Origin, *, authorities: bool
    ) -> tuple[int, bool, tuple[int, ...]]:
        now = self._clock.now()
        leaves = statements.to_revoke(tx, key, now, KEY_COMPROMISE, _AT_ONCE + 1, but=CA_PROFILE)
        for id in leaves[:_AT_ONCE]:
            self._revoker.revoke_in(tx, id, KEY_COMPROMISE, origin, alone=True)
        cas = statements.to_revoke(tx, key, now, CA_COMPROMISE, _AT_ONCE + 1, only=CA_PROFILE)
        if authorities:
            for id in cas[:_AT_ONCE]:
                self._revoker.revoke_in(tx, id, CA_COMPROMISE, origin)
        revoked = min(len(leaves), _AT_ONCE) + (min(len(cas), _AT_ONCE) if authorities else 0)
        left = len(leaves) > _AT_ONCE or (authorities and len(cas) > _AT_ONCE)
        if left:
            revoke_all_of(tx, self._clock.now_ms(), key, origin, authorities=authorities)
        return revoked, left, () if authorities else tuple(cas)
