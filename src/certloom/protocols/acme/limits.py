"""Rate limits of a channel (RFC 8555 section 6.6), counted in the records themselves.

Each asks one index for the n-th newest record: exact, the same on every node, not forgotten at a restart, and
no counter to keep.
"""

from __future__ import annotations

import ipaddress

from certloom.policy.channels import ACMEChannel, RateLimit
from certloom.protocols.acme.problems import Problem
from certloom.store import acme as statements
from certloom.store.base import Tx


def limited(detail: str, retry_after: int) -> Problem:
    return Problem("rateLimited", detail, retry_after=max(1, retry_after))


def address_group(address: str) -> str:
    """What one requester controls: an IPv4 address, or the /64 of an IPv6 one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(parsed) >> 64 << 64, 64)))


def _check(limit: RateLimit, nth: int | None, now: int, what: str) -> None:
    if nth is not None and nth + limit.seconds > now:
        raise limited(f"at most {limit.count} {what} in {limit.seconds} seconds", nth + limit.seconds - now)


def check_new_account(tx: Tx, channel: ACMEChannel, group: str, now: int) -> None:
    """Raises ``rateLimited``."""
    if (limit := channel.accounts_per_address) is not None:
        nth = statements.account_made_before(tx, channel.name, group, limit.count)
        _check(limit, nth, now, "new accounts from one address")


def check_failures(tx: Tx, channel: ACMEChannel, account_id: str, now: int) -> None:
    """Raises ``rateLimited``."""
    if (limit := channel.failed_validations_per_account) is not None:
        nth = statements.authorization_failed_before(tx, account_id, limit.count)
        _check(limit, nth, now, "failed authorizations of one account")


def check_new_order(tx: Tx, channel: ACMEChannel, account_id: str, most_open: int, now: int) -> None:
    """Raises ``rateLimited``."""
    if statements.open_orders(tx, account_id, now, most_open) >= most_open:
        raise limited(f"the account has {most_open} unfinished orders; finish some or let them expire", 3600)
    if (limit := channel.orders_per_account) is not None:
        nth = statements.order_made_before(tx, account_id, limit.count)
        _check(limit, nth, now, "orders of one account")
    check_failures(tx, channel, account_id, now)
