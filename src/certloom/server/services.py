"""The rooms as the API's handlers see them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from certloom.api.cursors import Cursors
from certloom.api.problems import CONFLICT, INVALID, Problem
from certloom.api.services import Services
from certloom.identity.authentication import Authentication
from certloom.identity.ratelimit import Limit
from certloom.server.archive import Manifest
from certloom.server.backup import BackupError, make_backup
from certloom.server.rooms import Rooms


def services(rooms: Rooms, metrics: Callable[[str], Awaitable[tuple[bytes, str]]] | None = None) -> Services:
    """Everything handlers use, out of opened rooms."""

    async def backup(name: str, anywhere: bool) -> tuple[str, Manifest]:
        target = _backup_file(rooms, name, anywhere)
        try:
            return str(target), await make_backup(rooms, target)
        except BackupError as error:
            raise Problem(CONFLICT, str(error)) from error

    settings, clock = rooms.settings, rooms.clock
    return Services(
        settings=settings,
        clock=clock,
        origins=rooms.origins,
        node=rooms.node,
        store=rooms.store,
        data_key=rooms.data_key,
        signing=rooms.signing,
        certifier=rooms.certifier,
        books=rooms.books,
        credentials=rooms.credentials,
        runner=rooms.runner,
        enrollment=rooms.enrollment,
        approvals=rooms.approvals,
        server_keys=rooms.server_keys,
        revoker=rooms.revoker,
        compromise=rooms.compromise,
        crls=rooms.crls,
        checkpoints=rooms.checkpoints,
        metrics=metrics,
        people=rooms.people,
        logins=rooms.logins,
        oidc=rooms.oidc,
        webhooks=rooms.webhooks,
        authentication=Authentication(rooms.store, clock, settings.api),
        failures=Limit("failures", settings.api.failures_per_minute, clock),
        cursors=Cursors(rooms.data_key),
        refresh=rooms.refresh,
        backup=backup,
    )


def _backup_file(rooms: Rooms, name: str, anywhere: bool) -> Path:
    """Where a backup goes. Raises ``Problem``.

    Whoever may only make backups must not choose where on the server files come into being.
    """
    if "\0" in name or not name:
        raise Problem(INVALID, "that is no file's name")
    target = Path(name)
    if anywhere:
        if not target.is_absolute():
            raise Problem(INVALID, "the path must be absolute: the server's directory is not yours")
        return target
    if target.name != name or name.startswith("."):
        raise Problem(INVALID, "only the local operator says where; name a file, for the data directory")
    folder = rooms.data_dir.path / "backups"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / name
