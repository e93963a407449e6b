"""``certloom``: the command line.

Only the table below is read at the start: a command's module is imported when the command is meant, and
whatever takes long to import by the function that needs it.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from certloom import __version__
from certloom.cli.options import EPILOG, NOT_GIVEN


class _Entry(NamedTuple):
    module: str
    part: str
    panel: str
    help: str


_ASK, _RULE, _WHO, _RUN = "Certificates", "Configuration", "People and secrets", "Service"
TREE = {
    "request": _Entry("requests", "app", _ASK, "Ask for certificates, and follow what was asked for."),
    "approval": _Entry("approvals", "app", _ASK, "What waits for people: look, approve, deny."),
    "certificate": _Entry("certificates", "app", _ASK, "The inventory."),
    "key": _Entry("key_sources", "key", _ASK, "Public keys, and the keys that encrypt keys."),
    "apply": _Entry(
        "configuration", "apply", _RULE, "Make profiles, channels and more what a file declares."
    ),
    "plan": _Entry("plans", "app", _RULE, "Say what a change would do to the inventory."),
    "profile": _Entry("configuration", "profile", _RULE, "Certificate profiles."),
    "channel": _Entry("configuration", "channel", _RULE, "Enrolment addresses."),
    "anchors": _Entry("anchors", "app", _RULE, "Trust anchors: strangers' CAs whose clients are let in."),
    "authority": _Entry("authorities", "app", _RULE, "CAs that issue."),
    "policy": _Entry(
        "policy", "app", _RULE, "Rules above profiles, and why a request was decided as it was."
    ),
    "webhook": _Entry("webhooks", "app", _RULE, "Who is told over HTTP."),
    "credential": _Entry("credentials", "app", _WHO, "What requesters prove themselves with."),
    "token": _Entry("credentials", "token", _WHO, "API tokens."),
    "person": _Entry("people", "person", _WHO, "People, and what they may do."),
    "team": _Entry("people", "team", _WHO, "Teams."),
    "role": _Entry("people", "role", _WHO, "Roles, built in and custom."),
    "login": _Entry("access", "login", _WHO, "Begin a session with a server, as a person."),
    "logout": _Entry("access", "logout", _WHO, "End the session with a server."),
    "whoami": _Entry("access", "whoami", _WHO, "Whom the server takes you for, and what you may do."),
    "serve": _Entry("server", "serve", _RUN, "Run the server until SIGTERM or SIGINT."),
    "signer": _Entry(
        "signer", "app", _RUN, "The process that holds the authorities' keys, and what it may do."
    ),
    "status": _Entry("system", "status", _RUN, "What runs, and whether it is well."),
    "config": _Entry("server", "config", _RUN, "Look at the settings."),
    "job": _Entry("system", "job", _RUN, "Background work."),
    "audit": _Entry("audit", "app", _RUN, "The audit log."),
    "backup": _Entry("upkeep", "backup", _RUN, "Back up database and keys while the server runs."),
    "restore": _Entry("upkeep", "restore", _RUN, "Put a backup in place. Stop every server first."),
    "ceremony": _Entry("ceremony", "app", _RUN, "Key ceremonies for an offline root."),
    "version": _Entry("upkeep", "version", _RUN, "Print the version."),
}


class _Tree(TyperGroup):
    """The commands of the table, each loaded when it is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(TREE)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Enough of a command for a page of help."""
        entry = TREE.get(cmd_name)
        return entry and TyperCommand(cmd_name, help=entry.help, rich_help_panel=entry.panel)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and load(str(name)), rest


def load(name: str) -> Any:
    """A command of the table, with all that it has."""
    from importlib import import_module

    entry = TREE[name]
    command: Any = typer.main.get_command(getattr(import_module(f"certloom.cli.{entry.module}"), entry.part))
    command.name = name
    return command


app = typer.Typer(
    name="certloom",
    cls=_Tree,
    help="Certificates through one pipeline: enrolment, approvals, local CA, inventory.",
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "default_map": {**NOT_GIVEN, "install_completion": False, "show_completion": False},
    },
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
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
