"""One run of a command: its way to the API, its way of showing things, and its exit status.

``command`` registers a function that gets a ``Run`` first. The options that every such command has (the
connection's, and ``--json``) are added to its own, and what the API refuses becomes an exit status.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import typer

from certloom.cli import options, reach, show
from certloom.cli.options import NOT_ALLOWED, REFUSED, UNREACHABLE
from certloom.cli.reach import fail

if TYPE_CHECKING:
    from certloom.cli.client import Client, Problem

F = TypeVar("F", bound=Callable[..., None])

_SHARED: dict[str, tuple[Any, Any]] = {
    "json": (options.AsJSON, False),
    "config": (options.Config, None),
    "server": (options.Server, None),
    "token_file": (options.TokenFile, None),
    "ca_file": (options.CAFile, None),
    "cert": (options.Cert, None),
    "key": (options.Key, None),
}


class Run:
    """What a command works with."""

    def __init__(self, connection: reach.Connection, json: bool) -> None:
        self.connection = connection
        self.json = json
        self.anonymous = False
        """Whether to ask as nobody: before one is logged in."""

    @cached_property
    def client(self) -> Client:
        """The API, reached at first use."""
        return reach.connect(self.connection, anonymous=self.anonymous)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()

    def table(self, rows: Iterable[dict[str, Any]], columns: Sequence[str], nothing: str) -> None:
        """A line for each row with the named columns; or all there is, as JSON."""
        if self.json:
            show.as_json(list(rows))
        else:
            show.table(list(rows), columns, nothing)

    def record(self, thing: Any, first: Sequence[str] = ()) -> None:
        """One thing with all its fields, or as JSON."""
        if self.json:
            show.as_json(thing)
        else:
            show.record(thing or {}, first)

    def say(self, thing: Any, line: str) -> None:
        """What was done, in a line; or the thing itself as JSON."""
        if self.json:
            show.as_json(thing)
        else:
            show.line(line)


def group(help: str) -> typer.Typer:
    """A group of commands."""
    made = typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"default_map": options.NOT_GIVEN},
    )
    # Without this, a group of one command would be that command.
    made.callback(help=help)(lambda: None)
    return made


def single() -> typer.Typer:
    """The place of a command that stands alone."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def command(app: typer.Typer, name: str, **settings: Any) -> Callable[[F], F]:
    """Register ``function(run, ...)`` as a command that asks the API."""

    def register(function: F) -> F:
        own = inspect.signature(function, eval_str=True)
        shared = [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for key, (annotation, default) in _SHARED.items()
        ]
        parameters = [
            each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in [*own.parameters.values()][1:]
        ]

        def started(**values: Any) -> None:
            json = values.pop("json")
            connection = reach.Connection(**{key: values.pop(key) for key in _SHARED if key != "json"})
            run = Run(connection, json)
            try:
                perform(run, lambda: function(run, **values))
            finally:
                run.close()

        started.__doc__ = function.__doc__
        started.__dict__["__signature__"] = own.replace(parameters=[*parameters, *shared])
        app.command(name, **settings)(started)
        return function

    return register


def perform(run: Run, work: Callable[[], None]) -> None:
    """Do it, or end with the status that says why not."""
    from certloom.cli.carriers import Unreachable
    from certloom.cli.client import Problem

    try:
        work()
    except Problem as problem:
        _refused(run, problem)
    except Unreachable as error:
        fail(UNREACHABLE, str(error))


def _refused(run: Run, problem: Problem) -> NoReturn:
    status = REFUSED
    if problem.status in (401, 403):
        status = NOT_ALLOWED
    elif problem.status >= 500 or problem.status == 429:
        status = UNREACHABLE
    if run.json:
        print(show.json_text(problem.document), file=sys.stderr)
        raise typer.Exit(status)
    if problem.status == 401 and run.connection.server:
        fail(status, f"{problem}\n  log in with `certloom login`, or name a token with --token-file")
    fail(status, str(problem))
