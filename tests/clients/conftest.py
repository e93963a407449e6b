"""The lab and the servers of the client tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.clients.lab import Lab
from tests.clients.servers import Servers


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Name server, ports and addresses."""
    lab = Lab.open(tmp_path_factory.mktemp("lab"))
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def servers(
    lab: Lab, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Servers]:
    """The servers under test."""
    servers = Servers(lab, tmp_path_factory.mktemp("servers"), lambda: request.getfixturevalue("postgresql"))
    yield servers
    servers.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What looks at everything that was issued comes when everything has been."""
    items.sort(key=lambda item: item.path.name == "test_lint_of_issued.py")
