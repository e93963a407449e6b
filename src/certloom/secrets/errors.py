"""What goes wrong with secrets."""

from __future__ import annotations


class SecretError(Exception):
    """A key cannot be had or used, or a value does not open under it. Never says what is inside."""


class WrongPassphrase(SecretError):
    """What is sealed does not open under this passphrase."""
