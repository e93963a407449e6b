"""What ends a ceremony."""

from __future__ import annotations


class CeremonyError(Exception):
    """It cannot go on: the message says why. Never holds a secret."""
