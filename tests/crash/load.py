"""ACME clients that keep asking while the server is killed under them, and remember what they were given."""

from __future__ import annotations

import asyncio
import secrets
import ssl
import time

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench.acme_client import Account, Disconnected, Order, Problem, Responder, check_chain, make_csr

PATIENCE = 90
"""Seconds in which a client must get its certificate, however often the server dies meanwhile."""


class Load:
    """Workers with an account each. What is asked for must be got in the end: that is the assertion."""

    def __init__(self, directory: str, trust: ssl.SSLContext, responder: Responder, workers: int) -> None:
        self._accounts = [Account(directory, trust, responder) for _ in range(workers)]
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._stopping = False
        self.received: list[bytes] = []
        """DER of every certificate a client has downloaded."""
        self.interrupted = 0
        """Requests whose answer never came."""

    def stop(self) -> None:
        """Begin no further issuance; those begun are finished."""
        self._stopping = True

    async def run(self) -> None:
        """Issue until told to stop. Raises whatever a client could not get over."""
        async with asyncio.TaskGroup() as group:
            for account in self._accounts:
                group.create_task(self._work(account))

    async def _work(self, account: Account) -> None:
        await self._until_done(account, None)
        while not self._stopping:
            await self._until_done(account, f"h{secrets.token_hex(6)}.crash.example.com")
        account.close()

    async def _until_done(self, account: Account, name: str | None) -> None:
        """Register (no name) or issue, going on from where the server was lost."""
        deadline = time.monotonic() + PATIENCE
        csr = make_csr(self._key, [name]) if name else b""
        order: Order | None = None
        while True:
            try:
                if name is None:
                    await account.register()
                    return
                if order is None:
                    order = await account.new_order([name])
                else:
                    await account.refresh(order)
                await self._finish(account, order, name, csr)
                return
            except Disconnected:
                self.interrupted += 1
            except Problem as problem:
                # 503 says "not now"; 403 orderNotReady may follow an answer that was lost: look again.
                if problem.status != 503 and not problem.type.endswith(":orderNotReady"):
                    raise
            if time.monotonic() > deadline:
                raise AssertionError(f"{name}: no certificate; the order is {order}")
            account.close()
            await asyncio.sleep(0.05)

    async def _finish(self, account: Account, order: Order, name: str, csr: bytes) -> None:
        if order.status == "pending":
            for url in order.body["authorizations"]:
                await account.authorize(url, PATIENCE)
            await account.refresh(order)
        if order.status in ("ready", "processing"):
            await account.finalize(order, csr)
        chain = await account.download(order)
        leaf = check_chain(chain, self._key.public_key(), [name])
        self.received.append(leaf.public_bytes(Encoding.DER))


def serials(certificates: list[bytes]) -> list[int]:
    """The serial numbers of DER certificates."""
    return [x509.load_der_x509_certificate(der).serial_number for der in certificates]
