"""The file that a key-encryption key lies in: in the clear, or wrapped so that its source has to open it.

One line of text. In the clear it is ``certloom-data-key-v1 BASE64``. Wrapped it is ``certloom-wrapped-key-v1
CHECK JSON``: the JSON says which source it needs, ``CHECK`` is the start of its SHA-256, so that a damaged
file is told from a wrong passphrase. A key that its source keeps itself (``env``, ``command``) has a file
too: it holds the key's id, which tells the right key from another.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TypeAlias

import msgspec

from certloom.secrets.errors import SecretError
from certloom.secrets.passphrase import SealedUnderPassphrase

KEY = 32
"""Octets of a key."""
_PLAIN = b"certloom-data-key-v1 "
_WRAPPED = b"certloom-wrapped-key-v1 "
_CHECK = 16
_MOST = 65_536
_ID = 4


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="source"):
    id: str
    """Hexadecimal of the key's id: four octets of a hash, which stand before every value sealed under it."""


class UnderPassphrase(_Form, frozen=True, tag="passphrase"):
    sealed: SealedUnderPassphrase


class UnderVault(_Form, frozen=True, tag="vault"):
    ciphertext: str
    """As the transit engine gave it: ``vault:v1:...``."""


class UnderKMS(_Form, frozen=True, tag="aws-kms"):
    ciphertext: bytes
    """A CiphertextBlob; it names its key itself."""


class InEnvironment(_Form, frozen=True, tag="env"):
    pass


class FromCommand(_Form, frozen=True, tag="command"):
    ciphertext: bytes = b""
    """What the encrypting command printed; without one, the decrypting command knows the key by itself."""


Wrapped: TypeAlias = UnderPassphrase | UnderVault | UnderKMS | InEnvironment | FromCommand
_decoder: msgspec.json.Decoder[Wrapped] = msgspec.json.Decoder(Wrapped)


class InTheClear(msgspec.Struct, frozen=True):
    """The key as it is."""

    key: bytes

    def __repr__(self) -> str:
        return "InTheClear(...)"


def key_id(key: bytes) -> bytes:
    """Tells a value sealed under another key from a damaged one; 32 bits of a hash give nothing away."""
    return hashlib.sha256(b"certloom data key id\0" + key).digest()[:_ID]


def source_of(form: InTheClear | Wrapped) -> str:
    """``file``, or the source that a wrapped key needs."""
    if isinstance(form, InTheClear):
        return "file"
    return str(form.__struct_config__.tag)


def as_text(key: bytes) -> bytes:
    """A key as sources that keep keys have it: base64 and a line end."""
    return base64.b64encode(key) + b"\n"


def encode(form: InTheClear | Wrapped) -> bytes:
    """What the file holds."""
    if isinstance(form, InTheClear):
        return _PLAIN + as_text(form.key)
    text = msgspec.json.encode(form)
    return _WRAPPED + _check(text) + b" " + text + b"\n"


def _check(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest()[:_CHECK].encode()


def decode(text: bytes, path: Path) -> InTheClear | Wrapped:
    """Raises ``SecretError``, naming ``path``."""
    if text.startswith(_PLAIN):
        with contextlib.suppress(binascii.Error):
            key = base64.b64decode(text[len(_PLAIN) :].strip(), validate=True)
            if len(key) == KEY:
                return InTheClear(key)
    elif text.startswith(_WRAPPED):
        check, _, body = text[len(_WRAPPED) :].rstrip(b"\n").partition(b" ")
        if check != _check(body):
            raise SecretError(f"the key file {path} is damaged: its checksum does not fit")
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            return _decoder.decode(body)
        raise SecretError(f"the key file {path} was written by another version of this program")
    raise SecretError(f"the file {path} does not hold a data key")


def read(path: Path) -> bytes:
    """What the file holds. Raises ``OSError``, and ``SecretError`` when anybody else may use it."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"the data key {path} is not a file")
        if status.st_mode & 0o077:
            raise SecretError(
                f"others may use the data key file {path} (mode {status.st_mode & 0o777:04o}): chmod 600 it"
            )
        return file.read(_MOST)


def create(path: Path, text: bytes) -> bool:
    """Write a new file so that it is there whole and on disk, or not at all; never over an existing one.

    False when somebody else was faster: theirs counts. Raises ``OSError``.
    """
    partial = _write_beside(path, text)
    try:
        os.link(partial, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(partial)
        sync_directory(path.parent)
    return True


def replace(path: Path, text: bytes) -> None:
    """Put ``text`` in the place of what the file holds, whole and on disk, then overwrite the old contents.

    The owner stays who it was. At every moment ``path`` holds the old contents or the new. What the disk, its
    controller or a snapshot keeps of the old contents is beyond a program's reach. Raises ``OSError``.
    """
    old = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        status = os.fstat(old)
        partial = _write_beside(path, text, (status.st_uid, status.st_gid))
        try:
            os.rename(partial, path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)
            raise
        sync_directory(path.parent)
        os.pwrite(old, bytes(status.st_size), 0)
        os.fsync(old)
    finally:
        os.close(old)


def _write_beside(path: Path, text: bytes, owner: tuple[int, int] | None = None) -> Path:
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                os.fchown(fd, *owner)
            file.write(text)
            file.flush()
            os.fsync(fd)
    except BaseException:
        os.unlink(partial)
        raise
    return partial


def sync_directory(path: Path) -> None:
    """Have a directory's entries on disk."""
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
