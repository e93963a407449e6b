"""The one door to validation: picks the method, hands it its tools, bounds its time."""

from __future__ import annotations

import asyncio

from certloom.clock import Clock
from certloom.outbound.guard import AddressGuard
from certloom.outbound.resolver import Resolver
from certloom.settings.schema import Validation
from certloom.validation import dns01, dns_account01
from certloom.validation.caa import CAAChecker
from certloom.validation.dns01 import DNS01
from certloom.validation.dns_persist01 import DNSPersist01
from certloom.validation.http01 import HTTP01
from certloom.validation.proof import Proof, Validated, ValidationFailed
from certloom.validation.reach import Reach
from certloom.validation.tlsalpn01 import TLSALPN01

_RESOLVER_SHARE = 0.5
"""Share of the time that one DNS question may take."""


class Validator:
    """Checks challenges. Make one per process, inside or outside the event loop."""

    caa: CAAChecker

    def __init__(self, settings: Validation, clock: Clock) -> None:
        """Raises ``ValueError`` for an address range or a resolver that cannot be read."""
        self._clock = clock
        self._seconds = float(settings.timeout_seconds)
        self.guard = AddressGuard(settings.allow_addresses, settings.deny_addresses)
        self.resolver = Resolver(
            settings.resolvers, dnssec=settings.dnssec, timeout_seconds=self._seconds * _RESOLVER_SHARE
        )
        reach = Reach(self.resolver, self.guard)
        self._http01 = HTTP01(
            reach, port=settings.http_port, tls_port=settings.tls_alpn_port, redirects=settings.redirects
        )
        self._tlsalpn01 = TLSALPN01(reach, port=settings.tls_alpn_port)
        self._dns01 = DNS01(self.resolver)
        self._dns_persist01 = DNSPersist01(self.resolver)
        self.caa = CAAChecker(self.resolver)

    async def validate(self, proof: Proof, *, attempt: int = 0) -> Validated:
        """Check one challenge once, within ``timeout_seconds``. ``attempt`` counts from 0.

        Nothing is carried over from one attempt to the next, DNS answers least of all: the resolver holds
        none. Raises ``ValidationFailed``, and ``ValueError`` for a proof without what it compares with.
        """
        kind = proof.type
        if not (proof.key_authorization or proof.key_thumbprints):
            raise ValueError("a proof needs its key authorization")  # an empty body would match an empty one
        if kind == "http-01":
            return Validated(await self._http01.check(proof, self._deadline()))
        if kind == "tls-alpn-01":
            return Validated(await self._tlsalpn01.check(proof, self._deadline()))
        if proof.is_ip:  # RFC 8738 section 7
            raise ValidationFailed("malformed", f"{kind} cannot prove an IP address")
        if kind == "dns-01":
            name = dns01.validation_name(proof)
            return Validated(await self._dns01.check(proof, name, self._seconds))
        if kind == "dns-account-01":
            name = dns_account01.validation_name(proof)
            return Validated(await self._dns01.check(proof, name, self._seconds))
        if kind == "dns-persist-01":
            return await self._dns_persist01.check(proof, self._clock.now(), self._seconds)
        raise ValidationFailed("malformed", f"unknown challenge type {kind}")

    async def close(self) -> None:
        """Nothing is held between checks; here so that the owner need not know that."""

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._seconds
