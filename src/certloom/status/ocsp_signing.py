"""Signing OCSP responses: many that are asked for at once are one request to the signer."""

from __future__ import annotations

import asyncio

from certloom.signing import Signing, SigningError, SigningUnavailable

_BATCH = 64
_MOST_WAITING = 4096
_TURNS = 4


class Batches:
    """Signs octets, key by key; of each key one request is under way."""

    def __init__(self, signing: Signing) -> None:
        self._signing = signing
        self._waiting: dict[str, list[tuple[bytes, asyncio.Future[bytes]]]] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self.signed = 0
        """Signatures so far."""
        self.requests = 0
        """Requests to the signer so far."""

    async def sign(self, key_id: str, data: bytes) -> bytes:
        """A signature. Raises ``SigningError``; ``SigningUnavailable`` also where very many wait already."""
        waiting = self._waiting.setdefault(key_id, [])
        if len(waiting) >= _MOST_WAITING:
            raise SigningUnavailable("signer-busy", "too many signatures are waited for")
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        waiting.append((data, future))
        if key_id not in self._running:
            self._running[key_id] = asyncio.create_task(self._run(key_id))
        return await future

    async def _run(self, key_id: str) -> None:
        waiting = self._waiting[key_id]
        try:
            while waiting:
                # What else the next turns of the loop bring joins the batch, while they bring any: to send a
                # request and wake the signer costs several times a signature.
                for _ in range(_TURNS):
                    before = len(waiting)
                    await asyncio.sleep(0)
                    if len(waiting) == before or before >= _BATCH:
                        break
                batch = waiting[:_BATCH]
                del waiting[:_BATCH]
                await self._sign(key_id, [(data, future) for data, future in batch if not future.done()])
        finally:
            del self._running[key_id]
            if waiting:  # cut off: whoever waits is not left waiting
                for _, future in waiting:
                    future.cancel()
                waiting.clear()
            del self._waiting[key_id]

    async def _sign(self, key_id: str, batch: list[tuple[bytes, asyncio.Future[bytes]]]) -> None:
        if not batch:
            return
        self.requests += 1
        self.signed += len(batch)
        try:
            signatures = await self._signing.sign(key_id, [data for data, _ in batch])
        except BaseException as error:
            known = error if isinstance(error, SigningError) else None
            for _, future in batch:
                if not future.done():
                    future.set_exception(
                        known or SigningUnavailable("signer-failed", f"{type(error).__name__}: {error}")
                    )
            if known is None and not isinstance(error, Exception):
                raise
            return
        for (_, future), signature in zip(batch, signatures, strict=True):
            if not future.done():
                future.set_result(signature)
