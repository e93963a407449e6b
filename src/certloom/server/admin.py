"""The admin socket: the REST API for the local operator.

Who can open the socket (mode 0600 in a directory of mode 0700) could read the data key as well, so they may
everything; the kernel says which user that is, and so the audit log does.
"""

from __future__ import annotations

import pwd

from certloom.identity.principals import Principal, local
from certloom.server.connections import ASGIApp, Receive, Scope, Send


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

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["certloom.principal"] = local_operator(scope.get("certloom.peer_uid"))
        await self._app(scope, receive, send)
