"""``certloom``: the command line. Whatever takes long to import is imported by the command that needs it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from certloom import __version__
from certloom.cli import certificates, configuration, credentials, requests, server, upkeep
from certloom.cli.options import EPILOG

app = typer.Typer(
    name="certloom",
    help="Certificates through one pipeline: ACME server, local CA, inventory.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(server.serve)
app.add_typer(server.config, name="config")
app.command("apply")(configuration.apply)
app.add_typer(configuration.profile, name="profile")
app.add_typer(configuration.channel, name="channel")
app.add_typer(configuration.authority, name="authority")
app.add_typer(credentials.app, name="credential")
app.add_typer(certificates.app, name="certificate")
app.add_typer(certificates.key, name="key")
app.add_typer(requests.app, name="request")
app.add_typer(upkeep.audit, name="audit")
app.command("backup")(upkeep.backup)
app.command("restore")(upkeep.restore)


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def _print_version(wanted: bool) -> None:
    if wanted:
        version()
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The console script."""
    try:
        app()
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does.
        sys.stderr.close()
        sys.exit(0)
