"""The files of a ceremony: the root's, and one for each share. JSON that a person can read, with a checksum.

The root's file holds its certificate, its key sealed under a wrapping key that is in no file, what it has
certified and revoked, and who has a share of the wrapping key. All of that is authenticated with the sealed
key, so a change is found as soon as the shares come together.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TypeVar

import msgspec

from certloom.ceremony.errors import CeremonyError
from certloom.secrets.passphrase import SealedUnderPassphrase

_MOST = 4_194_304


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    checksum: str = ""
    """SHA-256 of the rest: tells damage from a wrong passphrase. No protection against anybody."""
    format: str


_F = TypeVar("_F", bound=_File)


class Holder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who has a share."""

    name: str
    commitment: str
    """Hash of the share, which is 256 random bits: tells a right share from a wrong one."""


class Sharing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the wrapping key is shared."""

    id: str
    """Random: tells this sharing from others of the same root."""
    threshold: int
    holders: tuple[Holder, ...]
    """In the order of their shares' numbers, from 1."""


class Issued(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A certificate that this root signed."""

    serial: str
    subject: str
    not_after: int
    sha256: str


class Revoked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An entry of the root's CRL."""

    serial: str
    at: int
    """Unix seconds."""
    reason: int


class RootFile(_File, frozen=True, kw_only=True):
    """A root, but for the shares that open its key."""

    certificate: bytes
    """DER."""
    sharing: Sharing
    issued: tuple[Issued, ...] = ()
    revoked: tuple[Revoked, ...] = ()
    crl_number: int = 0
    """The last one that was used."""
    transcript_entry: int = 0
    transcript_sha256: str = ""
    """The transcript's entry just before this file was written, and the hash it ends with."""
    nonce: bytes = b""
    sealed_key: bytes = b""
    """The private key (PKCS#8), sealed under the wrapping key with AES-256-GCM."""


class ShareFile(_File, frozen=True, kw_only=True):
    """One holder's share, sealed under the holder's passphrase."""

    root: str
    """SHA-256 of the root's SubjectPublicKeyInfo."""
    sharing: str
    number: int
    of: int
    threshold: int
    holder: str
    sealed: SealedUnderPassphrase

    @property
    def purpose(self) -> str:
        """What the passphrase's seal is bound to."""
        return (
            f"share {self.number} of {self.of}, {self.threshold} needed, root {self.root},"
            f" sharing {self.sharing}, holder {self.holder}"
        )


ROOT_FORMAT = "certloom root 1"
SHARE_FORMAT = "certloom share 1"
_FORMATS: dict[type[_File], str] = {RootFile: ROOT_FORMAT, ShareFile: SHARE_FORMAT}


def authenticated(root: RootFile) -> bytes:
    """What is authenticated with the sealed key: all the rest."""
    return b"certloom root file\0" + msgspec.json.encode(
        msgspec.structs.replace(root, checksum="", nonce=b"", sealed_key=b"")
    )


def encode(file: _File) -> bytes:
    """The text of a file, with its checksum."""
    checked = msgspec.structs.replace(file, checksum=_checksum(file))
    return msgspec.json.format(msgspec.json.encode(checked), indent=2) + b"\n"


def _checksum(file: _File) -> str:
    return hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(file, checksum=""))).hexdigest()


def decode(text: bytes, type: type[_F], name: str) -> _F:
    """Raises ``CeremonyError``, naming the file."""
    try:
        file = msgspec.json.decode(text, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CeremonyError(f"{name} is damaged, or is another kind of file: {error}") from None
    if file.format != _FORMATS[type]:
        raise CeremonyError(f"{name} is of another kind, or of another version: {file.format!r}")
    if file.checksum != _checksum(file):
        raise CeremonyError(f"{name} is damaged: its checksum does not fit")
    return file


def read(path: Path) -> bytes:
    """What a file holds. Raises ``CeremonyError``."""
    try:
        with path.open("rb") as file:
            text = file.read(_MOST + 1)
    except OSError as error:
        raise CeremonyError(f"{path}: {error.strerror}") from None
    if len(text) > _MOST:
        raise CeremonyError(f"{path} is too long")
    return text


def check_directory(path: Path) -> None:
    """Raises ``CeremonyError`` where others could read or change what is written there."""
    try:
        status = path.stat()
    except OSError as error:
        raise CeremonyError(f"{path}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise CeremonyError(f"{path} is not a directory")
    if status.st_mode & 0o077:
        raise CeremonyError(
            f"others may use the directory {path} (mode {status.st_mode & 0o777:04o}): chmod 700 it"
        )
    if status.st_uid != os.geteuid():
        raise CeremonyError(f"the directory {path} is somebody else's")


def write(path: Path, text: bytes, *, private: bool = True, over: bool = False) -> None:
    """Put a file in its place, whole and on disk; ``over`` what is there, or not at all.

    A ``private`` one is its owner's alone, in a directory of which the same is true. Raises
    ``CeremonyError``.
    """
    if private:
        check_directory(path.parent)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        fd = os.open(
            partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if private else 0o644
        )
        try:
            with os.fdopen(fd, "wb") as file:
                os.fchmod(fd, 0o600 if private else 0o644)
                # Some file systems keep no modes: what they say counts.
                if private and os.fstat(fd).st_mode & 0o077:
                    raise CeremonyError(f"the file system of {path} lets others read what is written there")
                file.write(text)
                file.flush()
                os.fsync(fd)
            if over:
                os.rename(partial, path)
            else:
                _place(partial, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise CeremonyError(f"{path}: {error.strerror}") from None


def _place(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)
    except FileExistsError:
        raise CeremonyError(f"{path} exists already") from None
    except PermissionError:  # no hard links, as on a USB stick's FAT
        if path.exists():
            raise CeremonyError(f"{path} exists already") from None
        os.rename(partial, path)
