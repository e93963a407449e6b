"""What migrations compute that SQL cannot, by the number of the migration they follow."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec

from certloom.pki.certificates import CertificateError, parse_certificate
from certloom.store.base import Tx
from certloom.store.name_keys import key_of

_CHUNK = 1000
_encode = msgspec.json.Encoder().encode


def describe_certificates(tx: Tx) -> None:
    """Put into each certificate's row what its DER says: names, kind of key, fingerprint."""
    after = 0
    while rows := tx.all(
        "SELECT id, der FROM certificates WHERE id > ? ORDER BY id LIMIT ?", (after, _CHUNK)
    ):
        described: list[tuple[Any, ...]] = []
        keys: list[tuple[str, int]] = []
        for id, der in rows:
            try:
                facts = parse_certificate(der)
            except CertificateError:
                # Nothing that is no certificate was ever recorded; if it was, it can still be found.
                described.append(("[]", "", hashlib.sha256(der).digest(), id))
                continue
            names = _encode([str(name) for name in facts.identifiers]).decode()
            described.append((names, facts.key.key_type if facts.key else "", facts.sha256, id))
            keys.extend((key, id) for key in sorted({key_of(name) for name in facts.identifiers}))
        tx.many("UPDATE certificates SET names = ?, key_type = ?, fingerprint = ? WHERE id = ?", described)
        tx.many("INSERT INTO certificate_names (key, certificate_id) VALUES (?, ?)", keys)
        after = rows[-1][0]


BACKFILLS: dict[int, Callable[[Tx], None]] = {2: describe_certificates}
