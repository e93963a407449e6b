"""Fixtures of the tests that open connections."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run one coroutine to its end, on the standard event loop and on the one the server uses."""
    return asyncio.run if request.param == "asyncio" else uvloop.run
