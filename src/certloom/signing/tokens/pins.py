"""PINs: where they come from, and what tokens said of them."""

from __future__ import annotations

import contextlib
import hmac
import os
from pathlib import Path
from typing import Literal

import msgspec

from certloom.secrets import DataKey, SecretError
from certloom.settings.tokens import Token

_MOST_OCTETS = 1024


class PINError(Exception):
    """There is no PIN, or it must not be tried."""


def read_pin(name: str, settings: Token) -> str:
    """Raises ``PINError``. The environment variable stays: a restart of a token's process needs it again."""
    sources = [settings.pin_file, settings.pin_credential, settings.pin_variable]
    if sum(map(bool, sources)) != 1:
        raise PINError(f"signer.tokens.{name}: exactly one of pin_file, pin_credential and pin_variable")
    if settings.pin_variable:
        pin = os.environ.get(settings.pin_variable)
        if pin is None:
            raise PINError(f"signer.tokens.{name}: the variable {settings.pin_variable} is not set")
        return pin
    path = Path(settings.pin_file)
    if settings.pin_credential:
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if directory is None or "/" in settings.pin_credential:
            raise PINError(f"signer.tokens.{name}: there is no credential {settings.pin_credential!r}")
        path = Path(directory) / settings.pin_credential
    try:
        status = path.stat()
        if settings.pin_file and status.st_mode & 0o077:
            raise PINError(f"others may use the PIN file {path}: chmod 600 it")
        text = path.read_bytes()[:_MOST_OCTETS].decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise PINError(f"cannot read the PIN file {path}: {why}") from None
    return text.rstrip("\r\n")


class _Tried(msgspec.Struct, frozen=True):
    """What became of the last PIN that a token was given."""

    sealed: bytes
    """The PIN, sealed under the signer's key, for comparison only."""
    outcome: Literal["trying", "wrong", "right"]
    was_right: bool = False
    """Whether the token has ever taken this PIN."""


class TriedPINs:
    """Remembers, in a file that outlives processes, what each token said of the PIN it was given.

    A PIN that was called wrong is not tried again. Nor is one of which nobody knows what the token said, as
    the process ended meanwhile: unless the token has taken it before, and does not say that a wrong one was
    given since (a token's process that is killed at a bad moment wakes nobody up).
    """

    def __init__(self, path: Path, key: DataKey) -> None:
        self._path = path
        self._key = key

    def forbids(self, serial: str, pin: str, *, count_low: bool) -> bool:
        """Whether this token must not be given this PIN. ``count_low``: the token says that a wrong PIN was
        given since the last right one. A file that cannot be read forbids every PIN."""
        try:
            tried = self._of(serial, pin)
        except (OSError, SecretError, msgspec.DecodeError):
            return True
        if tried is None or tried.outcome == "right":
            return False
        return tried.outcome == "wrong" or count_low or not tried.was_right

    def note(self, serial: str, pin: str, outcome: Literal["trying", "wrong", "right"]) -> None:
        """``trying`` before the token is given it, and then what it said. Raises ``OSError``."""
        before = None
        with contextlib.suppress(SecretError, msgspec.DecodeError):
            before = self._of(serial, pin)
        was_right = outcome == "right" or (before is not None and before.was_right)
        sealed = self._key.seal(_purpose(serial), pin.encode())
        known = {}
        with contextlib.suppress(msgspec.DecodeError):
            known = self._read()
        self._write({**known, serial: _Tried(sealed, outcome, was_right)})

    def forget(self, serial: str | None = None) -> None:
        """It may be tried again (None: all of them may). Raises ``OSError``."""
        known: dict[str, _Tried] = {}
        if serial is not None:
            with contextlib.suppress(msgspec.DecodeError):
                known = self._read()
            known.pop(serial, None)
        self._write(known)

    def _of(self, serial: str, pin: str) -> _Tried | None:
        """What is known of this PIN; nothing where the last one was another."""
        tried = self._read().get(serial)
        if tried is None or not hmac.compare_digest(
            self._key.open(_purpose(serial), tried.sealed), pin.encode()
        ):
            return None
        return tried

    def _read(self) -> dict[str, _Tried]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, _Tried])
        except FileNotFoundError:
            return {}

    def _write(self, known: dict[str, _Tried]) -> None:
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(msgspec.json.encode(known))
            file.flush()
            os.fsync(fd)
        os.replace(partial, self._path)


def _purpose(serial: str) -> str:
    return f"tried-pin:{serial}"
