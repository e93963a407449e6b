"""From a host to a connection: resolve, judge each address, try one after the other.

A is asked first, and AAAA only if A gives no address that can be connected to. RFC 8555 leaves the order
open; any address in the domain's own DNS proves as much as any other. Asking both every time would double
the DNS cost of nearly every validation, only to prefer IPv6 for hosts that have both. What matters to the
requester holds all the same: a host with IPv6 only validates, and so does one whose IPv4 does not answer.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import msgspec

from certloom.outbound.fetch import NotConnected
from certloom.outbound.guard import AddressDenied, AddressGuard
from certloom.outbound.resolver import NoData, ResolutionError, Resolver
from certloom.validation.proof import ValidationFailed

ADDRESS_LIMIT = 6
"""Addresses tried of each family."""

Got = TypeVar("Got")


class Reached(msgspec.Struct, Generic[Got], frozen=True):
    """What talking to a host gave, and where it was."""

    got: Got
    address: str
    resolved: tuple[str, ...]


class Reach:
    """Knows how to get at hosts, and at which not to."""

    def __init__(self, resolver: Resolver, guard: AddressGuard) -> None:
        self._resolver = resolver
        self._guard = guard

    async def connect(
        self, host: str, port: int, deadline: float, talk: Callable[[str, float], Awaitable[Got]]
    ) -> Reached[Got]:
        """Call ``talk(address, connect_by)`` for one permitted address of ``host`` (a name or an IP literal)
        after the other, until it does not raise ``NotConnected``. Times are event loop times.

        Raises ``ValidationFailed`` (dns or connection), and whatever else ``talk`` raises.
        """
        now = asyncio.get_running_loop().time
        troubles: list[str] = []
        passing = False
        resolved: tuple[str, ...] = ()
        families = (_itself,) if is_address(host) else (self._resolver.ipv4, self._resolver.ipv6)
        for family in families:
            try:
                addresses = await family(host, timeout_seconds=max(deadline - now(), 0.0))
            except NoData:
                continue
            except ResolutionError as error:
                if resolved:
                    break  # what became of the addresses of the other family is the better explanation
                raise ValidationFailed("dns", str(error), retryable=True) from error
            resolved += addresses
            for address in addresses[:ADDRESS_LIMIT]:
                try:
                    self._guard.check(address)
                    # Half of what is left, so that an address that swallows packets leaves time for others.
                    got = await talk(address, (now() + deadline) / 2)
                except AddressDenied as denied:
                    troubles.append(str(denied))
                except NotConnected as failure:
                    passing = True
                    troubles.append(f"{address} port {port}: {failure}")
                else:
                    return Reached(got, address, resolved)
        if not resolved:
            raise ValidationFailed("dns", f"{host} has no A and no AAAA record", retryable=True)
        raise ValidationFailed("connection", f"connecting to {host}: " + "; ".join(troubles), passing)


def is_address(host: str) -> bool:
    """Whether ``host`` is an IP literal."""
    if ":" not in host and not host.replace(".", "").isdigit():
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _itself(host: str, *, timeout_seconds: float | None = None) -> tuple[str, ...]:
    return (host,)
