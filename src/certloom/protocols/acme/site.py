"""The URLs of one channel, as one listener's clients see them.

Nothing that is stored holds a URL: a record is shown under the origin it is asked for at. What must be the
same for ever, such as an account's URL (RFC 8657 accounturi, dns-account-01), is the same as long as the
operator keeps the public origin and the channel's name.
"""

from __future__ import annotations

from functools import lru_cache


class Site:
    """Prefixes and whole URLs; ids are appended to the former."""

    __slots__ = (
        "account",
        "account_hash",
        "authorization",
        "certificate",
        "challenge",
        "directory",
        "finalize",
        "index_link",
        "key_change",
        "new_account",
        "new_authz",
        "new_nonce",
        "new_order",
        "order",
        "orders",
        "renewal_info",
        "revoke_cert",
    )

    def __init__(self, base_url: str, channel: str) -> None:
        root = f"{base_url}/acme/{channel}/"
        self.directory = root + "directory"
        self.new_nonce = root + "new-nonce"
        self.new_account = root + "new-account"
        self.new_order = root + "new-order"
        self.new_authz = root + "new-authz"
        self.revoke_cert = root + "revoke-cert"
        self.key_change = root + "key-change"
        self.renewal_info = root + "renewal-info"
        self.account = root + "account/"
        self.orders = root + "orders/"
        self.order = root + "order/"
        self.finalize = root + "finalize/"
        self.certificate = root + "cert/"
        self.authorization = root + "authz/"
        self.challenge = root + "chall/"
        self.account_hash = root + "account-hash/"
        self.index_link = (b"link", f'<{self.directory}>;rel="index"'.encode())


@lru_cache(256)
def site(base_url: str, channel: str) -> Site:
    """The site of a channel at an origin such as ``https://pki.example.com``."""
    return Site(base_url, channel)
