"""Channels: the addresses at which clients enrol."""

from __future__ import annotations

from typing import Literal

import msgspec

from certloom.api import edits
from certloom.api.problems import NOT_FOUND, Problem
from certloom.api.routing import Answer, Call, Name, Page, Paging, etag, route
from certloom.audit import record
from certloom.identity.principals import Thing
from certloom.policy.channels import Channel, protocol_of
from certloom.store import configuration
from certloom.store.base import Tx


class ChannelPath(msgspec.Struct, frozen=True):
    protocol: Literal["acme", "est"]
    name: Name

    @property
    def thing(self) -> Thing:
        """As scopes know it."""
        return Thing(channel=f"{self.protocol}/{self.name}")


class ChannelShown(msgspec.Struct, frozen=True):
    """A channel, and where its clients find it."""

    protocol: str
    name: str
    url: str
    """For ACME, the directory; for EST, what an operation is appended to."""
    channel: Channel


@route(
    "GET",
    "/channels",
    permission="channel.read",
    summary="List channels",
    query=Paging,
    answers={200: Page[ChannelShown]},
    tag="channels",
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """By protocol and name."""
    protocol, name = call.position(tuple[str, str]) or ("", "")
    rows = await call.services.store.scan(
        lambda tx: configuration.channels_after(tx, protocol, name, call.limit + 1)
    )
    return call.page(
        [_shown(call.services.origins.https, *row) for row in rows],
        lambda row: (row.protocol, row.name),
        lambda row: call.may("channel.read", Thing(channel=f"{row.protocol}/{row.name}")),
    )


@route(
    "GET",
    "/channels/{protocol}/{name}",
    permission="channel.read",
    summary="Show a channel",
    path=ChannelPath,
    answers={200: ChannelShown},
    etag=True,
    tag="channels",
)
async def show(call: Call[ChannelPath, None, None]) -> Answer:
    call.allow("channel.read", call.path.thing)
    protocol, name = call.path.protocol, call.path.name
    body = await call.services.store.read(lambda tx: configuration.channel(tx, protocol, name))
    if body is None:
        raise _missing(call.path)
    return Answer(_shown(call.services.origins.https, protocol, name, body), etag=etag(body))


@route(
    "PUT",
    "/channels/{protocol}/{name}",
    permission="channel.write",
    summary="Make or change a channel",
    path=ChannelPath,
    body=Channel,
    answers={200: ChannelShown, 201: ChannelShown},
    edits=True,
    tag="channels",
)
async def put(call: Call[ChannelPath, None, Channel]) -> Answer:
    """It is served at once, and within seconds by every other server of the installation."""
    services, path, channel = call.services, call.path, call.body
    call.allow_shared("channel.write", channel=f"{path.protocol}/{path.name}")
    if channel.name != path.name:
        raise edits.invalid(f"this is the channel {path.name!r}", "$.name")
    if protocol_of(channel) != path.protocol:
        raise edits.invalid(f"this is a channel of {path.protocol}", "$.protocol")

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        body = configuration.channel(tx, path.protocol, path.name)
        call.require_match(None if body is None else etag(body))
        edits.check_channel(channel, configuration.profile_names(tx), configuration.anchor_names(tx))
        change = edits.put_channel(tx, services, channel, call.origin)
        if change.change != "unchanged":
            configuration.touch(tx)
        new = configuration.channel(tx, path.protocol, path.name) or ""
        shown = _shown(services.origins.https, path.protocol, path.name, new)
        if body is not None:
            return Answer(shown, etag=etag(new))
        return Answer(shown, 201, etag=etag(new), location=f"/channels/{path.protocol}/{path.name}")

    answer = await call.write(unit)
    await services.refresh()
    return answer


@route(
    "DELETE",
    "/channels/{protocol}/{name}",
    permission="channel.write",
    summary="Delete a channel",
    path=ChannelPath,
    answers={204: None},
    edits=True,
    tag="channels",
)
async def delete(call: Call[ChannelPath, None, None]) -> Answer:
    """Its clients find nothing there any more; what they were issued stays as it is."""
    path = call.path
    call.allow_shared("channel.write", channel=f"{path.protocol}/{path.name}")

    def unit(tx: Tx) -> None:
        configuration.edit(tx)
        body = configuration.channel(tx, path.protocol, path.name)
        if body is None:
            raise _missing(path)
        call.require_match(etag(body))
        configuration.delete_channel(tx, path.protocol, path.name)
        configuration.touch(tx)
        data = {"before": msgspec.json.decode(body), "after": None}
        subject = f"channel:{path.protocol}/{path.name}"
        record(tx, call.services.clock.now_ms(), "channel.deleted", subject, call.origin, data)

    await call.write(unit)
    await call.services.refresh()
    return Answer(status=204)


def _shown(base_url: str, protocol: str, name: str, body: str) -> ChannelShown:
    channel = msgspec.json.decode(body, type=Channel)
    url = f"{base_url}/acme/{name}/directory" if protocol == "acme" else f"{base_url}/.well-known/est/{name}"
    return ChannelShown(protocol, name, url, channel)


def _missing(path: ChannelPath) -> Problem:
    return Problem(NOT_FOUND, f"there is no channel {path.protocol}/{path.name}")
