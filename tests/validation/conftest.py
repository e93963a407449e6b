"""Fixtures of the tests of validation."""

from tests.outbound.conftest import run

__all__ = ["run"]
