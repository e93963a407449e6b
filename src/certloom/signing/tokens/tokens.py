"""Asking tokens: one process for each, restarted when it must be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import structlog

from certloom.secrets import DataKey
from certloom.settings.tokens import Token
from certloom.signing.base import Purpose, SigningRefused, SigningUnavailable
from certloom.signing.tokens import messages
from certloom.signing.tokens.pins import PINError, TriedPINs, read_pin
from certloom.signing.tokens.uri import BadURI, TokenURI, parse

_log = structlog.get_logger(__name__)

PINS = "signer-pins.json"
"""The file, in the signer's directory, of what tokens said of their PINs."""
_PAUSES = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
_PATIENCE = 10.0
"""Seconds that an operation waits for a token that is away: its process may be starting again."""


class _Gone(Exception):
    """The token, or the process that has its module, is not to be had just now."""


class _Locked(Exception):
    """The PIN is not tried."""


class Tokens:
    """All tokens of the settings. Operations raise ``SigningRefused`` or ``SigningUnavailable``."""

    def __init__(
        self,
        settings: dict[str, Token],
        directory: Path,
        key: DataKey,
        *,
        patience: float = _PATIENCE,
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "certloom.signing.tokens.worker"),
    ) -> None:
        """``directory`` is the signer's, where tried PINs are remembered, sealed under ``key``."""
        tried = TriedPINs(directory / PINS, key)
        self._tokens = [_Token(name, each, tried, patience, command) for name, each in settings.items()]

    async def generate(self, uri: str, algorithm: str, id: str, purpose: Purpose) -> tuple[bytes, str]:
        """A new key: its SubjectPublicKeyInfo, and the URI that names it and nothing else.

        Its label is the URI's ``object`` or else ``id``; its CKA_ID is made of ``id``.
        """
        wanted, token = self._which(uri)
        label = wanted.object or f"certloom-{id}"
        octets = wanted.id or (bytes.fromhex(id) if _is_hex(id) else id.encode())
        spki, found = await token.ask(messages.Generate(algorithm, label, octets, purpose), again=False)
        return spki, found.decode()

    async def find(self, uri: str) -> tuple[bytes, str]:
        """The key that a URI names: its SubjectPublicKeyInfo, and the URI that names it and nothing else."""
        wanted, token = self._which(uri)
        spki, found = await token.ask(messages.Find(wanted))
        return spki, found.decode()

    async def sign_many(self, uri: str, algorithm: str, data: Sequence[bytes]) -> list[bytes]:
        """A signature over each, in the form that X.509 has."""
        wanted, token = self._which(uri)
        return list(await token.ask(messages.Sign(wanted, algorithm, tuple(data))))

    async def decrypt(
        self, uri: str, ciphertext: bytes, padding: Literal["pkcs1", "oaep-sha1", "oaep-sha256"]
    ) -> bytes:
        """RSA decryption."""
        wanted, token = self._which(uri)
        (plain,) = await token.ask(messages.Decrypt(wanted, ciphertext, padding))
        return plain

    def trouble(self, uri: str) -> str:
        """Why the token cannot be used just now; empty while it can."""
        try:
            return self._which(uri)[1].trouble
        except SigningRefused as error:
            return str(error)

    def clear(self) -> None:
        """Try the PINs again: an operator has looked."""
        for token in self._tokens:
            token.clear()

    async def close(self) -> None:
        """End the processes."""
        await asyncio.gather(*(token.close() for token in self._tokens))

    def _which(self, text: str) -> tuple[TokenURI, _Token]:
        """What is wanted, and the token it is in."""
        try:
            uri = parse(text)
        except BadURI as error:
            raise SigningRefused("bad-request", str(error)) from None
        found = [token for token in self._tokens if token.is_meant(uri)]
        if len(found) != 1:
            which = "no token of the settings is" if not found else "several tokens of the settings are"
            raise SigningRefused("bad-request", f"{which} meant by {uri}")
        return msgspec.structs.replace(uri, token="", serial=""), found[0]


def _is_hex(text: str) -> bool:
    try:
        return bool(bytes.fromhex(text))
    except ValueError:
        return False


class _Token:
    """One token, and the process that has its module."""

    def __init__(
        self, name: str, settings: Token, tried: TriedPINs, patience: float, command: tuple[str, ...]
    ) -> None:
        self._name = name
        self._label = settings.token or name
        self._settings = settings
        self._tried = tried
        self._patience = patience
        self._command = command
        self._process: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()
        self._failures = 0
        self._serial = ""
        self.trouble = ""

    def is_meant(self, uri: TokenURI) -> bool:
        """Whether a URI may mean this one."""
        if uri.token and uri.token != self._label:
            return False
        known = self._settings.serial or self._serial
        return not uri.serial or not known or uri.serial == known

    async def ask(self, request: messages.Request, *, again: bool = True) -> tuple[bytes, ...]:
        """Have one thing done. ``again``: doing it twice does no harm, should the token go away meanwhile."""
        until = time.monotonic() + self._patience
        async with self._turn:
            while True:
                try:
                    await self._ready()
                except _Locked as error:
                    self.trouble = str(error)
                    raise SigningUnavailable("token-locked", str(error)) from None
                except _Gone as error:
                    await self._after_failure(str(error), until)
                    continue
                try:
                    answer = await self._say(request)
                except _Gone as error:
                    await self._end()
                    if not again:
                        self.trouble = str(error)
                        raise SigningUnavailable("token-unavailable", str(error)) from None
                    await self._after_failure(str(error), until)
                    continue
                self._failures, self.trouble = 0, ""
                if isinstance(answer, messages.Failed):
                    raise SigningRefused("bad-request", f"token {self._label}: {answer.message}")
                assert isinstance(answer, messages.Done)
                return answer.values

    async def _after_failure(self, why: str, until: float) -> None:
        """Wait before trying again, or raise that it is of no use now."""
        await self._end()
        self.trouble = why
        pause = _PAUSES[min(self._failures, len(_PAUSES) - 1)]
        self._failures += 1
        if time.monotonic() + pause > until:
            _log.warning("token.unavailable", label=self._label, why=why)
            raise SigningUnavailable("token-unavailable", f"token {self._label}: {why}")
        await asyncio.sleep(pause)

    async def _ready(self) -> None:
        """A process that has the module loaded and is logged in. Raises ``_Gone`` or ``_Locked``."""
        if self._process is not None and self._process.returncode is None:
            return
        environment = {k: v for k, v in os.environ.items() if k != self._settings.pin_variable}
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env=environment,
            )
        except OSError as error:
            raise _Gone(f"the module's process cannot be started: {error}") from None
        settings = self._settings
        opened = await self._say(messages.Open(settings.module, self._label, settings.serial))
        if isinstance(opened, messages.Failed):
            raise _Gone(f"{settings.module}: {opened.message}")
        assert isinstance(opened, messages.Opened)
        self._serial = opened.serial
        if opened.needs_login:
            await self._log_in(opened)
        _log.info("token.ready", label=self._label, serial=opened.serial, pid=self._process.pid)

    async def _log_in(self, token: messages.Opened) -> None:
        """Once with each PIN, and not at all where that could lock the token."""
        try:
            pin = read_pin(self._name, self._settings)
        except PINError as error:
            await self._end()
            raise _Locked(str(error)) from None
        forbidden = self._tried.forbids(token.serial, pin, count_low=token.count_low)
        if token.locked or token.final_try or forbidden:
            await self._end()
            why = "it has called this PIN wrong, or may have"
            if token.locked:
                why = "its PIN is locked"
            elif token.final_try:
                why = "one more wrong PIN would lock it"
            raise _Locked(f"token {self._label}: {why}; `certloom signer pin` on its machine tries again")
        try:
            self._tried.note(token.serial, pin, "trying")
        except OSError as error:
            await self._end()
            raise _Locked(f"what PINs were tried cannot be recorded: {error}") from None
        answer = await self._say(messages.LogIn(pin))
        if isinstance(answer, messages.Failed) and answer.kind == "pin":
            await self._end()
            self._tried.note(token.serial, pin, "wrong")
            _log.error("token.wrong_pin", label=self._label)
            raise _Locked(f"token {self._label}: {answer.message}; it is not tried again")
        if isinstance(answer, messages.Failed):
            raise _Gone(answer.message)
        self._tried.note(token.serial, pin, "right")

    async def _say(self, request: messages.Request) -> messages.Answer:
        """One request and its answer. Raises ``_Gone``."""
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        data = messages.encode(request)
        try:
            async with asyncio.timeout(self._settings.seconds):
                process.stdin.write(len(data).to_bytes(4, "big") + data)
                await process.stdin.drain()
                length = int.from_bytes(await process.stdout.readexactly(4), "big")
                if length > messages.MOST_OCTETS:
                    raise _Gone("the module's process said too much")
                answer: messages.Answer = messages.decode_answer(await process.stdout.readexactly(length))
        except TimeoutError:
            await self._end()
            raise _Gone(f"the token did not answer within {self._settings.seconds} seconds") from None
        except (OSError, asyncio.IncompleteReadError, msgspec.DecodeError):
            await self._end()
            raise _Gone("the module's process has ended") from None
        except asyncio.CancelledError:
            # Its answer would be taken for that to the next request.
            await self._end()
            raise
        if isinstance(answer, messages.Failed) and answer.kind == "gone":
            raise _Gone(answer.message)
        return answer

    def clear(self) -> None:
        """Forget which PINs were wrong."""
        self._tried.forget()

    async def close(self) -> None:
        await self._end()

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
