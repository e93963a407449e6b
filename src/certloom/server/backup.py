"""Backups, of a running server too: the database as of one moment, and the data key, in one archive."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from pathlib import Path

from certloom import __version__
from certloom.server import postgresql_tools
from certloom.server.archive import (
    DATA_KEY,
    DATABASES,
    FORMAT,
    SIGNER_KEY,
    ArchiveError,
    Manifest,
    describe,
    write_archive,
)
from certloom.server.rooms import Rooms
from certloom.store.base import StoreError
from certloom.store.migrations import shipped
from certloom.store.sqlite import SQLiteStore


class BackupError(Exception):
    """No backup was made."""


async def make_backup(rooms: Rooms, path: Path) -> Manifest:
    """Write a backup to ``path`` (which must not exist) while everything goes on. Raises ``BackupError``."""
    _refuse(path)
    created = rooms.clock.now()
    # In the data directory: a copy of the database may be large, and is nobody else's to read.
    folder = Path(tempfile.mkdtemp(prefix=".backup-", dir=rooms.data_dir.path))
    try:
        name = DATABASES[rooms.store.dialect]
        copy, key = folder / name, folder / DATA_KEY
        if isinstance(rooms.store, SQLiteStore):
            await rooms.store.backup(str(copy))
        else:
            await postgresql_tools.dump(rooms.data_dir.database_url, copy)
        key.write_bytes(rooms.data_dir.data_key.read_bytes())
        files = {name: copy, DATA_KEY: key}
        # An isolated signer's key is not the server's to read: it is kept with the signer.
        with contextlib.suppress(FileNotFoundError, PermissionError):
            (folder / SIGNER_KEY).write_bytes(rooms.data_dir.signer_key.read_bytes())
            files[SIGNER_KEY] = folder / SIGNER_KEY
        return await asyncio.to_thread(_pack, path, rooms.store.dialect, created, files)
    except (OSError, StoreError, ArchiveError, postgresql_tools.ToolError) as error:
        raise BackupError(str(error)) from error
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)


def _refuse(path: Path) -> None:
    if path.exists():
        raise BackupError(f"{path} exists already")
    if not path.parent.is_dir():
        raise BackupError(f"there is no directory {path.parent}")


def _pack(path: Path, dialect: str, created: int, files: dict[str, Path]) -> Manifest:
    members = {name: describe(file) for name, file in files.items()}
    manifest = Manifest(FORMAT, __version__, len(shipped()), dialect, created, members)
    write_archive(path, manifest, files)
    return manifest
