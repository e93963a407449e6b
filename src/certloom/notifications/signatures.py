"""Signatures of webhook messages, as the Standard Webhooks specification has them (version 1.0.0).

What is signed is ``id.timestamp.body``, with HMAC-SHA256 under a secret that is written ``whsec_`` and
base64. The header ``webhook-signature`` lists one signature per secret in force, ``v1,<base64>``, with spaces
between, so that a receiver may take up a new secret at any moment of a rotation's overlap.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

PREFIX = "whsec_"
_BYTES = 32


def new_secret() -> str:
    """A secret of 256 random bits, as people copy it."""
    return PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def sign(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """One signature: ``v1,<base64>``."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    mac = hmac.new(key, f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(mac).decode()}"


def headers(secrets: Iterable[str], id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a message, signed with each of the secrets."""
    return {
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, id, timestamp, body) for secret in secrets),
    }
