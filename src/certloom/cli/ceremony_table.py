"""The table at a ceremony: people who read, agree and type, or a script that stands in for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.script import NewHolder, Person, Script
from certloom.cli.terminal import fit_lines
from certloom.secrets import SecretError, asking

_T = TypeVar("_T")
_TRIES = 3


class Table:
    """A ``ceremony.steps.Desk``."""

    def __init__(self, *, rehearsal: bool) -> None:
        self.rehearsal = rehearsal

    def say(self, text: str) -> None:
        print(fit_lines(text), flush=True)

    def agree(self, question: str) -> None:
        if self.rehearsal:
            self.say(f"{question} (rehearsal: yes)")
            return
        if line(f"{question} Type yes: ").lower() != "yes":
            raise CeremonyError("somebody did not agree")

    def passphrase(self, holder: str, file: str) -> str:
        return self._get(f"{holder}, the passphrase of your share", file, asking.at_terminal)

    def new_passphrase(self, holder: str, file: str) -> str:
        def twice(prompt: str) -> str:
            return asking.new_at_terminal(prompt, asking.at_terminal)

        return self._get(f"{holder}, a passphrase for your share", file, twice)

    def _get(self, prompt: str, file: str, ask: Callable[[str], str]) -> str:
        try:
            if file:
                return asking.from_file(Path(file))
            if self.rehearsal:
                raise CeremonyError(f"the script names no file for: {prompt}")
            return ask(fit_lines(prompt))
        except SecretError as error:
            raise CeremonyError(str(error)) from None


def is_rehearsal(script: Script) -> bool:
    """Whether passphrases come from files."""
    return bool(script.passphrases) or any(holder.passphrase_file for holder in script.holders)


def line(prompt: str) -> str:
    """What a person types. Raises ``CeremonyError`` when nobody is there."""
    if not sys.stdin.isatty():
        raise CeremonyError("there is no terminal to ask at; a script with --script answers everything")
    try:
        return input(fit_lines(prompt)).strip()
    except EOFError:
        raise CeremonyError("broken off at the terminal") from None


def ask(prompt: str, fit: Callable[[str], _T], default: str = "") -> _T:
    """Ask until the answer is fit. Raises ``CeremonyError``."""
    shown = f"{prompt} [{default}]: " if default else f"{prompt}: "
    for _ in range(_TRIES):
        try:
            return fit(line(shown) or default)
        except ValueError as error:
            print(fit_lines(f"That is no answer: {error}"))
    raise CeremonyError(f"no answer to: {prompt}")


def number(text: str) -> int:
    """A whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("a number from 1, please")
    return int(text)


def words(text: str) -> tuple[str, ...]:
    """What stands between commas."""
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def some(text: str) -> str:
    """Anything but nothing."""
    if not text:
        raise ValueError("something, please")
    return text


def ask_present() -> tuple[Person, ...]:
    """Who is there, until an empty line."""
    found = []
    while name := line("Who is present? Name (empty: that is all): "):
        found.append(Person(name=name, role=ask("  in what role", some, "witness")))
    return tuple(found)


def ask_holders() -> tuple[int, tuple[NewHolder, ...]]:
    """The threshold, and who is to hold shares."""
    count = ask("Into how many shares is the key to be divided", number, "3")
    needed = ask("How many of them are to be needed", number, "2")
    found = []
    for each in range(1, count + 1):
        name = ask(f"Holder of share {each}", some)
        place = ask("  the file to write it to (empty: beside the root's file)", str)
        found.append(NewHolder(name=name, share=place))
    return needed, tuple(found)
