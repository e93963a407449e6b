"""What a fresh installation gets, in one transaction, and what its operator is told, once.

Everything is made first and stored in one unit that begins by looking whether it is there already: of
several nodes that start on one empty database, one's unit commits and the others' find it done. The fact
``installed`` says ``told`` only after the secrets have been printed; a start that finds it otherwise tells
them: the binding key as it is, and an admin token in place of the one that nobody can have seen.
"""

from __future__ import annotations

import contextlib
import secrets
import socket

import msgspec

from certloom.audit import SYSTEM, record
from certloom.authorities.creation import NewCA, make_local_ca, usual_shards
from certloom.authorities.local import URLs
from certloom.clock import Clock
from certloom.identity.credentials import Credentials, EABCredential
from certloom.identity.principals import Grant
from certloom.pki.identifiers import IdentifierError, parse_dns
from certloom.pki.names import Name
from certloom.policy.channels import ACMEChannel, Channel, ESTChannel, protocol_of
from certloom.policy.profiles import default_profiles, encode_profile
from certloom.secrets import DataKey, SecretError
from certloom.signing import Signing
from certloom.store import configuration
from certloom.store.base import Conflict, Store, Tx

ROOT = "root"
ISSUING = "issuing"
_INSTALLED = "installed"
_UNTOLD = "untold"
_TOLD = "told"
_PROBE = "data-key-probe"
_ROOT_DAYS = 20 * 365
_ISSUING_DAYS = 10 * 365
_CHANNEL = "default"
_TURN_SECONDS = 60
_COMMON_NAME = "2.5.4.3"


class Welcome(msgspec.Struct, frozen=True):
    """What a first run made that is told once. Holds secrets."""

    admin_token: str
    eab: EABCredential
    name: str
    """The name that the EAB credential is pre-authorised for."""

    def __repr__(self) -> str:
        return "Welcome(...)"


class _Untold(msgspec.Struct, frozen=True):
    """Kept until the operator has been told. No secrets."""

    eab_id: str
    name: str
    token_id: str = ""
    since: int = 0
    """When a node took it on itself to tell; others leave it the time to do so."""


def own_name() -> str:
    """This host's name if certificates for it make sense, else one that is certain to be nobody's."""
    name = socket.getfqdn().lower()
    try:
        parse_dns(name, wildcard=False)
    except IdentifierError:
        return "demo.internal"
    return "demo.internal" if "." not in name or name.startswith("localhost.") else name


async def complete_first_run(
    store: Store, clock: Clock, data_key: DataKey, signing: Signing, credentials: Credentials, urls: URLs
) -> None:
    """Make what a fresh installation needs, unless it is there.

    Raises ``SecretError`` when the database was made under another data key.
    """
    if await store.read(lambda tx: configuration.fact(tx, _INSTALLED)) is None:
        suffix = secrets.token_hex(4)
        root = await make_local_ca(
            signing,
            clock,
            urls,
            name=ROOT,
            subject=Name(((_COMMON_NAME, f"Certloom Root {suffix}"),)),
            days=_ROOT_DAYS,
        )
        issuing = await make_local_ca(
            signing,
            clock,
            urls,
            name=ISSUING,
            subject=Name(((_COMMON_NAME, f"Certloom Issuing {suffix}"),)),
            days=_ISSUING_DAYS,
            crl_shards=usual_shards(root=False),
            issuer=root.authority,
        )
        with contextlib.suppress(Conflict):  # another node was faster
            await store.write(lambda tx: _install(tx, clock, data_key, credentials, (root, issuing)))
    await _check_data_key(store, data_key)


def _install(
    tx: Tx, clock: Clock, data_key: DataKey, credentials: Credentials, cas: tuple[NewCA, ...]
) -> None:
    if configuration.fact(tx, _INSTALLED) is not None:
        return
    now = clock.now()
    for ca in cas:
        ca.store(tx)
        record(tx, clock.now_ms(), "authority.created", f"authority:{ca.authority.name}", SYSTEM)
    profiles = default_profiles(ISSUING)
    for profile in profiles:
        configuration.add_profile_version(tx, profile.name, 1, encode_profile(profile), now)
        record(tx, clock.now_ms(), "profile.created", f"profile:{profile.name}", SYSTEM, {"version": 1})
    channels: tuple[Channel, ...] = (
        ACMEChannel(name=_CHANNEL, profiles=(profiles[0].name,)),
        # Nobody gets in before somebody makes them a credential.
        ESTChannel(name=_CHANNEL, profile=profiles[-1].name),
    )
    for channel in channels:
        protocol = protocol_of(channel)
        configuration.put_channel(tx, protocol, channel.name, msgspec.json.encode(channel).decode(), now)
        record(tx, clock.now_ms(), "channel.created", f"channel:{protocol}/{channel.name}", SYSTEM)
    name = own_name()
    eab = credentials.create_eab(tx, channel=_CHANNEL, names=(name,), preauthorized=True, origin=SYSTEM)
    configuration.touch(tx)
    configuration.put_fact(tx, _PROBE, data_key.seal(_PROBE, b"").hex())
    configuration.put_fact(tx, _INSTALLED, msgspec.json.encode(_Untold(eab.id, name)).decode())


async def take_welcome(store: Store, clock: Clock, credentials: Credentials) -> Welcome | None:
    """What is still to be told, if it is this process's turn to tell it; ``told`` says that it has."""

    def unit(tx: Tx) -> Welcome | None:
        state = configuration.fact(tx, _INSTALLED)
        if state is None or state == _TOLD:
            return None
        untold = msgspec.json.decode(state, type=_Untold)
        if store.dialect != "sqlite" and clock.now() < untold.since + _TURN_SECONDS:
            return None
        eab = credentials.eab(tx, untold.eab_id, _CHANNEL)
        if eab is None:
            return None
        if untold.token_id:
            credentials.revoke(tx, untold.token_id, SYSTEM)
        token_id, token = credentials.create_token(
            tx,
            grants=(Grant(role="admin"),),
            owner="service:first-run",
            label="made by the first run",
            origin=SYSTEM,
        )
        taken = _Untold(untold.eab_id, untold.name, token_id, clock.now())
        configuration.put_fact(tx, _INSTALLED, msgspec.json.encode(taken).decode())
        return Welcome(token, eab, untold.name)

    return await store.write(unit)


async def told(store: Store) -> None:
    """The operator has been told: never tell again."""
    await store.write(lambda tx: configuration.put_fact(tx, _INSTALLED, _TOLD))


async def _check_data_key(store: Store, data_key: DataKey) -> None:
    sealed = await store.read(lambda tx: configuration.fact(tx, _PROBE))
    try:
        data_key.open(_PROBE, bytes.fromhex(sealed or ""))
    except SecretError:
        raise SecretError(
            "the data key in the data directory is not the one this database was made under;"
            " every node of a database needs the same data.key"
        ) from None
