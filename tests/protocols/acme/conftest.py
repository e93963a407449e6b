"""The laboratory as a fixture."""

from __future__ import annotations

from pathlib import Path

import pytest

from certloom.clock import ManualClock
from certloom.store.base import Store
from tests.protocols.acme.lab import Labs


@pytest.fixture(params=["sqlite"])
def dialect(request: pytest.FixtureRequest) -> str:
    """ACME means the same on either database; ``test_both_databases`` holds the statements to that."""
    kind: str = request.param
    return kind


@pytest.fixture
def labs(store: Store, clock: ManualClock, tmp_path: Path) -> Labs:
    return Labs(store, clock, tmp_path)
