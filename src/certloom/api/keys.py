"""Keys that are never certified again."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.routing import Answer, Call, at, route
from certloom.audit import record
from certloom.store import certificates as statements
from certloom.store.base import Tx

_MOST_COUNTED = 1000

Digest = Annotated[
    str,
    msgspec.Meta(pattern="^[0-9a-f]{64}$", description="SHA-256 of the SubjectPublicKeyInfo, hexadecimal."),
]


class KeyPath(msgspec.Struct, frozen=True):
    """Which key."""

    spki: Digest


class Block(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be blocked."""

    spki_sha256: Digest
    why: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]


class BlockedKey(msgspec.Struct, frozen=True):
    """A key that is never certified again. Certificates that have it stay as they are."""

    spki_sha256: str
    why: str
    blocked: datetime
    unrevoked_certificates: tuple[int, ...]
    """Ids, of the first thousand with this key."""


@route(
    "POST",
    "/blocked-keys",
    permission="key.block",
    summary="Block a public key for ever",
    body=Block,
    answers={201: BlockedKey, 200: BlockedKey},
    tag="keys",
)
async def block(call: Call[None, None, Block]) -> Answer:
    """200 where it was blocked before; nothing changes then."""
    digest = bytes.fromhex(call.body.spki_sha256)

    def unit(tx: Tx) -> Answer:
        call.allow_shared("key.block")
        clock = call.services.clock
        new = statements.block_key(tx, digest, call.body.why, clock.now())
        if new:
            record(
                tx, clock.now_ms(), "key.blocked", f"key:{digest.hex()}", call.origin, {"why": call.body.why}
            )
        return Answer(
            _shown(tx, digest),
            status=201 if new else 200,
            location=f"/blocked-keys/{digest.hex()}" if new else None,
        )

    return await call.create(unit)


@route(
    "GET",
    "/blocked-keys/{spki}",
    permission="key.block",
    summary="Look whether a key is blocked",
    path=KeyPath,
    answers={200: BlockedKey},
    problems=(problems.NOT_FOUND,),
    tag="keys",
)
async def show(call: Call[KeyPath, None, None]) -> Answer:
    call.allow_shared("key.block")
    return Answer(await call.services.store.read(lambda tx: _shown(tx, bytes.fromhex(call.path.spki))))


def _shown(tx: Tx, digest: bytes) -> BlockedKey:
    found = statements.blocked_key(tx, digest)
    if found is None:
        raise Problem(problems.NOT_FOUND, "this key is not blocked")
    live = tuple(c.id for c in statements.by_key(tx, digest, _MOST_COUNTED) if c.revoked is None)
    return BlockedKey(digest.hex(), found[0], at(found[1]), live)
