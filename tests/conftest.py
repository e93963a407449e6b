"""What tests of every room share: ``run``, a clock, and a store of either kind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from certloom.clock import ManualClock
from certloom.store import Store, open_store

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end. A store may be used from several such runs, one after the other."""
    return asyncio.run(coroutine)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(params=["sqlite"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database; the test runs once for each kind."""
    return f"sqlite:///{tmp_path}/certloom.db"


@pytest.fixture
def store(database_url: str, clock: ManualClock) -> Iterator[Store]:
    """An open store with the schema in place; the test runs once for each kind."""
    opened = run(open_store(database_url, clock=clock))
    yield opened
    run(opened.close())
