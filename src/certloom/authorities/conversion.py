"""Keys of authorities from before there was a signer: given to it, once."""

from __future__ import annotations

from functools import partial

import structlog

from certloom.secrets import DataKey, SecretError
from certloom.signing import Signing
from certloom.store import authorities as statements
from certloom.store.authorities import StoredKey
from certloom.store.base import Store

_log = structlog.get_logger(__name__)
_PURPOSE = "authority:"


async def hand_over_keys(store: Store, data_key: DataKey, signing: Signing) -> int:
    """Seal keys that lie under the data key as the signer's; answers how many.

    The key leaves the server for good: what is left under the data key is overwritten in the same transaction
    that records the signer's. Raises ``SigningError``.
    """
    done = 0
    for key in await store.scan(lambda tx: statements.keys_of(tx, _PURPOSE)):
        try:
            pkcs8 = data_key.open(f"key:{key.id}", key.sealed)
        except SecretError:
            continue  # the signer's already
        made = await signing.adopt(key.id, "ca", key.purpose.removeprefix(_PURPOSE), pkcs8)
        new = StoredKey(key.id, key.purpose, key.spki, made.record, key.created)
        await store.write(partial(statements.replace_key, k=new))
        _log.info("authority.key_handed_over", key=key.id, purpose=key.purpose)
        done += 1
    return done
