"""The installation itself: what runs here, and backups of it."""

from __future__ import annotations

import msgspec

from certloom import __version__
from certloom.api.routing import Answer, Call, Public, route


class Version(msgspec.Struct, frozen=True):
    """Which software answers."""

    product: str
    version: str


@route(
    "GET",
    "/version",
    permission=Public("the health pages and the CLI ask before they have anything to prove themselves with"),
    summary="Show the version",
    answers={200: Version},
    tag="system",
)
async def version(call: Call[None, None, None]) -> Answer:
    return Answer(Version("Certloom", __version__))
