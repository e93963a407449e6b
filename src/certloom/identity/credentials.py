"""Credentials: what a requester proves itself with, one table and one life cycle for every protocol.

A secret is 128 random bits or more and is shown once, when it is made or rotated. What can be hashed is
hashed (SHA-256: there is nothing to guess); what a MAC needs (ACME external account binding, CMP) is sealed
under the data key. A protocol asks in one of three ways: ``present_secret`` for what is sent as it is,
``mac_keys`` for what only signs, and then ``spend`` in the transaction of what it was presented for.
"""

from __future__ import annotations

import hashlib
import re
from base64 import urlsafe_b64decode

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.identity.authentication import API_TOKEN, CLIENT_CERTIFICATE, SERVICE
from certloom.identity.grants import decode_grants, encode_grants
from certloom.identity.kinds import EAB, EST_KEY, KINDS, Kind
from certloom.identity.principals import Grant, Scope
from certloom.pki.identifiers import Identifier
from certloom.policy.name_rules import check_pattern, matches
from certloom.secrets import DataKey
from certloom.store import credentials as statements
from certloom.store.base import Tx
from certloom.store.credentials import StoredCredential
from certloom.store.ids import new_id

_MOST_PRESENTED = 256
_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class EABCredential(msgspec.Struct, frozen=True):
    """An ACME external account binding key (RFC 8555 section 7.3.4), fit for use now."""

    id: str
    mac_key: bytes
    names: tuple[str, ...]
    preauthorized: bool
    previous_key: bytes | None = None
    """The key before a rotation, while it is still good."""

    def __repr__(self) -> str:
        return f"EABCredential({self.id})"


class PresentedCredential(msgspec.Struct, frozen=True):
    """A credential that somebody has shown to hold, fit for use now."""

    id: str
    kind: str
    channel: str | None
    names: tuple[str, ...]
    """Name patterns it may be used for; none means the profile alone decides."""
    profiles: tuple[str, ...]
    """Profiles it may be used for; none means those of the channel."""
    preauthorized: bool
    owner: str | None
    team: str | None
    spent: bool = False
    """Whether no use of it is left: then it is good for asking again what was asked with the last one."""


class CredentialRefused(Exception):
    """The credential is spent, expired or revoked."""


class CredentialError(ValueError):
    """The credential cannot be so; the message says where and why."""


class StaleCredential(Exception):
    """It was changed or revoked in the meantime."""


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """All of a credential that may be changed while it lives."""

    label: str = ""
    names: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    preauthorized: bool = False
    uses: int | None = None
    """How often it may still be used; None is as often as one likes."""
    expires: int | None = None
    """Unix seconds."""
    team: str | None = None
    grants: tuple[Grant, ...] = ()


class Made(msgspec.Struct, frozen=True):
    """A credential with the secret that is shown this once (None for client certificates)."""

    credential: StoredCredential
    secret: str | None

    def __repr__(self) -> str:
        return f"Made({self.credential.id})"


def preauthorizes(names: tuple[str, ...], identifier: Identifier) -> bool:
    """Whether a pre-authorising credential with these name patterns vouches for the identifier.

    Without patterns it vouches for nothing: to trust a requester with every name takes an explicit ``**``.
    """
    return any(matches(pattern, identifier) for pattern in names)


class Credentials:
    """Makes, finds, spends, rotates and revokes credentials, inside the caller's unit."""

    def __init__(self, data_key: DataKey, clock: Clock) -> None:
        self._data_key = data_key
        self._clock = clock

    # -- made ------------------------------------------------------------------------------------------

    def create(
        self,
        tx: Tx,
        kind: str,
        terms: Terms,
        *,
        channel: str | None = None,
        owner: str | None = None,
        id: str | None = None,
        spki_sha256: bytes | None = None,
        subject: tuple[str, str] | None = None,
        origin: Origin,
    ) -> Made:
        """Make a credential. ``owner`` is a person's id or ``service:NAME``; who may make which is the
        caller's to have checked (``delegation``, ``issuing``).

        A client certificate's is told by its key's SHA-256 or by (profile, ``type:name``). Raises
        ``CredentialError`` or ``PatternError``, ``Conflict`` when the id is taken.
        """
        what = KINDS[kind]
        check_terms(what, terms, self._clock.now())
        if id is not None and not _ID.fullmatch(id):
            raise CredentialError("id: letters, digits and . _ - between them, at most 64")
        if what.needs_channel and channel is None:
            raise CredentialError(f"channel: {what.name} is for one channel")
        if what.acts and channel is not None:
            raise CredentialError(f"channel: {what.name} is for the API, not for a channel")
        if (what.name == CLIENT_CERTIFICATE) != ((spki_sha256 is None) != (subject is None)):
            raise CredentialError("a client certificate, and nothing else, is told by its key or by its name")
        id = id or new_id(self._clock.now_ms())
        secret = what.make() if what.make is not None else None
        hashed, sealed = self._kept(what, id, secret)
        credential = StoredCredential(
            id=id,
            kind=kind,
            protocol=what.protocol,
            channel=channel,
            secret_hash=hashed,
            secret_sealed=sealed,
            names=terms.names,
            preauthorized=terms.preauthorized,
            uses_left=terms.uses,
            expires=terms.expires,
            created=self._clock.now(),
            label=terms.label,
            owner=owner,
            team=terms.team,
            profiles=terms.profiles,
            grants=encode_grants(terms.grants),
            created_by=origin.actor,
            spki_sha256=spki_sha256,
            subject_profile=subject[0] if subject else None,
            subject_name=subject[1] if subject else None,
        )
        statements.insert(tx, credential)
        self._record(tx, "credential.created", credential, origin, None)
        return Made(credential, secret)

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
        owner: str | None = None,
        team: str | None = None,
        origin: Origin,
    ) -> EABCredential:
        """Make an external account binding key for one ACME channel; each account it binds is one use.

        An operator may choose its ``id``. Raises ``PatternError`` when one of ``names`` is not a pattern,
        ``Conflict`` when the id is taken.
        """
        terms = Terms(names=names, preauthorized=preauthorized, uses=uses, expires=expires, team=team)
        made = self.create(tx, EAB, terms, channel=channel, owner=owner, id=id, origin=origin)
        assert made.secret is not None
        return EABCredential(made.credential.id, mac_key(EAB, made.secret), names, preauthorized)

    def create_token(
        self,
        tx: Tx,
        *,
        expires: int | None = None,
        grants: tuple[Grant, ...] = (),
        owner: str | None = None,
        team: str | None = None,
        label: str = "",
        origin: Origin,
    ) -> tuple[str, str]:
        """Make an API token that acts with these grants; answers (id, token). Only its SHA-256 is kept."""
        terms = Terms(label=label, expires=expires, grants=grants, team=team)
        made = self.create(tx, API_TOKEN, terms, owner=owner, origin=origin)
        assert made.secret is not None
        return made.credential.id, made.secret

    def _kept(self, kind: Kind, id: str, secret: str | None) -> tuple[bytes | None, bytes | None]:
        """What is stored of a secret: its hash, or it itself under the data key."""
        if secret is None:
            return None, None
        if kind.sealed:
            return None, self._data_key.seal(_purpose(id), mac_key(kind.name, secret))
        return hashlib.sha256(secret.encode()).digest(), None

    # -- presented -------------------------------------------------------------------------------------

    def present_secret(
        self, tx: Tx, kind: str, channel: str, secret: str, *, id: str | None = None, spent: bool = False
    ) -> PresentedCredential | None:
        """The credential of this kind whose secret this is, if it may be used on this channel now.

        ``id``, where a protocol also sends a name (HTTP Basic), must be the credential's. Nothing is spent.
        With ``spent`` also one without uses left, and the answer says so.
        """
        if not secret or len(secret) > _MOST_PRESENTED:
            return None
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        found = statements.by_secret_hash(tx, digest)
        if found is None:
            found = statements.by_previous_hash(tx, digest, self._clock.now())
        if found is None or (id is not None and found.id != id):
            return None
        return self._presentable(found, kind, channel, spent=spent)

    def mac_keys(
        self, tx: Tx, kind: str, channel: str, id: str, *, spent: bool = False
    ) -> tuple[PresentedCredential, tuple[bytes, ...]] | None:
        """A credential of this kind by its id (EAB key id, CMP reference value), if it may be used on this
        channel now, and the keys a MAC may be made with: its own, and one before a rotation while it is good.

        The caller has yet to verify the MAC before it believes anything. Nothing is spent. With ``spent``
        also one without uses left, as in ``present_secret``.
        """
        found = statements.get(tx, id)
        if found is None or found.secret_sealed is None:
            return None
        presented = self._presentable(found, kind, channel, spent=spent)
        return None if presented is None else (presented, self._open(found))

    def _open(self, found: StoredCredential) -> tuple[bytes, ...]:
        sealed = [found.secret_sealed]
        if found.previous_until is not None and found.previous_until > self._clock.now():
            sealed.append(found.previous_sealed)
        return tuple(self._data_key.open(_purpose(found.id), s) for s in sealed if s is not None)

    def _presentable(
        self, found: StoredCredential, kind: str, channel: str, *, spent: bool = False
    ) -> PresentedCredential | None:
        is_spent = found.uses_left is not None and found.uses_left <= 0
        if found.kind != kind or found.channel not in (None, channel) or not self._in_force(found):
            return None
        if is_spent and not spent:
            return None
        return PresentedCredential(
            found.id,
            found.kind,
            found.channel,
            found.names,
            found.profiles,
            found.preauthorized,
            found.owner,
            found.team,
            is_spent,
        )

    def eab(self, tx: Tx, id: str, channel: str) -> EABCredential | None:
        """The binding key of this id for this channel, or None where there is none that may be used now."""
        found = self.mac_keys(tx, EAB, channel, id)
        if found is None:
            return None
        credential, keys = found
        previous = keys[1] if len(keys) > 1 else None
        return EABCredential(id, keys[0], credential.names, credential.preauthorized, previous)

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

    def _in_force(self, credential: StoredCredential) -> bool:
        return credential.revoked is None and (
            credential.expires is None or credential.expires > self._clock.now()
        )

    def spend(self, tx: Tx, id: str) -> None:
        """Spend one use, in the transaction of what it was presented for.

        Raises ``CredentialRefused``; two uses of a last one cannot both succeed.
        """
        if not statements.use(tx, id, self._clock.now()):
            raise CredentialRefused(f"credential {id} is spent, expired or revoked")

    use = spend

    # -- changed ---------------------------------------------------------------------------------------

    def change(self, tx: Tx, was: StoredCredential, terms: Terms, origin: Origin) -> StoredCredential:
        """Give a credential other terms. Raises as ``create`` does, or ``StaleCredential``."""
        check_terms(KINDS[was.kind], terms, self._clock.now())
        changed = msgspec.structs.replace(
            was,
            label=terms.label,
            names=terms.names,
            profiles=terms.profiles,
            preauthorized=terms.preauthorized,
            uses_left=terms.uses,
            expires=terms.expires,
            team=terms.team,
            grants=encode_grants(terms.grants),
        )
        if not statements.change(tx, changed):
            raise StaleCredential("the credential was changed or revoked in the meantime")
        changed = msgspec.structs.replace(changed, revision=was.revision + 1)
        self._record(tx, "credential.changed", changed, origin, was)
        return changed

    def rotate(self, tx: Tx, was: StoredCredential, overlap: int, origin: Origin) -> Made:
        """Give a credential a new secret; the old one stays good for ``overlap`` seconds, one before that
        does not. Raises ``CredentialError`` or ``StaleCredential``."""
        kind = KINDS[was.kind]
        if kind.make is None:
            raise CredentialError("a client certificate has no secret to rotate: renew the certificate")
        now = self._clock.now()
        secret = kind.make()
        hashed, sealed = self._kept(kind, was.id, secret)
        keep = overlap > 0
        rotated = msgspec.structs.replace(
            was,
            secret_hash=hashed,
            secret_sealed=sealed,
            previous_hash=was.secret_hash if keep else None,
            previous_sealed=was.secret_sealed if keep else None,
            previous_until=now + overlap if keep else None,
            rotated=now,
        )
        if not statements.rotate(tx, rotated):
            raise StaleCredential("the credential was changed or revoked in the meantime")
        record(
            tx,
            self._clock.now_ms(),
            "credential.rotated",
            f"credential:{was.id}",
            origin,
            {"before": {"rotated": was.rotated}, "after": {"rotated": now}, "old_good_seconds": overlap},
        )
        return Made(msgspec.structs.replace(rotated, revision=was.revision + 1), secret)

    def revoke(self, tx: Tx, id: str, origin: Origin) -> bool:
        """Take a credential out of use; False when it was, or never existed."""
        if not statements.revoke(tx, id, self._clock.now()):
            return False
        record(
            tx,
            self._clock.now_ms(),
            "credential.revoked",
            f"credential:{id}",
            origin,
            {"before": {"revoked": None}, "after": {"revoked": self._clock.now()}},
        )
        return True

    def _record(
        self, tx: Tx, kind: str, now: StoredCredential, origin: Origin, was: StoredCredential | None
    ) -> None:
        record(
            tx,
            self._clock.now_ms(),
            kind,
            f"credential:{now.id}",
            origin,
            {"before": None if was is None else _described(was), "after": _described(now)},
        )


def _described(c: StoredCredential) -> dict[str, object]:
    """A credential as events tell of it: never its secret, nor a hash of it."""
    told: dict[str, object] = {
        "kind": c.kind,
        "channel": c.channel,
        "label": c.label,
        "owner": c.owner,
        "team": c.team,
        "names": c.names,
        "profiles": c.profiles,
        "preauthorized": c.preauthorized,
        "uses": c.uses_left,
        "expires": c.expires,
        "grants": decode_grants(c.grants),
    }
    if c.kind == CLIENT_CERTIFICATE:
        told["spki_sha256"] = c.spki_sha256.hex() if c.spki_sha256 is not None else None
        told["subject"] = [c.subject_profile, c.subject_name] if c.subject_name is not None else None
    return told


def check_terms(kind: Kind, terms: Terms, now: int) -> None:
    """Raises ``CredentialError`` or ``PatternError`` for terms that this kind cannot have."""
    if len(terms.label) > 200 or not terms.label.isprintable():
        raise CredentialError("label: at most 200 characters on one line")
    for pattern in terms.names:
        check_pattern(pattern)
    if terms.preauthorized and not terms.names:
        raise CredentialError("names: a credential that pre-authorizes must say for which names")
    if terms.preauthorized and kind.name != EAB:
        raise CredentialError(f"preauthorized: only {EAB} vouches for names")
    if terms.expires is not None and terms.expires <= now:
        raise CredentialError("expires: that is over")
    if kind.acts:
        if terms.names or terms.profiles or terms.uses is not None:
            raise CredentialError(
                f"names, profiles, uses: what {kind.name} may do, its grants and their scopes say"
            )
    elif terms.grants:
        raise CredentialError(f"grants: {kind.name} enrols by a protocol and acts in no role")


def scope_of(
    kind: Kind, channel: str | None, names: tuple[str, ...], profiles: tuple[str, ...], team: str | None
) -> Scope:
    """Where a credential reaches, for comparing with what somebody may give."""
    return Scope(
        teams=(team or "",),
        profiles=profiles,
        channels=() if channel is None else (f"{kind.protocol}/{channel}",),
        names=names,
    )


def mac_key(kind: str, secret: str) -> bytes:
    """The key that a secret as shown stands for: an EAB key is shown in base64url, one that wraps others in
    hexadecimal, and the rest as they are."""
    if kind == EAB:
        return urlsafe_b64decode(secret + "=" * (-len(secret) % 4))
    if kind == EST_KEY:
        return bytes.fromhex(secret)
    return secret.encode()


def is_service(owner: str | None) -> bool:
    """Whether an owner is no person."""
    return owner is not None and owner.startswith(SERVICE)


def _purpose(id: str) -> str:
    return f"credential:{id}"
