"""Restoring a backup: keys and database together, and the time between backup and restore accounted for.

Whatever was issued after the backup is issued all the same, and nobody knows it any more. So the serials that
were reserved then count as issued and unknown, the span of time is recorded, and CRLs are signed anew under
numbers above any that were given out. What was revoked after the backup has to be revoked again.

The order makes a crash harmless: the file ``restore.pending`` is there before anything is replaced and goes
when all is done, and while it is there no server starts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.server import postgresql_tools
from certloom.server.archive import (
    DATA_KEY,
    DATABASES,
    SIGNER_KEY,
    ArchiveError,
    Manifest,
    extract,
    read_manifest,
)
from certloom.server.data_dir import DataDir, DataDirError, write_atomically
from certloom.settings import Settings
from certloom.store import open_store, recovery
from certloom.store.base import Store, StoreError, Tx
from certloom.store.migrations import shipped

_SQLITE = "sqlite:///"


class RestoreError(Exception):
    """Nothing was restored, or the restore must be run again; the message says which."""


class Restored(msgspec.Struct, frozen=True):
    """What was done."""

    manifest: Manifest
    unknown_serials: int
    """Serials reserved at the backup: issued since, or never."""
    kept_aside: tuple[str, ...]
    """Files that were in the way, under their new names."""


async def restore(
    settings: Settings, clock: Clock, archive: Path, *, force: bool, origin: Origin
) -> Restored:
    """Put a backup in the place of what settings name. No server may run.

    Without ``force`` there must be nothing in that place. Raises ``RestoreError``.
    """
    data_dir = DataDir(settings)
    staging: Path | None = None
    try:
        manifest = read_manifest(archive)
        if manifest.schema > len(shipped()):
            raise RestoreError(f"{archive} was made by certloom {manifest.certloom}, which is newer")
        is_sqlite = data_dir.database_url.startswith(_SQLITE)
        if (manifest.dialect == "sqlite") != is_sqlite:
            raise RestoreError(
                f"{archive} holds a {manifest.dialect} database, but database.url is of the other kind"
            )
        data_dir.prepare()
        data_dir.lock()
        staging = Path(tempfile.mkdtemp(prefix=".restore-", dir=data_dir.path))
        await asyncio.to_thread(extract, archive, manifest, staging)
        if is_sqlite:
            return await _sqlite(data_dir, clock, staging, manifest, force, origin)
        return await _postgresql(data_dir, clock, staging, manifest, force, origin)
    except (ArchiveError, DataDirError, StoreError, postgresql_tools.ToolError) as error:
        raise RestoreError(str(error)) from error
    except OSError as error:
        raise RestoreError(f"{error.filename or archive}: {error.strerror}") from error
    finally:
        if staging is not None:
            await asyncio.to_thread(shutil.rmtree, staging, True)
        data_dir.unlock()


async def _sqlite(
    data_dir: DataDir, clock: Clock, staging: Path, manifest: Manifest, force: bool, origin: Origin
) -> Restored:
    # What settings name relatively is relative to the working directory, as it is for the store.
    target = Path.cwd() / data_dir.database_url.removeprefix(_SQLITE)
    if _existing([target]):
        await _refuse_if_open(clock, target)
    _refuse_if_there([target, data_dir.data_key, *_other_signer_key(data_dir, staging)], data_dir, force)
    copy = staging / DATABASES["sqlite"]
    # Marked before it comes into its place, so that no server can ever open it unmarked.
    store = await open_store(f"{_SQLITE}{copy}", clock=clock)
    try:
        unknown = await _mark(store, clock, manifest, origin)
    finally:
        await store.close()
    write_atomically(data_dir.restore_pending, b"", 0o600)
    beside = (target.with_name(target.name + end) for end in ("-wal", "-shm"))
    signer_key = _other_signer_key(data_dir, staging)
    aside = _put_aside([data_dir.data_key, *signer_key, target, *beside], clock)
    await asyncio.to_thread(_move, copy, target)
    write_atomically(data_dir.data_key, (staging / DATA_KEY).read_bytes(), 0o600)
    _put_signer_key(data_dir, staging)
    data_dir.restore_pending.unlink()
    return Restored(manifest, unknown, aside)


async def _postgresql(
    data_dir: DataDir, clock: Clock, staging: Path, manifest: Manifest, force: bool, origin: Origin
) -> Restored:
    url = data_dir.database_url
    used, others = await asyncio.to_thread(_look_at_postgresql, url)
    if others:
        raise RestoreError(f"{others} other sessions use the database; stop every server and try again")
    key = (staging / DATA_KEY).read_bytes()
    there = [data_dir.data_key] if not _same(data_dir.data_key, key) else []
    there += _other_signer_key(data_dir, staging)
    _refuse_if_there(there, data_dir, force)
    if used and not force and not data_dir.restore_pending.exists():
        raise RestoreError("the database is not empty; --force replaces it")
    write_atomically(data_dir.restore_pending, b"", 0o600)
    await postgresql_tools.restore(url, staging / DATABASES["postgresql"])
    store = await open_store(url, clock=clock)
    try:
        unknown = await _mark(store, clock, manifest, origin)
    finally:
        await store.close()
    aside = _put_aside(there, clock)
    write_atomically(data_dir.data_key, key, 0o600)
    _put_signer_key(data_dir, staging)
    data_dir.restore_pending.unlink()
    return Restored(manifest, unknown, aside)


def _other_signer_key(data_dir: DataDir, staging: Path) -> list[Path]:
    """The signer's key that is there, where the archive holds another one."""
    archived = staging / SIGNER_KEY
    if not archived.exists() or _same(data_dir.signer_key, archived.read_bytes()):
        return []
    return [data_dir.signer_key]


def _put_signer_key(data_dir: DataDir, staging: Path) -> None:
    archived = staging / SIGNER_KEY
    if archived.exists():
        write_atomically(data_dir.signer_key, archived.read_bytes(), 0o600)


async def _mark(store: Store, clock: Clock, manifest: Manifest, origin: Origin) -> int:
    def unit(tx: Tx) -> int:
        unknown = recovery.mark_restored(tx, manifest.created, clock.now())
        record(
            tx,
            clock.now_ms(),
            "store.restored",
            "store",
            origin,
            {"backed_up": manifest.created, "unknown_serials": unknown},
        )
        return unknown

    return await store.write(unit)


async def _refuse_if_open(clock: Clock, target: Path) -> None:
    """Raises ``StoreError`` naming the process that has the database open."""
    try:
        store = await open_store(f"{_SQLITE}{target}", clock=clock)
    except StoreError as error:
        if "in use" in str(error):
            raise
        return  # a broken database is a good reason to restore
    await store.close()


def _refuse_if_there(paths: list[Path], data_dir: DataDir, force: bool) -> None:
    there = [str(path) for path in _existing(paths)]
    if there and not force and not data_dir.restore_pending.exists():
        raise RestoreError(f"{' and '.join(there)} exist; --force puts them aside and restores")


def _existing(paths: list[Path]) -> list[Path]:
    return [path for path in paths if path.exists()]


def _put_aside(paths: list[Path], clock: Clock) -> tuple[str, ...]:
    """Rename what is there; answer the new names."""
    renamed = [(path, f"{path}.before-restore-{clock.now()}") for path in _existing(paths)]
    for path, new in renamed:
        os.rename(path, new)
    return tuple(new for _, new in renamed)


def _move(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    _sync(target)
    _sync(target.parent)


def _same(path: Path, contents: bytes) -> bool:
    return path.exists() and path.read_bytes() == contents


def _look_at_postgresql(url: str) -> tuple[bool, int]:
    """Whether the database holds anything, and how many other sessions it has."""
    import psycopg

    try:
        with psycopg.connect(url, autocommit=True) as connection:
            tables = connection.execute(
                "SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema()"
            ).fetchone()
            others = connection.execute(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            ).fetchone()
    except psycopg.Error as error:
        raise RestoreError(f"cannot reach the database: {error}") from None
    return bool(tables and tables[0]), others[0] if others else 0


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
