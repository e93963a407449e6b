"""Identifiers of rows that clients see."""

from __future__ import annotations

import os


def new_id(now_ms: int) -> str:
    """32 hex digits: 48 bits of time, then 80 from the CSPRNG.

    The time keeps neighbours in time neighbours in the index, so that an insert touches the same few pages
    in the millionth row as in the first; the 80 bits make the id unguessable.
    """
    return now_ms.to_bytes(6, "big").hex() + os.urandom(10).hex()
