"""Where a key-encryption key comes from, as settings say.

A key file names the source that it needs, and settings name the source that is expected. They have to agree:
whoever can only change the file cannot have a key of their own taken in place of one that is guarded.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from pathlib import Path
from typing import TypeVar

from certloom.secrets import environment, key_file, kms, passphrase, programs, vault
from certloom.secrets.asking import Ask, Passphrases
from certloom.secrets.data_key import DataKey
from certloom.secrets.errors import SecretError, WrongPassphrase
from certloom.secrets.key_file import (
    KEY,
    FromCommand,
    InEnvironment,
    InTheClear,
    UnderKMS,
    UnderPassphrase,
    UnderVault,
    Wrapped,
    key_id,
    source_of,
)
from certloom.settings.key_sources import Secrets, missing

_Form = TypeVar("_Form", bound=Wrapped)
_PURPOSE = "key file"


def load_key(settings: Secrets, path: Path, *, create: bool = True, ask: Ask | None = None) -> DataKey:
    """The key that belongs to the file at ``path``, from the source that settings name.

    When the file is not there a key is made and the file with it, unless ``create`` is false. ``ask``
    replaces the terminal. Blocks while a person types, argon2 works, or a service is waited for. Raises
    ``SecretError``.
    """
    return DataKey(Source(settings, path, ask).load(create=create))


def source_named_in(path: Path) -> str:
    """Which source the key file at ``path`` needs. Raises ``SecretError``."""
    return source_of(read_form(path))


def read_form(path: Path) -> InTheClear | Wrapped:
    """What the key file at ``path`` holds. Raises ``SecretError``."""
    try:
        return key_file.decode(key_file.read(path), path)
    except OSError as error:
        raise SecretError(f"cannot use the data key file {path}: {error.strerror}") from error


class Source:
    """Opens and makes the form in which one key file keeps its key."""

    def __init__(self, settings: Secrets, path: Path, ask: Ask | None = None) -> None:
        self._settings = settings
        self._path = path
        self._passphrases = Passphrases(settings.passphrase, path.name, ask)
        self._taken: bytes | None = None
        """The key from the environment, where it can be read only once."""

    def load(self, *, create: bool) -> bytes:
        """The key's octets. As ``load_key``."""
        if create:
            try:
                if not self._path.exists():
                    source = self._settings.source
                    self._check(source)
                    key_file.create(self._path, key_file.encode(self.wrap(self._new_key(source), source)))
            except OSError as error:
                raise SecretError(f"cannot use the data key file {self._path}: {error.strerror}") from error
        form = read_form(self._path)
        found = source_of(form)
        if found != self._settings.source:
            raise SecretError(
                f"the key in {self._path} is "
                + ("in the clear" if found == "file" else f"wrapped for source {found!r}")
                + f", but settings name source {self._settings.source!r}: `certloom key protect` changes the"
                " file to another source"
            )
        return self.unwrap(form)

    def unwrap(self, form: InTheClear | Wrapped) -> bytes:
        """The key's octets, which have the id that the file names. Raises ``SecretError``."""
        self._check(source_of(form))
        match form:
            case InTheClear():
                return form.key
            case UnderPassphrase():
                key = self._under_passphrase(form)
            case UnderVault():
                key = vault.decrypt(self._settings.vault, form.ciphertext)
            case UnderKMS():
                key = kms.decrypt(self._settings.aws_kms, form.id, form.ciphertext)
            case InEnvironment():
                key = self._from_environment()
            case FromCommand():
                key = self._from_command(form.ciphertext)
        if len(key) != KEY:
            raise SecretError(f"source {source_of(form)!r} gives {len(key)} octets; a key has {KEY}")
        if not hmac.compare_digest(key_id(key), bytes.fromhex(form.id)):
            raise SecretError(
                f"source {source_of(form)!r} gives another key than the one that {self._path} was made for"
            )
        return key

    def wrap(self, key: bytes, source: str) -> InTheClear | Wrapped:
        """The form that needs ``source``. Where the source keeps the key itself, it has to have this one.

        Raises ``SecretError``.
        """
        self._check(source)
        id = key_id(key).hex()
        match source:
            case "passphrase":
                chosen = self._passphrases.new()
                return UnderPassphrase(id, passphrase.seal(chosen, _PURPOSE + id, key))
            case "vault":
                return UnderVault(id, vault.encrypt(self._settings.vault, key))
            case "aws-kms":
                return UnderKMS(id, kms.encrypt(self._settings.aws_kms, id, key))
            case "env":
                self.unwrap(InEnvironment(id))
                return InEnvironment(id)
            case "command":
                command = self._settings.command
                kept = (
                    programs.run(command.encrypt, key_file.as_text(key), command.seconds)
                    if command.encrypt
                    else b""
                )
                self.unwrap(FromCommand(id, kept))
                return FromCommand(id, kept)
        return InTheClear(key)

    def _new_key(self, source: str) -> bytes:
        """The source's own key where it has one, else a random one."""
        if source == "env":
            return self._from_environment()
        if source == "command" and not self._settings.command.encrypt:
            return self._from_command(b"")
        return secrets.token_bytes(KEY)

    def _check(self, source: str) -> None:
        for where, what in missing(self._settings, source):
            raise SecretError(f"the settings of source {source!r} lack something: {where}: {what}")

    def _under_passphrase(self, form: UnderPassphrase) -> bytes:
        for left in reversed(range(self._passphrases.tries)):
            try:
                return passphrase.unseal(self._passphrases.current(), _PURPOSE + form.id, form.sealed)
            except WrongPassphrase:
                if not left:
                    raise WrongPassphrase(f"wrong passphrase for {self._path}") from None
        raise AssertionError

    def _from_environment(self) -> bytes:
        if self._taken is None:
            variable = self._settings.env.variable
            text = environment.take(variable)
            self._taken = _key(
                text.encode("utf-8", "surrogateescape"), f"the environment variable {variable}"
            )
        return self._taken

    def _from_command(self, ciphertext: bytes) -> bytes:
        command = self._settings.command
        return _key(
            programs.run(command.decrypt, ciphertext, command.seconds), f"what {command.decrypt[0]} prints"
        )


def _key(text: bytes, what: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != KEY:
        raise SecretError(f"{what} is not the base64 of {KEY} octets")
    return key
