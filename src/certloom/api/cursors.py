"""Cursors: where a listing goes on, sealed, so that a client can give back only what it was given."""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, TypeVar

import msgspec

from certloom.api.problems import BAD_CURSOR, Problem
from certloom.secrets import DataKey, SecretError

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class Cursors:
    """Makes and reads cursors."""

    def __init__(self, data_key: DataKey) -> None:
        self._data_key = data_key

    def seal(self, listing: str, position: Any) -> str:
        """A cursor for one listing: its path and its filters."""
        sealed = self._data_key.seal(f"cursor:{listing}", _encode(position))
        return urlsafe_b64encode(sealed).rstrip(b"=").decode()

    def open(self, listing: str, cursor: str, kind: type[T]) -> T:
        """The position in it. Raises ``Problem`` where it is not a cursor of this listing."""
        try:
            padded = cursor.encode() + b"=" * (-len(cursor) % 4)
            plain = self._data_key.open(f"cursor:{listing}", urlsafe_b64decode(padded))
            return msgspec.json.decode(plain, type=kind)
        except (SecretError, binascii.Error, ValueError):
            raise Problem(
                BAD_CURSOR, "this is no cursor of this listing with these filters; begin without one"
            ) from None
