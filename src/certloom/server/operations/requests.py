"""Enrolment requests: looked at and answered."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from certloom.audit import Origin
from certloom.enrollment.approvals import Verb
from certloom.enrollment.states import OPEN, State
from certloom.identity.principals import local
from certloom.server.operations.registry import Arguments, OperationError, operation
from certloom.server.rooms import Rooms
from certloom.store import requests as statements
from certloom.store.requests import EnrolmentRequest


class Listing(Arguments, frozen=True):
    states: tuple[State, ...] = ()
    """None means the open ones."""
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    after: str = ""


class Identified(Arguments, frozen=True):
    id: str


class Answered(Identified, frozen=True):
    message: Annotated[str, msgspec.Meta(max_length=500)] = ""


@operation("request.list", Listing)
async def listing(rooms: Rooms, arguments: Listing, origin: Origin) -> list[dict[str, Any]]:
    states = tuple(state.value for state in arguments.states) or OPEN
    found = await rooms.store.scan(
        lambda tx: statements.listing(tx, states, arguments.limit, arguments.after)
    )
    return [_summary(request) for request in found]


@operation("request.show", Identified)
async def show(rooms: Rooms, arguments: Identified, origin: Origin) -> dict[str, Any]:
    request = await rooms.store.read(lambda tx: statements.get(tx, arguments.id))
    if request is None:
        raise OperationError("unknown-request", f"there is no request {arguments.id}")
    return {
        **_summary(request),
        "profile_version": request.profile_version,
        "reasons": msgspec.to_builtins(request.reasons),
        "approval_id": request.approval_id,
        "updated": request.updated,
        "expires": request.expires,
    }


@operation("request.approve", Answered)
async def approve(rooms: Rooms, arguments: Answered, origin: Origin) -> dict[str, Any]:
    return await _decide(rooms, arguments, origin, "approve")


@operation("request.deny", Answered)
async def deny(rooms: Rooms, arguments: Answered, origin: Origin) -> dict[str, Any]:
    return await _decide(rooms, arguments, origin, "deny")


async def _decide(rooms: Rooms, arguments: Answered, origin: Origin, decision: Verb) -> dict[str, Any]:
    request = await rooms.store.read(lambda tx: statements.get(tx, arguments.id))
    if request is None or request.approval_id is None:
        raise OperationError("unknown-request", f"no request {arguments.id} waits for anybody")
    reason = arguments.message or ("denied" if decision == "deny" else "")
    who = local(origin.actor.partition(":")[2] or "admin")
    await rooms.approvals.decide(request.approval_id, who, origin, decision, reason)
    found = await rooms.store.read(lambda tx: statements.get(tx, arguments.id))
    assert found is not None
    return _summary(found)


def _summary(request: EnrolmentRequest) -> dict[str, Any]:
    asked = msgspec.json.decode(request.ask)
    return {
        "id": request.id,
        "state": request.state,
        "names": [f"{i['type']}:{i['value']}" for i in asked.get("identifiers", ())],
        "protocol": request.protocol,
        "channel": request.channel,
        "requester": request.requester,
        "profile": request.profile,
        "approval_id": request.approval_id,
        "certificate_id": request.certificate_id,
        "created": request.created,
    }
