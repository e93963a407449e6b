"""One 256-bit key in a file of its own, outside the database, so that the database alone gives nothing away.

A sealed value is ``version (1) | key id (4) | nonce (12) | AES-256-GCM ciphertext and tag``. What it is for
(its purpose) and its header are authenticated with it, so a value moved to another place does not open there.
Nonces are 96 random bits (NIST SP 800-38D section 8.2.2: up to 2**32 values under one key).
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from certloom.secrets import key_file
from certloom.secrets.errors import SecretError
from certloom.secrets.key_file import KEY, InTheClear, key_id

_VERSION = b"\x01"
_ID = 4
_NONCE = 12
_TAG = 16
_HEADER = len(_VERSION) + _ID


class DataKey:
    """Seals and opens values. It cannot be printed or pickled."""

    __slots__ = ("_aead", "_header")

    def __init__(self, key: bytes) -> None:
        """``key`` is 32 random bytes."""
        if len(key) != KEY:
            raise SecretError(f"a data key has {KEY} bytes")
        self._aead = AESGCM(key)
        self._header = _VERSION + key_id(key)

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
    form = key_file.decode(key_file.read(path), path)
    if isinstance(form, InTheClear):
        return form.key
    raise SecretError(
        f"the key in {path} is wrapped: set source in the settings to {key_file.source_of(form)!r}"
    )


def _create(path: Path) -> None:
    key_file.create(path, key_file.encode(InTheClear(secrets.token_bytes(KEY))))
