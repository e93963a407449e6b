"""Credentials: made, listed, taken out of use."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from typing import Annotated, Any

import msgspec

from certloom.audit import Origin
from certloom.identity.credentials import EABCredential
from certloom.policy.name_rules import PatternError, check_pattern
from certloom.server.operations.registry import Arguments, OperationError, operation
from certloom.server.rooms import Rooms
from certloom.store import credentials as statements
from certloom.store.base import Tx


class Create(Arguments, frozen=True):
    """An ACME external account binding (RFC 8555 section 7.3.4), or with ``token`` an API token."""

    token: bool = False
    channel: str = "default"
    names: tuple[str, ...] = ()
    preauthorized: bool = False
    uses: Annotated[int, msgspec.Meta(ge=1)] | None = None
    seconds: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How long it lives from now."""


class Listing(Arguments, frozen=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    after: str = ""


class Identified(Arguments, frozen=True):
    id: str


@operation("credential.create", Create)
async def create(rooms: Rooms, arguments: Create, origin: Origin) -> dict[str, Any]:
    expires = None if arguments.seconds is None else rooms.clock.now() + arguments.seconds
    if arguments.token:
        id, token = await rooms.store.write(
            lambda tx: rooms.credentials.create_token(tx, expires=expires, origin=origin)
        )
        return {"id": id, "kind": "api-token", "secret": token, "expires": expires}
    check_terms(rooms, arguments.channel, arguments.names, arguments.preauthorized)
    eab = await rooms.store.write(
        lambda tx: rooms.credentials.create_eab(
            tx,
            channel=arguments.channel,
            names=arguments.names,
            preauthorized=arguments.preauthorized,
            uses=arguments.uses,
            expires=expires,
            origin=origin,
        )
    )
    return {**shown_once(eab), "channel": arguments.channel, "expires": expires}


def check_terms(rooms: Rooms, channel: str, names: tuple[str, ...], preauthorized: bool) -> None:
    """Raises ``OperationError`` for a credential that could never be used as it was meant."""
    if rooms.books.acme_channel(channel) is None:
        raise OperationError("not-found", f"there is no ACME channel {channel!r}")
    check_names(names, preauthorized)


def check_names(names: tuple[str, ...], preauthorized: bool, path: str = "") -> None:
    """Raises ``OperationError``, with the path in the document that declares them, if one does."""
    for i, name in enumerate(names):
        try:
            check_pattern(name)
        except PatternError as error:
            at = f" - at `{path}.names[{i}]`" if path else ""
            raise OperationError("bad-name", f"{error}{at}") from None
    if preauthorized and not names:
        at = f" - at `{path}.names`" if path else ""
        raise OperationError(
            "bad-arguments", f"a credential that pre-authorizes must say for which names{at}"
        )


def shown_once(eab: EABCredential) -> dict[str, Any]:
    """A binding key as clients want it: base64url without padding (RFC 8555 section 7.3.4)."""
    secret = urlsafe_b64encode(eab.mac_key).rstrip(b"=").decode()
    return {
        "id": eab.id,
        "kind": "acme-eab",
        "secret": secret,
        "names": eab.names,
        "preauthorized": eab.preauthorized,
    }


@operation("credential.list", Listing)
async def listing(rooms: Rooms, arguments: Listing, origin: Origin) -> list[dict[str, Any]]:
    found = await rooms.store.scan(lambda tx: statements.listing(tx, arguments.limit, arguments.after))
    return [
        {
            "id": c.id,
            "kind": c.kind,
            "channel": c.channel,
            "names": c.names,
            "preauthorized": c.preauthorized,
            "uses_left": c.uses_left,
            "created": c.created,
            "expires": c.expires,
            "last_used": c.last_used,
            "revoked": c.revoked,
        }
        for c in found
    ]


@operation("credential.revoke", Identified)
async def revoke(rooms: Rooms, arguments: Identified, origin: Origin) -> dict[str, Any]:
    def unit(tx: Tx) -> bool:
        return rooms.credentials.revoke(tx, arguments.id, origin)

    if not await rooms.store.write(unit):
        raise OperationError("not-found", f"there is no credential {arguments.id!r} in use")
    return {"id": arguments.id, "revoked": True}
