"""The data directory: what lies in it, and that one server at a time uses it."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from certloom.settings import Settings


class DataDirError(Exception):
    """The data directory cannot be used."""


class DataDir:
    """Paths in the data directory (absolute), and its lock."""

    def __init__(self, settings: Settings) -> None:
        self.path = Path(settings.data_dir).absolute()
        self.data_key = self.path / "data.key"
        self.signer_key = self.path / "signer.key"
        self.root_pem = self.path / "root.pem"
        self.https = self.path / "https.sealed"
        """The HTTPS listener's own certificate and key, sealed under the data key."""
        self.admin_socket = self.path / "admin.sock"
        self.restore_pending = self.path / "restore.pending"
        """There while a restore is under way: what lies in the directory does not belong together."""
        self.database_url = settings.database.url or f"sqlite:///{self.path / 'certloom.db'}"
        self._lock: int | None = None

    def prepare(self) -> None:
        """Create the directory, readable by its owner alone. Raises ``DataDirError``."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.stat().st_mode & 0o077:
                self.path.chmod(0o700)
        except OSError as error:
            raise DataDirError(f"cannot use the data directory {self.path}: {error.strerror}") from None

    def lock(self) -> None:
        """Keep other servers out until ``unlock`` or the end of this process. Raises ``DataDirError``."""
        fd = os.open(self.path / "server.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.read(fd, 20).decode("ascii", "replace").strip()
            os.close(fd)
            raise DataDirError(
                f"a server is already running with the data directory {self.path} (process {pid})"
            ) from None
        os.ftruncate(fd, 0)
        os.write(fd, b"%d\n" % os.getpid())
        self._lock = fd
        # What a process that was killed in the middle of something left behind.
        for pattern in (".backup-*", ".restore-*", ".https.*"):
            for path in self.path.glob(pattern):
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    def refuse_half_restored(self) -> None:
        """Raises ``DataDirError`` when a restore was begun and not completed."""
        if self.restore_pending.exists():
            raise DataDirError(f"a restore into {self.path} was not completed: run it again")

    def unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def write_atomically(path: Path, data: bytes, mode: int) -> None:
    """Put ``data`` at ``path`` whole and on disk, or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(fd, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(fd)
        os.rename(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
