"""What the metrics listener serves: metrics and health, to whoever can reach it.

It has no authentication, so it belongs on loopback or on a network of the operator's own.
"""

from __future__ import annotations

from certloom.server.connections import ASGIApp, Receive, Scope, Send
from certloom.server.metrics import Metrics
from certloom.server.pages import Page, answer


class MetricsApp:
    """The ASGI application of ``listen.metrics``."""

    def __init__(self, metrics: Metrics, pages: ASGIApp) -> None:
        self._metrics = metrics
        self._pages = pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path == "/metrics" and scope["method"] in ("GET", "HEAD"):
            accept = next((value for name, value in scope["headers"] if name == b"accept"), b"")
            body, content_type = await self._metrics.render(accept.decode("latin-1"))
            await answer(send, Page(body, content_type.encode()))
        elif path == "/health" or path.startswith("/health/"):
            await self._pages(scope, receive, send)
        else:
            await answer(send, Page(b"/metrics and /health are here\n", status=404))
