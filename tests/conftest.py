"""What tests of every room share: ``run``, a clock, and a store of either kind."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import structlog

from certloom.clock import ManualClock
from certloom.store import Store, open_store
from tests.postgresql import Cluster

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run one coroutine to its end. A store may be used from several such runs, one after the other."""
    return asyncio.run(coroutine)


@pytest.fixture(autouse=True)
def loggers_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """How one test has logs written is not how the tests after it do: no logger keeps what it was told."""
    before = structlog.get_config()
    configure = structlog.configure

    def uncached(**options: Any) -> None:
        configure(**{**options, "cache_logger_on_first_use": False})

    monkeypatch.setattr(structlog, "configure", uncached)
    yield
    configure(**before)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Cluster]:
    """This test session's PostgreSQL server."""
    cluster = Cluster()
    yield cluster
    cluster.remove()


@pytest.fixture(scope="session")
def postgresql_template(postgresql: Cluster) -> str:
    """A database with the schema in place, to copy: much faster than migrating each."""
    name = postgresql.create()
    opened = run(open_store(postgresql.url(name), clock=ManualClock()))
    run(opened.close())
    return name


@pytest.fixture(params=["sqlite", "postgresql"])
def dialect(request: pytest.FixtureRequest) -> str:
    """What makes a test run once for each kind of database."""
    kind: str = request.param
    return kind


@pytest.fixture
def postgresql_url(postgresql: Cluster, postgresql_template: str) -> Iterator[str]:
    """The URL of a PostgreSQL database of its own for this test, without data."""
    name = postgresql.create(postgresql_template)
    yield postgresql.url(name)
    postgresql.drop(name)


@pytest.fixture
def database_url(dialect: str, request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database of its own for this test, without data."""
    if dialect == "sqlite":
        return f"sqlite:///{tmp_path}/certloom.db"
    url: str = request.getfixturevalue("postgresql_url")
    return url


@pytest.fixture
def store(database_url: str, clock: ManualClock) -> Iterator[Store]:
    """An open store with the schema in place; the test runs once for each kind."""
    opened = run(open_store(database_url, clock=clock))
    yield opened
    run(opened.close())
