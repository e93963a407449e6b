"""The kinds of credentials: what each proves itself with, and what may be said of it."""

from __future__ import annotations

import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable

import msgspec

from certloom.identity.authentication import API_TOKEN, CLIENT_CERTIFICATE, TOKEN_PREFIX

EAB = "acme-eab"
EST_PASSWORD = "est-password"  # noqa: S105 - the name of a kind, not a secret
EST_TOKEN = "est-token"  # noqa: S105 - the name of a kind, not a secret
EST_KEY = "est-key"
CMC_SECRET = "cmc-secret"  # noqa: S105 - the name of a kind, not a secret
SCEP_CHALLENGE = "scep-challenge"
CMP_SECRET = "cmp-secret"  # noqa: S105 - the name of a kind, not a secret


class Kind(msgspec.Struct, frozen=True):
    """One kind of credential."""

    name: str
    protocol: str | None
    """None: it acts on the API, in the roles it was granted."""
    make: Callable[[], str] | None
    """A new secret, as its holder is shown it; None where a certificate is the proof."""
    sealed: bool = False
    """Whether the secret itself is needed to check a MAC, and so is sealed and not hashed."""
    needs_channel: bool = False

    @property
    def acts(self) -> bool:
        """Whether it acts on the API (and has grants) instead of enrolling by a protocol."""
        return self.protocol is None


def _base64url() -> str:
    """256 bits, as ACME clients want a binding key (RFC 8555 section 7.3.4)."""
    return urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()


def _token() -> str:
    return TOKEN_PREFIX + secrets.token_urlsafe(32)


def _password() -> str:
    """192 bits that HTTP Basic authentication and shells leave alone."""
    return secrets.token_urlsafe(24)


def _wrapping_key() -> str:
    """256 bits in hexadecimal, as tools take symmetric keys."""
    return secrets.token_hex(32)


def _challenge() -> str:
    """128 bits in 32 digits: routers take a challengePassword (RFC 8894 section 2.2) no longer."""
    return secrets.token_hex(16).upper()


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(EAB, "acme", _base64url, sealed=True, needs_channel=True),
        Kind(EST_PASSWORD, "est", _password),
        Kind(EST_TOKEN, "est", _password),
        Kind(EST_KEY, "est", _wrapping_key, sealed=True),
        Kind(CMC_SECRET, "est", _password, sealed=True),
        Kind(SCEP_CHALLENGE, "scep", _challenge),
        Kind(CMP_SECRET, "cmp", _password, sealed=True),
        Kind(API_TOKEN, None, _token),
        Kind(CLIENT_CERTIFICATE, None, None),
    )
}
"""Every kind there is, by name."""
