"""Which way a command reaches the API, and what it proves itself with."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from certloom.cli.options import BAD_SETTINGS, UNREACHABLE, USAGE
from certloom.cli.terminal import fit_lines

if TYPE_CHECKING:
    from certloom.cli.carriers import Carrier
    from certloom.cli.client import Client
    from certloom.settings import Settings

_LONGEST_TOKEN = 4096


@dataclass(frozen=True)
class Connection:
    """What the connection options say."""

    config: Path | None = None
    server: str | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def fail(status: int, message: str) -> NoReturn:
    """Say why on standard error and end."""
    print(f"certloom: {fit_lines(message)}", file=sys.stderr)
    raise typer.Exit(status)


def read_settings(config: Path | None) -> Settings:
    """The settings, or the end with all that is wrong with them."""
    from certloom.settings import SettingsError, load

    try:
        return load(config)
    except SettingsError as error:
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        fail(BAD_SETTINGS, f"{error.source}:{lines}")


def connect(connection: Connection, *, anonymous: bool = False) -> Client:
    """A client of the server that is meant: elsewhere, on this machine, or none and the work is done here.

    An ``anonymous`` one proves itself with nothing. Raises ``Unreachable``; ends for options and files that
    are of no use.
    """
    from certloom.cli.client import Client

    if connection.server:
        return _elsewhere(connection.server, connection, anonymous)
    for option, value in (
        ("--token-file", connection.token_file),
        ("--cert", connection.cert),
        ("--ca-file", connection.ca_file),
    ):
        if value is not None:
            fail(USAGE, f"{option} is for a server elsewhere: name it with --server or CERTLOOM_SERVER")
    return Client(_on_this_machine(connection.config))


def _elsewhere(server: str, connection: Connection, anonymous: bool) -> Client:
    from certloom.cli import sessions
    from certloom.cli.carriers import BadServer, over_https
    from certloom.cli.client import Client

    session = sessions.find(server)
    ca_file = connection.ca_file
    if ca_file is None and session is not None and session.get("ca_file"):
        ca_file = Path(session["ca_file"])
    try:
        carrier = over_https(server, ca_file, connection.cert, connection.key)
        token = "" if anonymous else _secret(connection)
    except BadServer as error:
        fail(USAGE, str(error))
    if token:
        return Client(carrier, {"Authorization": f"Bearer {token}"})
    if session is not None and connection.cert is None and not anonymous:
        # What a browser says of its own pages: no other site has made this client ask.
        return Client(carrier, {"Cookie": session["cookie"], "Sec-Fetch-Site": "same-origin"})
    return Client(carrier)


def _secret(connection: Connection) -> str:
    """The API token to use; none where a client certificate does it. Raises ``BadServer``."""
    from certloom.cli.carriers import BadServer

    if connection.token_file is not None:
        try:
            text = read_secret(connection.token_file)
        except OSError as error:
            raise BadServer(f"{connection.token_file}: {error.strerror}") from None
    else:
        text = "" if connection.cert is not None else os.environ.get("CERTLOOM_TOKEN", "").strip()
    if not text.isascii() or not text.isprintable() or " " in text or len(text) > _LONGEST_TOKEN:
        raise BadServer(f"{connection.token_file or 'CERTLOOM_TOKEN'} holds no token")
    return text


def read_secret(file: Path) -> str:
    """The first line of a file, or the next of standard input for ``-``. Raises ``OSError``."""
    if str(file) == "-":
        return sys.stdin.readline(_LONGEST_TOKEN + 2).rstrip("\r\n")
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.readline(_LONGEST_TOKEN + 2).rstrip("\r\n")


def _on_this_machine(config: Path | None) -> Carrier:
    from certloom.cli.carriers import over_unix
    from certloom.server.data_dir import DataDir

    settings = read_settings(config)
    data_dir = DataDir(settings)
    carrier = over_unix(data_dir.admin_socket)
    if carrier is not None:
        return carrier
    if not data_dir.data_key.exists():
        fail(
            UNREACHABLE,
            f"there is no installation in {data_dir.path}: run `certloom serve` once, check -c,"
            " or name a server elsewhere with --server",
        )
    from certloom.cli.in_process import InProcess

    return InProcess(settings)
