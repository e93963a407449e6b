"""One 256-bit key in a file of its own, outside the database, so that the database alone gives nothing away.

A sealed value is ``version (1) | key id (4) | nonce (12) | AES-256-GCM ciphertext and tag``. What it is for
(its purpose) and its header are authenticated with it, so a value moved to another place does not open there.
Nonces are 96 random bits (NIST SP 800-38D section 8.2.2: up to 2**32 values under one key).
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
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_VERSION = b"\x01"
_ID = 4
_NONCE = 12
_TAG = 16
_HEADER = len(_VERSION) + _ID
_LABEL = b"certloom-data-key-v1 "
_KEY = 32


class SecretError(Exception):
    """The data key cannot be used, or a value does not open under it. Never says what is inside."""


class DataKey:
    """Seals and opens values. It cannot be printed or pickled."""

    __slots__ = ("_aead", "_header")

    def __init__(self, key: bytes) -> None:
        """``key`` is 32 random bytes."""
        if len(key) != _KEY:
            raise SecretError(f"a data key has {_KEY} bytes")
        self._aead = AESGCM(key)
        # Tells a value sealed under another key from a damaged one; 32 bits of a hash give nothing away.
        self._header = _VERSION + hashlib.sha256(b"certloom data key id\0" + key).digest()[:_ID]

    @classmethod
    def load_or_create(cls, path: str | os.PathLike[str]) -> DataKey:
        """The key in the file at ``path``, which is made, readable by its owner only, if it is not there.

        Raises ``SecretError`` when anybody else may read or change the file, or it does not hold a data key.
        """
        path = Path(path)
        try:
            if not path.exists():
                _create(path)
            return cls(_load(path))
        except OSError as error:
            raise SecretError(f"cannot use the data key file {path}: {error.strerror}") from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> DataKey:
        """The key in the file at ``path``. Raises ``SecretError`` also when there is none."""
        try:
            return cls(_load(Path(path)))
        except OSError as error:
            raise SecretError(f"cannot use the data key file {os.fspath(path)}: {error.strerror}") from error

    def seal(self, purpose: str, data: bytes) -> bytes:
        """Encrypt ``data`` for one purpose (``authority-key:issuing-1``)."""
        nonce = secrets.token_bytes(_NONCE)
        return self._header + nonce + self._aead.encrypt(nonce, data, self._header + purpose.encode())

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """Decrypt what was sealed for the same purpose. Raises ``SecretError`` for anything else."""
        if len(sealed) < _HEADER + _NONCE + _TAG or sealed[:1] != _VERSION:
            raise SecretError("not a sealed value")
        if sealed[:_HEADER] != self._header:
            raise SecretError("the value was sealed under another data key")
        nonce, ciphertext = sealed[_HEADER : _HEADER + _NONCE], sealed[_HEADER + _NONCE :]
        try:
            return self._aead.decrypt(nonce, ciphertext, self._header + purpose.encode())
        except InvalidTag:
            raise SecretError("the sealed value is damaged, or was sealed for another purpose") from None

    def __repr__(self) -> str:
        return "<DataKey>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a data key cannot be pickled")


def _load(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise SecretError(f"the data key {path} is not a file")
        if status.st_mode & 0o077:
            raise SecretError(
                f"others may use the data key file {path} (mode {status.st_mode & 0o777:04o}): chmod 600 it"
            )
        text = file.read(1024)
    if text.startswith(_LABEL):
        with contextlib.suppress(binascii.Error):
            key = base64.b64decode(text[len(_LABEL) :].strip(), validate=True)
            if len(key) == _KEY:
                return key
    raise SecretError(f"the file {path} does not hold a data key")


def _create(path: Path) -> None:
    """Write a new key so that it is there whole and on disk, or not at all; never over an existing one."""
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(_LABEL + base64.b64encode(secrets.token_bytes(_KEY)) + b"\n")
            file.flush()
            os.fsync(fd)
        with contextlib.suppress(FileExistsError):  # somebody else was faster, and theirs counts
            os.link(partial, path)
    finally:
        os.unlink(partial)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
