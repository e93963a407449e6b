"""Carrying an operation to whoever can do it: the running server, else this process."""

from __future__ import annotations

import json
import os
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from certloom.cli.options import BAD_SETTINGS, REFUSED, UNREACHABLE

if TYPE_CHECKING:
    from certloom.settings import Settings


def fail(status: int, message: str) -> NoReturn:
    """Say why on standard error and end."""
    print(f"certloom: {message}", file=sys.stderr)
    raise typer.Exit(status)


def read_settings(config: Path | None) -> Settings:
    """The settings, or the end with all that is wrong with them."""
    from certloom.settings import SettingsError, load

    try:
        return load(config)
    except SettingsError as error:
        lines = "".join(f"\n  {problem}" for problem in error.problems)
        fail(BAD_SETTINGS, f"{error.source}:{lines}")


def perform(config: Path | None, operation: str, /, **arguments: Any) -> Any:
    """Run an operation and answer its result, or end with the fitting exit status."""
    from certloom.server.data_dir import DataDir

    settings = read_settings(config)
    data_dir = DataDir(settings)
    body = json.dumps(arguments)
    answer = _ask_server(data_dir.admin_socket, operation, body)
    if answer is not None:
        status, result = answer
        if status == 200:
            return result
        error = result.get("error", {}) if isinstance(result, dict) else {}
        fail(REFUSED, error.get("message") or f"the server answered {status}")
    if not data_dir.data_key.exists():
        fail(
            UNREACHABLE,
            f"there is no installation in {data_dir.path}: run `certloom serve` once, or check -c",
        )
    return _perform_here(settings, operation, body)


def _ask_server(path: Path, name: str, body: str) -> tuple[int, Any] | None:
    """(status, answer) of the running server, or None where there is none."""
    from certloom.server.sockets import connect_unix

    class Connection(HTTPConnection):
        def connect(self) -> None:
            self.sock = connect_unix(path)

    connection = Connection("localhost")
    try:
        connection.connect()
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        fail(UNREACHABLE, f"cannot reach the server through {path}: {error.strerror}")
    try:
        connection.request("POST", f"/operations/{name}", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    except (OSError, HTTPException, ValueError) as error:
        fail(UNREACHABLE, f"the server broke off: {error}; whether it did what was asked is not known")
    finally:
        connection.close()


def _perform_here(settings: Settings, name: str, body: str) -> Any:
    import asyncio

    import msgspec

    from certloom.audit import Origin
    from certloom.clock import SystemClock
    from certloom.secrets import SecretError
    from certloom.server import logs
    from certloom.server.admin import actor
    from certloom.server.data_dir import DataDirError
    from certloom.server.operations import OperationError
    from certloom.server.operations import perform as perform_operation
    from certloom.server.rooms import open_rooms
    from certloom.settings.schema import Logging
    from certloom.store import StoreError

    logs.configure(Logging(level="error", format="text"))

    async def run() -> Any:
        rooms = await open_rooms(settings, SystemClock())
        try:
            return await perform_operation(rooms, name, body.encode(), Origin(actor(os.getuid())))
        finally:
            await rooms.close()

    try:
        return msgspec.to_builtins(asyncio.run(run()))
    except OperationError as error:
        fail(REFUSED, str(error))
    except (StoreError, DataDirError, SecretError) as error:
        fail(UNREACHABLE, str(error))
