"""The admin socket: the REST API for the local operator.

Who can open the socket (mode 0600 in a directory of mode 0700) could read the data key as well, so they may
everything; the kernel says which user that is, and so the audit log does.
"""

from __future__ import annotations

import pwd

import msgspec

from certloom.audit import Origin
from certloom.identity.principals import Principal, local
from certloom.server.connections import ASGIApp, Receive, Scope, Send
from certloom.server.operations import OperationError, perform
from certloom.server.pages import Page, answer
from certloom.server.rooms import Rooms

_JSON = b"application/json"
_PREFIX = "/operations/"
_encode = msgspec.json.Encoder().encode


def local_operator(uid: int | None) -> Principal:
    """A local user, by name where they have one."""
    if uid is None:
        return local("unknown")
    try:
        return local(pwd.getpwuid(uid).pw_name)
    except KeyError:
        return local(str(uid))


def actor(uid: int | None) -> str:
    """How a local user stands in the audit log: ``local:NAME``."""
    return local_operator(uid).actor


class AdminApp:
    """The ASGI application behind the admin socket."""

    def __init__(self, rooms: Rooms, app: ASGIApp) -> None:
        self._rooms = rooms
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(_PREFIX):
            await self._operation(scope, receive, send)
            return
        scope["certloom.principal"] = local_operator(scope.get("certloom.peer_uid"))
        await self._app(scope, receive, send)

    async def _operation(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        origin = Origin(actor(scope["certloom.peer_uid"]), "", scope["certloom.trace"])
        try:
            name = scope["path"].removeprefix(_PREFIX)
            page = Page(_encode(await perform(self._rooms, name, body, origin)), _JSON)
        except OperationError as error:
            page = Page(_encode({"error": {"code": error.code, "message": str(error)}}), _JSON, 409)
        await answer(send, page)
