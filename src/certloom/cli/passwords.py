"""Passwords: from a file, or asked for where nobody sees them; never from the command line."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path

from certloom.cli.options import USAGE
from certloom.cli.reach import fail, read_secret


def password(prompt: str, file: Path | None) -> str:
    """One that there is already."""
    return _read(file) if file is not None else _ask(prompt)


def new_password(file: Path | None, prompt: str = "New password") -> str:
    """One that is to be; asked for twice."""
    if file is not None:
        return _read(file)
    first = _ask(prompt)
    if _ask("Again") != first:
        fail(USAGE, "the two passwords differ")
    return first


def _read(file: Path) -> str:
    try:
        found = read_secret(file)
    except OSError as error:
        fail(USAGE, f"{file}: {error.strerror}")
    return found or fail(USAGE, f"{file} is empty")


def _ask(prompt: str) -> str:
    if not sys.stdin.isatty():
        fail(USAGE, "there is no terminal to ask for a password: name a file with it")
    try:
        return getpass.getpass(f"{prompt}: ")
    except EOFError:
        fail(USAGE, "no password was given")
