"""A data directory of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.secrets.keys import Keys


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)
