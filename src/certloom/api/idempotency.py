"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a repeated request has its effect once.

A key belongs to the principal who sends it and to one request, told by a fingerprint over its method, target
and body. The answer is kept in the transaction of the effect, so that both are there or neither is; it is
sealed under the data key, since some answers show a secret once. Only answers that made something are kept:
a refusal changed nothing, and may be different next time.

With the answer is kept what its handler asked whether they may (``Call.allow``). A repeat is asked the same
again: who lost a right since does not get by an old key what they could not ask for any more.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

import msgspec

from certloom.api.problems import CONFLICT, IN_PROGRESS, KEY_REUSED, MALFORMED, Problem
from certloom.api.rendering import Rendered, render
from certloom.api.routing import Answer, Stream
from certloom.api.services import Services
from certloom.identity.principals import Thing
from certloom.secrets import SecretError
from certloom.store import idempotency as statements
from certloom.store.base import Store, Tx
from certloom.store.idempotency import KeptAnswer

_KEY = re.compile(r'"([ -!#-\[\]-~]{1,255})"|([!-~]{1,255})')
_REPLAYED = (b"idempotency-replayed", b"true")
_BATCH = 500

_encode = msgspec.msgpack.Encoder().encode


class Kept(msgspec.Struct, frozen=True):
    """An answer, and what it took."""

    rendered: Rendered
    allowed: tuple[tuple[str, Thing], ...]
    """Permissions, and what for."""


_decoder = msgspec.msgpack.Decoder(Kept)


class Repeated(Exception):
    """Another process kept an answer under the key while this one was at work; all of this is rolled back."""


class IdempotencyKey:
    """A key that a request carries."""

    def __init__(self, services: Services, principal: str, key: str, fingerprint: bytes) -> None:
        self._services = services
        self.principal = principal
        self.key = key
        self._fingerprint = fingerprint

    def keep(self, tx: Tx, answer: Answer, allowed: Iterable[tuple[str, Thing]]) -> None:
        """Store the answer in this transaction. Raises ``Repeated`` where the key is taken by now."""
        if isinstance(answer.value, Stream):
            raise TypeError("a stream cannot be kept for a repeat")
        services = self._services
        now = services.clock.now()
        statements.delete_older(tx, self.principal, self.key, now - services.settings.api.idempotency_seconds)
        sealed = services.data_key.seal(self._purpose, _encode(Kept(render(answer), tuple(allowed))))
        kept = KeptAnswer(self._fingerprint, answer.status, sealed, now)
        if not statements.insert(tx, self.principal, self.key, kept):
            raise Repeated

    async def kept(self) -> Kept | None:
        """The answer that was given already. Raises ``Problem`` where the key is another request's."""
        services = self._services
        found = await services.store.read(lambda tx: statements.get(tx, self.principal, self.key))
        if found is None or found.created < services.clock.now() - services.settings.api.idempotency_seconds:
            return None
        if found.fingerprint != self._fingerprint:
            raise Problem(KEY_REUSED, "this Idempotency-Key came with another request before; use a new one")
        try:
            kept = _decoder.decode(services.data_key.open(self._purpose, found.answer))
        except (SecretError, msgspec.DecodeError):
            raise Problem(
                CONFLICT, "what this Idempotency-Key asked for was done, but its answer cannot be opened"
            ) from None
        kept.rendered.headers.append(_REPLAYED)
        return kept

    @property
    def _purpose(self) -> str:
        return f"idempotency:{self.principal}:{self.key}"


class Keys:
    """The keys of one process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._under_way: set[tuple[str, str]] = set()

    def read(self, header: str, principal: str, method: str, target: str, body: bytes) -> IdempotencyKey:
        """The header's key. Raises ``Problem``."""
        found = _KEY.fullmatch(header.strip())
        if found is None:
            raise Problem(MALFORMED, "Idempotency-Key: a string of up to 255 printable ASCII characters")
        asked = b"\0".join((method.encode(), target.encode(), body))
        return IdempotencyKey(self._services, principal, found[1] or found[2], hashlib.sha256(asked).digest())

    def begin(self, key: IdempotencyKey) -> None:
        """Raises ``Problem`` where a request with that key is being answered; ``end`` must follow."""
        if (key.principal, key.key) in self._under_way:
            raise Problem(IN_PROGRESS, "the first request with this Idempotency-Key has no answer yet")
        self._under_way.add((key.principal, key.key))

    def end(self, key: IdempotencyKey) -> None:
        self._under_way.discard((key.principal, key.key))


async def prune(store: Store, before: int) -> int:
    """Forget answers from before that second, in small transactions; how many it was."""
    total = 0
    while True:
        removed = await store.write(lambda tx: statements.prune(tx, before, _BATCH))
        total += removed
        if removed < _BATCH:
            return total
