"""All that is wrong with a document, told at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from certloom.api.problems import INVALID, Problem
from certloom.policy.decisions import Reason

_MOST = 100


class Findings:
    """Gathers what is invalid, each with its place, until ``tell`` makes one problem of it."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Around one check: what it finds invalid is kept, and the next check can be made."""
        try:
            yield
        except Problem as problem:
            if problem.code != INVALID:
                raise
            self._found.append(problem)

    def tell(self) -> None:
        """Raises ``Problem`` if there was anything."""
        found = self._found
        if len(found) == 1:
            raise found[0]
        if found:
            reasons = [Reason(INVALID, problem.detail) for problem in found[:_MOST]]
            raise Problem(INVALID, f"{len(found)} things cannot be as declared", reasons=reasons)
