"""``certloom signer``: the process that holds the authorities' keys, and what it may do.

These commands work on the signer's own files, as its user and on its machine: no server can do what they do.
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from certloom.cli import show
from certloom.cli.options import BAD_SETTINGS, REFUSED, UNREACHABLE, AsJSON, Config
from certloom.cli.reach import fail, read_settings
from certloom.cli.run import group

if TYPE_CHECKING:
    from pathlib import Path

    from certloom.settings import Settings
    from certloom.signing.limits import Limit, LimitsFile

app = group("The process that holds the authorities' keys, and what it may do.")
limits = group("What the signer does not do although a server asks.")
app.add_typer(limits, name="limits")

Authority = Annotated[str, typer.Argument(help="An authority, or `default`.")]
_SPAN = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@app.command("run")
def run_signer(config: Config = None) -> None:
    """Run the signer by itself, until SIGTERM: for servers whose `signer.mode` is `external`."""
    settings = read_settings(config)

    import asyncio
    import os

    import msgspec
    import uvloop

    from certloom import logs
    from certloom.clock import SystemClock
    from certloom.server.data_dir import DataDir
    from certloom.server.signer import task, user_id
    from certloom.signing.process import SignerError, run

    logs.configure(settings.logging)
    try:
        users = tuple(user_id(name) for name in settings.signer.server_users)
        own = task(settings, DataDir(settings), server_user=os.geteuid(), mode=0o660 if users else 0o600)
        own = msgspec.structs.replace(own, server_users=users or own.server_users)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(own, SystemClock(), lambda: print("the signer is ready", file=sys.stderr)))
    except SignerError as error:
        fail(BAD_SETTINGS, str(error))


@app.command("status")
def status(config: Config = None, json: AsJSON = False) -> None:
    """Whether the signer answers, whether it is isolated from the server, and which keys it knows."""
    settings = read_settings(config)

    import asyncio

    import msgspec

    from certloom.server.data_dir import DataDir
    from certloom.server.signer import socket_path, user_id
    from certloom.signing import SigningError
    from certloom.signing.client import Client
    from certloom.signing.process import SignerError

    name = next(iter(filter(None, (settings.user, *settings.signer.server_users))), "")
    try:
        server_user = user_id(name) if name else None
    except SignerError as error:
        fail(BAD_SETTINGS, str(error))

    async def ask() -> Any:
        client = Client(socket_path(settings, DataDir(settings)), patience=0)
        try:
            return await client.status(server_user)
        finally:
            await client.close()

    try:
        found = msgspec.to_builtins(asyncio.run(ask()))
    except SigningError as error:
        fail(UNREACHABLE, str(error))
    if json:
        show.as_json(found)
        return
    apart = "isolated" if found["isolated"] else f"not isolated: {found['why']}"
    show.line(f"process {found['pid']}, {apart}")
    keys = [{**key, "token": key["token"] or "(software)"} for key in found["keys"]]
    show.table(keys, ("authority", "purpose", "algorithm", "token", "trouble", "id"), "no keys")


@limits.command("show")
def show_limits(config: Config = None, json: AsJSON = False) -> None:
    """Print the limits in force."""
    found = _read(_path(read_settings(config)))

    import msgspec

    from certloom.signing.limits import render

    if json:
        show.as_json(msgspec.to_builtins(found))
    else:
        print(render(found), end="")


@limits.command("set")
def set_limits(
    authority: Authority,
    longest_days: Annotated[int | None, typer.Option(help="Of an end entity's certificate.", min=1)] = None,
    name: Annotated[
        list[str] | None,
        typer.Option(help="A domain with all under it, or an address range; `*`: any. Repeat for more."),
    ] = None,
    usage: Annotated[
        list[str] | None,
        typer.Option(help="An extended key usage, by name or OID; `*`: any. Repeat for more."),
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="Certificates a minute; 0: any number.", min=0)
    ] = None,
    ca_certificates: Annotated[
        str | None, typer.Option(help="`never` or `always`: whether CA certificates are signed.")
    ] = None,
    config: Config = None,
) -> None:
    """Change the limits of an authority, or those of every authority that has none of its own."""
    wanted = {
        "longest_days": longest_days,
        "names": tuple(name) if name else None,
        "usages": tuple(usage) if usage else None,
        "certificates_per_minute": per_minute,
        "ca_certificates": ca_certificates,
    }
    wanted = {key: value for key, value in wanted.items() if value is not None}
    if not wanted:
        raise typer.BadParameter("say what to change")
    _change(read_settings(config), authority, wanted)


@app.command("permit")
def permit(
    authority: Annotated[str, typer.Argument(help="The authority whose key may sign CA certificates.")],
    span: Annotated[str, typer.Option("--for", help="For how long, such as 10m or 2h.")] = "10m",
    config: Config = None,
) -> None:
    """Let an authority sign CA certificates for a while: a new issuing CA, a rollover, a
    cross-certificate."""
    match = _SPAN.fullmatch(span)
    if match is None:
        raise typer.BadParameter("expected a number and s, m, h or d, such as 10m", param_hint="--for")
    until = datetime.now(UTC).replace(microsecond=0) + timedelta(**{_UNITS[match[2]]: int(match[1])})
    _change(read_settings(config), authority, {"ca_certificates_until": until})


@app.command("pin")
def pin(config: Config = None) -> None:
    """Let PINs be tried again that tokens have called wrong: after you have looked how many tries are
    left."""
    settings = read_settings(config)

    from certloom.server.data_dir import DataDir
    from certloom.server.signer import directory
    from certloom.signing.tokens import PINS

    path = directory(settings, DataDir(settings)) / PINS
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        fail(REFUSED, f"{path}: {error.strerror}")
    show.line("PINs may be tried again, once each")


def _path(settings: Settings) -> Path:
    from certloom.server.data_dir import DataDir
    from certloom.server.signer import directory
    from certloom.signing.process import LIMITS

    return directory(settings, DataDir(settings)) / LIMITS


def _read(path: Path) -> LimitsFile:
    from certloom.signing.limits import LimitsError, parse

    try:
        return parse(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, LimitsError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        fail(REFUSED, f"the limits file {path} cannot be read: {why}")


def _change(settings: Settings, authority: str, wanted: dict[str, Any]) -> None:
    import msgspec

    from certloom.server.data_dir import write_atomically
    from certloom.signing.limits import Limit, LimitsError, parse, render

    path = _path(settings)
    found = _read(path)
    now: Limit = found.default if authority == "default" else found.authority.get(authority, Limit())
    changed = msgspec.structs.replace(now, **wanted)
    if authority == "default":
        new = msgspec.structs.replace(found, default=changed)
    else:
        new = msgspec.structs.replace(found, authority={**found.authority, authority: changed})
    text = render(new)
    try:
        parse(text)
        owner = path.stat()
        write_atomically(path, text.encode(), 0o600)
        _keep_owner(path, owner.st_uid, owner.st_gid)
    except LimitsError as error:
        fail(REFUSED, str(error))
    except OSError as error:
        fail(REFUSED, f"{path}: {error.strerror}")
    show.line(f"{authority}: " + ", ".join(f"{key} = {value}" for key, value in wanted.items()))


def _keep_owner(path: Path, uid: int, gid: int) -> None:
    """Root writes for the signer's user."""
    import os

    if os.geteuid() == 0:
        os.chown(path, uid, gid)
