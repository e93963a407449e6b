"""``certloom serve`` and ``certloom config``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from certloom.cli import show
from certloom.cli.options import UNREACHABLE, AsJSON, Config
from certloom.cli.reach import fail, read_settings
from certloom.cli.run import group, single

if TYPE_CHECKING:
    from certloom.server.app import Application
    from certloom.server.first_run import Welcome
    from certloom.settings import Settings

config = group("Look at the settings.")
serve = single()


@config.command("check")
def check(config: Config = None) -> None:
    """Read the settings and say what is wrong with them."""
    read_settings(config)
    print(f"{config or 'the defaults'}: good")


@config.command("show")
def show_settings(config: Config = None, json: AsJSON = False) -> None:
    """Print every setting as it is in force, defaults included; a database password is left out."""
    import msgspec

    settings = msgspec.to_builtins(read_settings(config))
    settings["database"]["url"] = _without_password(settings["database"]["url"])
    if json:
        show.as_json(settings)
        return
    _print_table(settings)


def _print_table(table: dict[str, object], prefix: str = "") -> None:
    """As TOML: plain values first, so that they do not fall into a table."""
    import re

    tables = {name: value for name, value in table.items() if isinstance(value, dict)}
    for name, value in table.items():
        if name not in tables and value is not None:
            print(f"{name if re.fullmatch('[A-Za-z0-9_-]+', name) else _toml(name)} = {_toml(value)}")
    for name, inner in tables.items():
        path = f"{prefix}{name if re.fullmatch('[A-Za-z0-9_-]+', name) else _toml(name)}"
        if not inner or any(not isinstance(value, dict) for value in inner.values()):
            print(f"\n[{path}]")
        _print_table(inner, f"{path}.")


def _toml(value: object) -> str:
    import json

    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _without_password(url: str) -> str:
    from urllib.parse import parse_qsl, urlencode, urlsplit

    parts = urlsplit(url)
    query = urlencode([(k, "***" if k == "password" else v) for k, v in parse_qsl(parts.query)], safe="/*")
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    shown = f"{name}:***{at}{host}" if colon else parts.netloc
    return parts._replace(netloc=shown, query=query).geturl() if at or query else url


@serve.command("serve")
def run_server(config: Config = None) -> None:
    """Run the server until SIGTERM or SIGINT. The first run makes a CA and all that it needs."""
    settings = read_settings(config)

    import asyncio

    import structlog
    import uvloop

    from certloom import logs
    from certloom.clock import SystemClock
    from certloom.secrets import SecretError
    from certloom.server.app import build, raise_file_limit
    from certloom.server.data_dir import DataDirError
    from certloom.server.first_run import take_welcome, told
    from certloom.server.starter import is_starter
    from certloom.server.tls import TLSError
    from certloom.settings import SettingsError
    from certloom.signing.process import SignerError
    from certloom.store import StoreError
    from certloom.unix_sockets import ListenError

    logs.configure(settings.logging)
    raise_file_limit()
    if is_starter(settings):
        _run_starter(settings)

    async def run() -> None:
        application = await build(settings, SystemClock())
        rooms = application.rooms

        async def greet() -> None:
            welcome = await take_welcome(rooms.store, rooms.clock, rooms.credentials)
            _print_banner(application, welcome)
            if welcome is not None:
                await told(rooms.store)

        await application.run(greet)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except (
        StoreError,
        DataDirError,
        ListenError,
        SecretError,
        SettingsError,
        SignerError,
        TLSError,
    ) as error:
        structlog.get_logger("certloom").error("not started", why=str(error))
        fail(UNREACHABLE, str(error))


def _run_starter(settings: Settings) -> NoReturn:
    """Be the one that starts server and signer, each as its user; ends as the server does."""
    import asyncio

    from certloom.server.starter import Starter
    from certloom.signing.process import SignerError

    try:
        starter = Starter(settings, [sys.executable, *sys.argv])
        starter.prepare()
        sys.exit(asyncio.run(starter.run()))
    except SignerError as error:
        fail(UNREACHABLE, str(error))


def _print_banner(application: Application, welcome: Welcome | None) -> None:
    rooms = application.rooms
    root = rooms.data_dir.root_pem
    origin = rooms.origins.https or rooms.origins.acme_plain
    directory = f"{origin}/acme/default/directory"
    lines = [f"Certloom is running. ACME directory: {directory}", f"Root certificate: {root}"]
    if rooms.origins.https:
        lines.append(f"EST: {rooms.origins.https}/.well-known/est")
    if rooms.origins.http:
        lines.append(f"CA certificates and CRLs: {rooms.origins.http}/")
        if rooms.origins.http.startswith("http://localhost"):
            lines.append(
                "  Every certificate carries that address for good, and nobody else can reach it: set"
                " public_http_url before you issue in earnest."
            )
    if welcome is not None:
        folder = rooms.data_dir.path.parent / "certbot-demo"
        lines += [
            "",
            "This was the first run. The following is shown once.",
            f"  Admin API token:  {welcome.admin_token}",
            f"  ACME credential:  {welcome.eab.id} (channel default, pre-authorised for {welcome.name})",
            "",
            f"A first certificate, for {welcome.name}:",
            "",
            _certbot(directory, root, folder, welcome),
            "",
            f"More credentials: {shlex.quote(sys.argv[0])} credential create --help",
        ]
    print("\n".join(lines), flush=True)


def _certbot(directory: str, root: Path, folder: Path, welcome: Welcome) -> str:
    from base64 import urlsafe_b64encode

    secret = urlsafe_b64encode(welcome.eab.mac_key).rstrip(b"=").decode()
    trust = f"REQUESTS_CA_BUNDLE={shlex.quote(str(root))} " if directory.startswith("https:") else ""
    command = [
        f"{trust}certbot certonly --non-interactive --agree-tos --register-unsafely-without-email",
        "--standalone",
        f"--server {directory}",
        f"--eab-kid {welcome.eab.id}",
        f"--eab-hmac-key {secret}",
        f"--domain {welcome.name}",
        f"--config-dir {shlex.quote(str(folder / 'config'))}",
        f"--work-dir {shlex.quote(str(folder / 'work'))}",
        f"--logs-dir {shlex.quote(str(folder / 'logs'))}",
    ]
    return "  " + " \\\n    ".join(command)
