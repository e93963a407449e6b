"""Where a passphrase comes from: a person at a terminal, a file descriptor, or a systemd credential."""

from __future__ import annotations

import getpass
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from certloom.secrets.errors import SecretError
from certloom.secrets.passphrase import check_new
from certloom.settings.key_sources import Passphrase

Ask: TypeAlias = Callable[[str], str]
"""Asks a person, who sees the text, for something that is not shown."""
_MOST = 65_536
TRIES = 3
"""How often a person may be wrong."""


def at_terminal(prompt: str) -> str:
    """Asked for at the terminal this process was started from. Raises ``SecretError`` when there is none."""
    with warnings.catch_warnings():
        # getpass would fall back to what is typed being seen.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(f"{prompt}: ")
        except (EOFError, OSError, getpass.GetPassWarning):
            raise SecretError("there is no terminal to ask for the passphrase") from None


class Passphrases:
    """The passphrase of one key file, and the one that it is to have."""

    def __init__(self, settings: Passphrase, name: str, ask: Ask | None = None) -> None:
        """``name`` tells a person which key it is."""
        self._settings = settings
        self._name = name
        self._ask = ask or at_terminal
        self._lines: list[str] = []
        self._chosen: str | None = None
        self.tries = TRIES if settings.ask == "terminal" else 1

    def current(self) -> str:
        """The one that opens it: once there is a new one, that. Raises ``SecretError``."""
        if self._chosen is not None:
            return self._chosen
        match self._settings.ask:
            case "descriptor":
                return self._from_descriptor()[0]
            case "credential":
                return _from_credential(self._settings.credential)
        return self._ask(f"Passphrase of {self._name}")

    def new(self) -> str:
        """The one to seal under; a person is asked twice.

        From a descriptor it is the second line where there is one, else the first. A credential of the same
        name that ends in ``.new`` comes first. Raises ``SecretError``.
        """
        match self._settings.ask:
            case "descriptor":
                chosen = self._from_descriptor()[-1]
            case "credential":
                name = self._settings.credential
                there = (_directory() / f"{name}.new").exists()
                chosen = _from_credential(f"{name}.new" if there else name)
            case _:
                chosen = new_at_terminal(f"New passphrase of {self._name}", self._ask)
        check_new(chosen)
        self._chosen = chosen
        return chosen

    def _from_descriptor(self) -> list[str]:
        if not self._lines:
            number = self._settings.descriptor
            try:
                with open(number, "rb") as file:
                    text = file.read(_MOST)
            except OSError as error:
                raise SecretError(
                    f"no passphrase can be read from descriptor {number}: {error.strerror}"
                ) from None
            self._lines = [_text(line, f"descriptor {number}") for line in text.splitlines()[:2]]
            if not self._lines:
                raise SecretError(f"descriptor {number} ends before a passphrase")
        return self._lines


def new_at_terminal(prompt: str, ask: Ask) -> str:
    """A passphrase that is to be, asked for twice and again until it is fit. Raises ``SecretError``."""
    problem = SecretError("no passphrase was given")
    for _ in range(TRIES):
        chosen = ask(prompt)
        try:
            check_new(chosen)
        except SecretError as error:
            problem = error
            prompt = f"{error}. Once more"
            continue
        if ask("Again") == chosen:
            return chosen
        problem = SecretError("the two passphrases differ")
        prompt = f"{problem}. Once more"
    raise problem


def from_file(path: Path) -> str:
    """The first line of a file. Raises ``SecretError``."""
    try:
        with path.open("rb") as file:
            lines = file.read(_MOST).splitlines()
    except OSError as error:
        raise SecretError(f"{path}: {error.strerror}") from None
    if not lines or not lines[0]:
        raise SecretError(f"{path} is empty")
    return _text(lines[0], str(path))


def _directory() -> Path:
    found = os.environ.get("CREDENTIALS_DIRECTORY")
    if not found:
        raise SecretError("there are no systemd credentials: CREDENTIALS_DIRECTORY is not set")
    return Path(found)


def _from_credential(name: str) -> str:
    return from_file(_directory() / name)


def _text(line: bytes, where: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        raise SecretError(f"the passphrase in {where} is not UTF-8") from None
