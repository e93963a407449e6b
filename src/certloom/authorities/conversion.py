"""What installations from before have otherwise: keys that no signer had, CA certificates in no inventory."""

from __future__ import annotations

from functools import partial

import structlog

from certloom.authorities.certifying import CACertificate
from certloom.clock import Clock
from certloom.pki.certificates import parse_certificate
from certloom.secrets import DataKey, SecretError
from certloom.signing import Signing
from certloom.store import authorities as statements
from certloom.store import certificates as certificate_statements
from certloom.store import configuration
from certloom.store.authorities import StoredGeneration, StoredKey
from certloom.store.base import Store, Tx

_log = structlog.get_logger(__name__)
_PURPOSE = "authority:"
_ENTERED = "ca-certificates-entered"


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


async def enter_ca_certificates(store: Store, clock: Clock) -> int:
    """Make CA certificates that were signed here rows of the inventory, once; answers how many."""

    def unit(tx: Tx) -> int:
        if configuration.fact(tx, _ENTERED) is not None:
            return 0
        here = statements.generations(tx)
        done = sum([_enter(tx, generation, here, clock.now()) for generation in here])
        configuration.put_fact(tx, _ENTERED, "1")
        return done

    if await store.read(lambda tx: configuration.fact(tx, _ENTERED)) is not None:
        return 0
    return await store.write(unit)


def _enter(tx: Tx, generation: StoredGeneration, here: list[StoredGeneration], now: int) -> bool:
    if generation.certificate is None:
        return False
    facts = parse_certificate(generation.certificate)
    issuer = generation.issuer or generation.authority
    signed_by = facts.authority_key_identifier or facts.key_identifier
    for above in here:
        if above.authority == issuer and above.key_identifier == signed_by:
            if certificate_statements.by_serial(tx, issuer, facts.serial) is not None:
                return False
            # They all name the list of the first shard, however many there are.
            made = CACertificate(generation.certificate, issuer, above.generation, facts.serial, 0, False)
            made.enter(tx, now)
            return True
    return False
