"""Operations over the admin socket: ``POST /operations/NAME`` with JSON, answered with JSON.

Who can open the socket (mode 0600 in a directory of mode 0700) is the operator; the kernel says which user
that is, and so the audit log does.
"""

from __future__ import annotations

import pwd

import msgspec
import structlog

from certloom.audit import Origin
from certloom.server.connections import Receive, Scope, Send
from certloom.server.operations import OperationError, perform
from certloom.server.pages import Page, answer
from certloom.server.rooms import Rooms

_JSON = b"application/json"
_PREFIX = "/operations/"
_encode = msgspec.json.Encoder().encode

_log = structlog.get_logger("certloom.admin")


def actor(uid: int | None) -> str:
    """How a local user stands in the audit log: ``local:NAME``."""
    if uid is None:
        return "local"
    try:
        return f"local:{pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"local:{uid}"


class AdminApp:
    """The ASGI application behind the admin socket."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if scope["method"] != "POST" or not path.startswith(_PREFIX):
            await answer(send, Page(b'{"error":{"code":"not-found"}}', _JSON, 404))
            return
        body = (await receive())["body"]
        origin = Origin(actor(scope["certloom.peer_uid"]), "", scope["certloom.trace"])
        name = path.removeprefix(_PREFIX)
        try:
            page = Page(_encode(await perform(self._rooms, name, body, origin)), _JSON)
            _log.info("operation", name=name, actor=origin.actor, trace=origin.trace)
        except OperationError as error:
            _log.info("operation refused", name=name, actor=origin.actor, code=error.code, trace=origin.trace)
            page = Page(_encode({"error": {"code": error.code, "message": str(error)}}), _JSON, 409)
        await answer(send, page)
