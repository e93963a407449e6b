"""dns-account-01: dns-01 with a name of its own per account (draft-ietf-acme-dns-account-label).

So several clients can prove one domain without touching each other's records. The label is a digest of the
account's URL: that URL has to stay the same, byte for byte, for as long as the account lives.
"""

from __future__ import annotations

import base64
import hashlib

from certloom.validation.dns01 import LABEL
from certloom.validation.proof import Proof, ValidationFailed


def account_label(account_url: str) -> str:
    """An underscore and the first ten bytes of SHA-256 over the account's URL, base32 in lower case."""
    digest = hashlib.sha256(account_url.encode()).digest()[:10]
    return "_" + base64.b32encode(digest).decode("ascii").lower()


def validation_name(proof: Proof) -> str:
    """Where dns-account-01 looks. Raises ``ValidationFailed`` if the proof names no account."""
    if not proof.account_url:
        raise ValidationFailed("malformed", "dns-account-01 needs the account's URL")
    return f"{account_label(proof.account_url)}.{LABEL}.{proof.base_name}"
