"""Settings of where a key-encryption key comes from; the server has one such section, the signer another."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import urlsplit

import msgspec

_VAULT_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_Positive = Annotated[int, msgspec.Meta(ge=1)]
SOURCES = ("file", "passphrase", "env", "vault", "aws-kms", "command")


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Passphrase(_Section, frozen=True):
    """The key file is sealed under a passphrase."""

    ask: Annotated[str, msgspec.Meta(pattern="^(terminal|descriptor|credential)$")] = "terminal"
    """Where the passphrase comes from."""
    descriptor: _Positive = 3
    """The file descriptor it is read from, to the end of a line."""
    credential: str = "certloom-passphrase"
    """The name of a systemd credential (``LoadCredential=``)."""


class Environment(_Section, frozen=True):
    """The key is in an environment variable."""

    variable: str = "CERTLOOM_DATA_KEY"


class Vault(_Section, frozen=True):
    """The key file holds what the transit engine of HashiCorp Vault or OpenBao encrypted."""

    address: str = ""
    """``https://host:port``."""
    mount: str = "transit"
    key: str = "certloom"
    """The transit key."""
    namespace: str = ""
    token_file: str = ""
    role_id: str = ""
    """Of an AppRole, instead of a token; with ``secret_id_file``."""
    secret_id_file: str = ""
    approle_mount: str = "approle"
    roots: str = ""
    """PEM file of trust anchors; empty means the system's."""
    seconds: _Positive = 60
    """How long to go on trying at a start."""


class KMS(_Section, frozen=True):
    """The key file holds what AWS KMS encrypted."""

    key: str = ""
    """Key id, alias or ARN: what a key is encrypted under."""
    region: str = ""
    """Empty: that of the ARN, or of ``AWS_REGION``."""
    endpoint: str = ""
    """Empty: ``https://kms.REGION.amazonaws.com``."""
    roots: str = ""
    seconds: _Positive = 60


class Command(_Section, frozen=True):
    """A program prints the key."""

    decrypt: tuple[str, ...] = ()
    """Program and arguments: gets the ciphertext on standard input, if there is one, and prints the key."""
    encrypt: tuple[str, ...] = ()
    """Gets the key on standard input and prints the ciphertext that is then kept in the key file."""
    seconds: _Positive = 60


class Secrets(_Section, frozen=True):
    """Where a key-encryption key comes from."""

    source: Annotated[str, msgspec.Meta(pattern=f"^({'|'.join(SOURCES)})$")] = "file"
    passphrase: Passphrase = Passphrase()
    env: Environment = Environment()
    vault: Vault = Vault()
    aws_kms: KMS = KMS()
    command: Command = Command()


def missing(settings: Secrets, source: str) -> Iterator[tuple[str, str]]:
    """What the settings of a source lack: where, and what."""
    match source:
        case "passphrase":
            if not re.fullmatch(r"[A-Za-z0-9_.:@-]{1,255}", settings.passphrase.credential):
                yield "passphrase.credential", "not the name of a credential"
        case "env":
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", settings.env.variable):
                yield "env.variable", "not the name of an environment variable"
        case "vault":
            yield from _vault(settings.vault)
        case "aws-kms":
            kms = settings.aws_kms
            if not kms.key:
                yield "aws_kms.key", f"needed because source is {source!r}"
            if kms.endpoint and not _is_https(kms.endpoint):
                yield "aws_kms.endpoint", "expected https://HOST:PORT"
        case "command":
            if not settings.command.decrypt:
                yield "command.decrypt", f"needed because source is {source!r}"
            for name in ("decrypt", "encrypt"):
                program = getattr(settings.command, name)
                if program and not os.path.isabs(program[0]):
                    yield f"command.{name}", "expected the program's absolute path"


def beyond_spawned(settings: Secrets) -> str:
    """What a signer cannot have when the server starts it; empty if there is nothing.

    The server starts it again whenever it ends, without anybody at a terminal; and what is in the server's
    own environment is not kept from the server.
    """
    if settings.source == "env":
        return "source: an environment variable for the signer is the server's to read; set signer.mode"
    if settings.source == "passphrase" and settings.passphrase.ask != "credential":
        return "passphrase.ask: a signer that the server starts can only have a credential; set signer.mode"
    return ""


def _vault(vault: Vault) -> Iterator[tuple[str, str]]:
    if not _is_https(vault.address):
        yield "vault.address", "expected https://HOST:PORT"
    for name in ("mount", "key", "approle_mount"):
        if not _VAULT_PATH.fullmatch(getattr(vault, name)):
            yield f"vault.{name}", "expected letters, digits, '_', '.', '-', and '/' between them"
    if vault.token_file and vault.role_id:
        yield "vault.role_id", "a token or an AppRole, not both"
    if not vault.token_file and not vault.role_id:
        yield "vault.token_file", "needed because source is 'vault', or role_id and secret_id_file"
    if vault.role_id and not vault.secret_id_file:
        yield "vault.secret_id_file", "needed because role_id is set"


def _is_https(text: str) -> bool:
    """An https URL without a path; plain http is for this machine alone, as an agent beside us offers it."""
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    if parts.path not in ("", "/") or parts.query or parts.fragment or parts.username or not host:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and host in ("127.0.0.1", "::1", "localhost"))
