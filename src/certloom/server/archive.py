"""The form of a backup: one tar file with a manifest, the database, and the keys to its secrets.

The signer's key is among them where the server may read it. Whoever holds such a backup holds the CA: it is
written for its owner alone (0600), and belongs where private keys do.
"""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

FORMAT = 1
MANIFEST = "manifest.json"
DATA_KEY = "data.key"
SIGNER_KEY = "signer.key"
DATABASES = {"sqlite": "database.sqlite", "postgresql": "database.pgdump"}
_CHUNK = 1 << 20
_MOST_MANIFEST = 65536


class ArchiveError(Exception):
    """The archive cannot be written, or is not whole."""


class Member(msgspec.Struct, frozen=True):
    size: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """What an archive holds. It stands first in it."""

    format: int
    certloom: str
    """The version of the program that wrote it."""
    schema: int
    """The newest migration of the database."""
    dialect: str
    created: int
    """Unix seconds when the backup began: what was issued since is not in it."""
    members: dict[str, Member]


def describe(path: Path) -> Member:
    """Size and checksum of a file."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return Member(size, digest.hexdigest())


def write_archive(path: Path, manifest: Manifest, files: dict[str, Path]) -> None:
    """Put the files into one archive that appears whole, on disk, and readable by its owner alone.

    Raises ``ArchiveError``.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as target:
            os.fchmod(fd, 0o600)
            with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
                text = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
                _add(tar, MANIFEST, io.BytesIO(text), len(text), manifest.created)
                for name, source in files.items():
                    with source.open("rb") as file:
                        _add(tar, name, file, manifest.members[name].size, manifest.created)
            target.flush()
            os.fsync(fd)
        os.rename(partial, path)
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except (OSError, tarfile.TarError) as error:
        partial.unlink(missing_ok=True)
        raise ArchiveError(f"cannot write {path}: {error}") from error


def _add(tar: tarfile.TarFile, name: str, file: io.BufferedIOBase, size: int, at: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, at
    tar.addfile(member, file)


def read_manifest(path: Path) -> Manifest:
    """Raises ``ArchiveError`` for what is no archive of ours, or of a later form."""
    with _opened(path) as tar:
        first = tar.next()
        if first is None or first.name != MANIFEST or not first.isreg() or first.size > _MOST_MANIFEST:
            raise ArchiveError(f"{path} is not a backup made by certloom")
        file = tar.extractfile(first)
        assert file is not None
        try:
            manifest = msgspec.json.decode(file.read(), type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ArchiveError(f"{path}: the manifest is damaged: {error}") from None
    if manifest.format != FORMAT:
        raise ArchiveError(f"{path} has format {manifest.format}; this version reads {FORMAT}")
    if manifest.members.keys() - {SIGNER_KEY} != {DATA_KEY, DATABASES.get(manifest.dialect, "")}:
        raise ArchiveError(f"{path}: the manifest does not name what a backup holds")
    return manifest


def extract(path: Path, manifest: Manifest, into: Path) -> None:
    """Write the archive's files into a directory, checked against the manifest. Raises ``ArchiveError``."""
    missing = set(manifest.members)
    with _opened(path) as tar:
        for entry in tar:
            expected = manifest.members.get(entry.name)
            if expected is None or not entry.isreg() or entry.name not in missing:
                continue
            if entry.size != expected.size:
                raise ArchiveError(f"{path}: {entry.name} has {entry.size} octets, not {expected.size}")
            source = tar.extractfile(entry)
            assert source is not None
            digest = hashlib.sha256()
            fd = os.open(into / entry.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as target:
                for chunk in _chunks(source.read):
                    digest.update(chunk)
                    target.write(chunk)
                target.flush()
                os.fsync(fd)
            if digest.hexdigest() != expected.sha256:
                raise ArchiveError(f"{path}: {entry.name} is damaged: its checksum is not the manifest's")
            missing.discard(entry.name)
    if missing:
        raise ArchiveError(f"{path} lacks {', '.join(sorted(missing))}")


def _chunks(read: Callable[[int], bytes]) -> Iterator[bytes]:
    while chunk := read(_CHUNK):
        yield chunk


class _opened:
    """A tar file, its errors made ours."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> tarfile.TarFile:
        try:
            self._tar = tarfile.open(self._path, mode="r:")
        except OSError as error:
            raise ArchiveError(f"cannot read {self._path}: {error.strerror}") from None
        except tarfile.TarError as error:
            raise ArchiveError(f"{self._path} is no archive of certloom's: {error}") from None
        return self._tar

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._tar.close()
        if isinstance(error, OSError | tarfile.TarError | EOFError):
            raise ArchiveError(f"{self._path} is damaged: {error}") from error
