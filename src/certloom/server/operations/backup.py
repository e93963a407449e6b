"""A backup, made by whoever has the store open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from certloom.audit import Origin, record
from certloom.server.backup import BackupError, make_backup
from certloom.server.operations.registry import Arguments, OperationError, operation
from certloom.server.rooms import Rooms


class Backup(Arguments, frozen=True):
    path: str
    """Absolute: the server's working directory is not the operator's."""


@operation("backup", Backup)
async def backup(rooms: Rooms, arguments: Backup, origin: Origin) -> dict[str, Any]:
    path = Path(arguments.path)
    if not path.is_absolute():
        raise OperationError("bad-arguments", "the path must be absolute")
    try:
        manifest = await make_backup(rooms, path)
    except BackupError as error:
        raise OperationError("backup-failed", str(error)) from error
    await rooms.store.write(
        lambda tx: record(tx, rooms.clock.now_ms(), "store.backed_up", "store", origin, {"path": str(path)})
    )
    return {"path": str(path), **msgspec.to_builtins(manifest)}
