"""Credentials: what a requester proves itself with, one table and one life cycle for every protocol.

A secret is 128 random bits or more and is shown once, when it is made. What can be hashed is hashed; what a
MAC needs (ACME external account binding) is sealed under the data key.
"""

from __future__ import annotations

import hashlib
import secrets

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.pki.identifiers import Identifier
from certloom.policy.name_rules import check_pattern, matches
from certloom.secrets import DataKey
from certloom.store import credentials as statements
from certloom.store.base import Tx
from certloom.store.ids import new_id

EAB = "acme-eab"
API_TOKEN = "api-token"  # noqa: S105 - the name of a kind, not a secret
_MAC_KEY_BYTES = 32


class EABCredential(msgspec.Struct, frozen=True):
    """An ACME external account binding key (RFC 8555 section 7.3.4), fit for use now."""

    id: str
    mac_key: bytes
    names: tuple[str, ...]
    preauthorized: bool

    def __repr__(self) -> str:
        return f"EABCredential({self.id})"


class CredentialRefused(Exception):
    """The credential is spent, expired or revoked."""


def preauthorizes(names: tuple[str, ...], identifier: Identifier) -> bool:
    """Whether a pre-authorising credential with these name patterns vouches for the identifier.

    Without patterns it vouches for nothing: to trust a requester with every name takes an explicit ``**``.
    """
    return any(matches(pattern, identifier) for pattern in names)


class Credentials:
    """Makes, finds and spends credentials, inside the caller's unit."""

    def __init__(self, data_key: DataKey, clock: Clock) -> None:
        self._data_key = data_key
        self._clock = clock

    def create_eab(
        self,
        tx: Tx,
        *,
        channel: str,
        names: tuple[str, ...] = (),
        preauthorized: bool = False,
        uses: int | None = None,
        expires: int | None = None,
        id: str | None = None,
        origin: Origin,
    ) -> EABCredential:
        """Make an external account binding key for one ACME channel; each account it binds is one use.

        An operator may choose its ``id``. Raises ``PatternError`` when one of ``names`` is not a pattern,
        ``Conflict`` when the id is taken.
        """
        for pattern in names:
            check_pattern(pattern)
        id = id or new_id(self._clock.now_ms())
        mac_key = secrets.token_bytes(_MAC_KEY_BYTES)
        self._insert(
            tx,
            statements.StoredCredential(
                id=id,
                kind=EAB,
                protocol="acme",
                channel=channel,
                secret_hash=None,
                secret_sealed=self._data_key.seal(f"credential:{id}", mac_key),
                names=names,
                preauthorized=preauthorized,
                uses_left=uses,
                expires=expires,
                created=self._clock.now(),
            ),
            origin,
        )
        return EABCredential(id, mac_key, names, preauthorized)

    def create_token(self, tx: Tx, *, expires: int | None = None, origin: Origin) -> tuple[str, str]:
        """Make an API token; answers (id, token). Only the token's SHA-256 is kept."""
        id = new_id(self._clock.now_ms())
        token = "clt_" + secrets.token_urlsafe(32)
        self._insert(
            tx,
            statements.StoredCredential(
                id=id,
                kind=API_TOKEN,
                protocol=None,
                channel=None,
                secret_hash=hashlib.sha256(token.encode()).digest(),
                secret_sealed=None,
                names=(),
                preauthorized=False,
                uses_left=None,
                expires=expires,
                created=self._clock.now(),
            ),
            origin,
        )
        return id, token

    def _insert(self, tx: Tx, credential: statements.StoredCredential, origin: Origin) -> None:
        statements.insert(tx, credential)
        record(
            tx,
            self._clock.now_ms(),
            "credential.created",
            f"credential:{credential.id}",
            origin,
            {
                "kind": credential.kind,
                "channel": credential.channel,
                "names": credential.names,
                "preauthorized": credential.preauthorized,
                "uses": credential.uses_left,
                "expires": credential.expires,
            },
        )

    def eab(self, tx: Tx, id: str, channel: str) -> EABCredential | None:
        """The binding key of this id for this channel, or None where there is none that may be used now."""
        found = statements.get(tx, id)
        if (
            found is None
            or found.kind != EAB
            or found.channel != channel
            or found.secret_sealed is None
            or not self._usable(found)
        ):
            return None
        return EABCredential(
            id, self._data_key.open(f"credential:{id}", found.secret_sealed), found.names, found.preauthorized
        )

    def vouching(self, tx: Tx, id: str) -> tuple[str, ...]:
        """The name patterns that a credential pre-authorises now; none when it does not or no longer does.

        Binding an account spends a use, so a spent credential goes on vouching for the accounts it bound.
        """
        found = statements.get(tx, id)
        if found is None or not found.preauthorized or found.revoked is not None:
            return ()
        if found.expires is not None and found.expires <= self._clock.now():
            return ()
        return found.names

    def _usable(self, credential: statements.StoredCredential) -> bool:
        return (
            credential.revoked is None
            and (credential.expires is None or credential.expires > self._clock.now())
            and (credential.uses_left is None or credential.uses_left > 0)
        )

    def use(self, tx: Tx, id: str) -> None:
        """Spend one use. Raises ``CredentialRefused``; two uses of a last one cannot both succeed."""
        if not statements.use(tx, id, self._clock.now()):
            raise CredentialRefused(f"credential {id} is spent, expired or revoked")

    def revoke(self, tx: Tx, id: str, origin: Origin) -> bool:
        """Take a credential out of use; False when it was, or never existed."""
        if not statements.revoke(tx, id, self._clock.now()):
            return False
        record(tx, self._clock.now_ms(), "credential.revoked", f"credential:{id}", origin)
        return True
