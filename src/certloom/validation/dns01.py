"""dns-01: a digest in a TXT record (RFC 8555 section 8.4). dns-account-01 differs in the name only."""

from __future__ import annotations

import base64
import hashlib
import hmac

from certloom.outbound.resolver import ResolutionError, Resolver
from certloom.validation.proof import Proof, ValidationFailed, ValidationRecord, excerpt

LABEL = "_acme-challenge"


class DNS01:
    """Checks dns-01 and dns-account-01 challenges."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def check(self, proof: Proof, name: str, seconds: float) -> tuple[ValidationRecord, ...]:
        """Look for the key authorization's digest among the TXT records of ``name``, within ``seconds``.

        Raises ``ValidationFailed``. Every failure is retryable: a record may be on its way still.
        """
        expected = base64.urlsafe_b64encode(hashlib.sha256(proof.key_authorization.encode()).digest())
        expected = expected.rstrip(b"=")
        try:
            values = await self._resolver.txt(name, timeout_seconds=seconds)
        except ResolutionError as error:
            raise ValidationFailed("dns", str(error), retryable=True) from error
        # All are compared: which of them matches is nobody's business.
        if sum([hmac.compare_digest(value, expected) for value in values]) == 0:
            got = excerpt(values[0]) + (f" and {len(values) - 1} other records" if len(values) > 1 else "")
            raise ValidationFailed(
                "incorrectResponse",
                f"TXT of {name}: expected {excerpt(expected)}, got {got}",
                retryable=True,
            )
        return (ValidationRecord(name),)


def validation_name(proof: Proof) -> str:
    """Where dns-01 looks: a wildcard is proved by its base name (RFC 8555 section 8.4)."""
    return f"{LABEL}.{proof.base_name}"
