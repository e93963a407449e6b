"""People's passwords: argon2id (RFC 9106) with 19 MiB, two passes, one lane; about 25 ms of one core each.

Hashing runs on two threads of its own and few may wait for them, so that a flood of logins costs the machine
two cores' worth at most, 38 MiB, and never the event loop.
"""

from __future__ import annotations

import asyncio
import secrets
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

LEAST = 12
"""Characters."""
MOST = 256
_THREADS = 2
_MOST_WAITING = 32

R = TypeVar("R")


class PasswordRefused(ValueError):
    """This cannot be a password; the message says why, and never what it was."""


class Busy(Exception):
    """Too many passwords are being checked at the moment."""


class Passwords:
    """Hashes and verifies. One per process."""

    def __init__(self) -> None:
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)
        self._threads = ThreadPoolExecutor(_THREADS, "password")
        self._under_way = 0
        # Verified where there is no account or no password, so that the time taken tells nothing.
        self._nobodys = self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """The PHC string to keep. Raises ``Busy``."""
        text = normal(password)
        return await self._run(lambda: self._hasher.hash(text))

    async def verify(self, kept: str | None, password: str) -> bool:
        """Whether it is the password; as slowly where there is none. Raises ``Busy``."""
        text = normal(password[: MOST + 1])
        return await self._run(lambda: self._verify(kept or self._nobodys, text)) and kept is not None

    def _verify(self, kept: str, text: str) -> bool:
        try:
            return self._hasher.verify(kept, text)
        except (VerificationError, InvalidHashError):
            return False

    async def _run(self, work: Callable[[], R]) -> R:
        if self._under_way >= _THREADS + _MOST_WAITING:
            raise Busy("too many logins at the moment")
        self._under_way += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def normal(password: str) -> str:
    """The same password from every keyboard (RFC 8265 section 4.2: NFC)."""
    return unicodedata.normalize("NFC", password)


def check(password: str, *, name: str) -> None:
    """Raises ``PasswordRefused`` for what is too short, too long, one letter only, or holds the name."""
    if len(password) < LEAST:
        raise PasswordRefused(f"a password has at least {LEAST} characters")
    if len(password) > MOST:
        raise PasswordRefused(f"a password has at most {MOST} characters")
    if len(set(password)) < 4:
        raise PasswordRefused("a password has at least four different characters")
    if len(name) >= 4 and name.casefold() in password.casefold():
        raise PasswordRefused("a password does not hold the account's name")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise PasswordRefused("this is not text") from None
