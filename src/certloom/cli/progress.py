"""Progress on standard error, where a person watches; elsewhere nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Something that goes on for a while."""

    def __call__(self, done: int, total: int | None = None, what: str | None = None) -> None:
        """So much of it is done; ``total`` and ``what`` where they are known or have changed."""
        ...


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """A bar with the count and the time it will take, or a spinner while the total is not known."""
    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def update(done: int, total: int | None = None, what: str | None = None) -> None:
            bar.update(task, completed=done, total=total, description=what)

        yield update


def _silent(done: int, total: int | None = None, what: str | None = None) -> None:
    """Nobody watches."""
