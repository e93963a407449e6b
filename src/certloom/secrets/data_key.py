"""The data key, and what is sealed under it."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = b"\x01"


class SealError(Exception):
    """The data key cannot be used, or does not open what was sealed."""


class DataKey:
    """Seals secrets with AES-256-GCM. What was sealed for one purpose opens for no other."""

    def __init__(self, key: bytes) -> None:
        """``key`` has 32 octets. Raises ``SealError`` otherwise."""
        if len(key) != _KEY_BYTES:
            raise SealError(f"a data key has {_KEY_BYTES} octets")
        self._cipher = AESGCM(key)

    def __repr__(self) -> str:
        return "DataKey(...)"

    @classmethod
    def load(cls, path: Path) -> DataKey:
        """Read the key file. Raises ``SealError`` when it is unreadable, or readable for others."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with os.fdopen(fd, "rb") as file:
                if stat.S_IMODE(os.fstat(fd).st_mode) & 0o077:
                    raise SealError(f"{path} can be read by others: its mode must be 0600")
                return cls(file.read(_KEY_BYTES + 1))
        except OSError as error:
            raise SealError(f"cannot read the data key {path}: {error.strerror}") from error

    @classmethod
    def load_or_create(cls, path: Path) -> DataKey:
        """Read the key file, or make one (mode 0600) that appears whole or not at all."""
        if not os.path.lexists(path):
            partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(secrets.token_bytes(_KEY_BYTES))
                    file.flush()
                    os.fsync(file.fileno())
                with contextlib.suppress(FileExistsError):
                    os.link(partial, path)  # unlike a rename, leaves a key that another process made first
            finally:
                os.unlink(partial)
            directory = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return cls.load(path)

    def seal(self, purpose: str, data: bytes) -> bytes:
        """Encrypt; a version octet, a nonce, then ciphertext and tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, data, purpose.encode())

    def open(self, purpose: str, sealed: bytes) -> bytes:
        """Decrypt. Raises ``SealError`` when the key, the purpose or the octets are not the right ones."""
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] != _VERSION:
            raise SealError("sealed by another version")
        try:
            return self._cipher.decrypt(nonce, rest, purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise SealError(f"this data key does not open what was sealed for {purpose}") from error
