"""The installation itself: what runs here, and backups of it."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

import msgspec

from certloom import __version__
from certloom.api.problems import CONFLICT, INVALID
from certloom.api.routing import Answer, Call, Public, at, route
from certloom.audit import record
from certloom.store import configuration
from certloom.store import jobs as job_statements
from certloom.store.base import Tx

_MOST_COUNTED = 10_000


class Version(msgspec.Struct, frozen=True):
    """Which software answers."""

    product: str
    version: str


class Jobs(msgspec.Struct, frozen=True):
    """Background jobs, counted up to 10,000 of each."""

    waiting: int
    running: int
    failed: int


class Status(msgspec.Struct, frozen=True):
    """What runs here."""

    version: str
    node: str
    """Which process of the installation answers."""
    now: datetime
    """By its clock."""
    database: str
    """``sqlite`` or ``postgresql``."""
    url: str
    """What clients call the HTTPS listener."""
    http_url: str
    """The origin that certificates name for CRLs and issuers."""
    configuration: int
    """Rises with every change of profiles, channels, rules or authorities."""
    up_to_date: bool
    """Whether this process has taken up the newest configuration."""
    jobs: Jobs


class BackupRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a backup shall be."""

    path: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    """A file that does not exist yet, on the server: through the admin socket an absolute path, otherwise the
    name of a file in ``backups`` in the data directory."""


class Backup(msgspec.Struct, frozen=True):
    """A backup that was made. It holds the data key: whoever has it has everything."""

    path: str
    manifest: dict[str, Any]
    """What is in it, with SHA-256 sums."""


@route(
    "GET",
    "/version",
    permission=Public("who asks for it may have nothing yet to prove themselves with"),
    summary="Show the version",
    answers={200: Version},
    tag="system",
)
async def version(call: Call[None, None, None]) -> Answer:
    return Answer(Version("Certloom", __version__))


@route(
    "GET",
    "/status",
    permission="system.read",
    summary="Show what runs here",
    answers={200: Status},
    tag="system",
)
async def status(call: Call[None, None, None]) -> Answer:
    call.allow("system.read")
    services = call.services

    def unit(tx: Tx) -> tuple[int, Jobs]:
        counts = [job_statements.count(tx, s, _MOST_COUNTED) for s in ("waiting", "running", "failed")]
        return configuration.generation(tx), Jobs(*counts)

    generation, jobs = await services.store.scan(unit)
    return Answer(
        Status(
            version=__version__,
            node=services.node,
            now=at(services.clock.now()),
            database=services.store.dialect,
            url=services.origins.https,
            http_url=services.origins.http,
            configuration=generation,
            up_to_date=generation == services.books.generation,
            jobs=jobs,
        )
    )


@route(
    "POST",
    "/backups",
    permission="system.backup",
    summary="Make a backup",
    body=BackupRequest,
    answers={201: Backup},
    problems=(CONFLICT, INVALID),
    tag="system",
)
async def backup(call: Call[None, None, BackupRequest]) -> Answer:
    """The database as of one moment and the data key, in one file on the server, while everything goes on."""
    call.allow_shared("system.backup")
    services = call.services
    path, manifest = await services.backup(call.body.path, call.principal.kind == "local")
    answer = Answer(Backup(path, msgspec.to_builtins(manifest)), 201)

    def unit(tx: Tx) -> Answer:
        now = services.clock.now_ms()
        record(tx, now, "store.backed_up", "store", call.origin, {"path": path})
        return answer

    return await call.create(unit)
