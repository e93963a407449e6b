"""A root and an issuing CA are rolled over in the middle of ACME traffic: nobody is failed or given a chain
that does not verify, whichever of the two roots they trust."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bench.acme_client import Account, Order, Responder, check_chain
from tests.clients.lab import ADDRESS, Lab
from tests.clients.server import Certloom
from tests.clients.servers import Servers
from tests.crash.load import Load

_EACH = 8
"""Certificates between two steps."""


class Chains(Load):
    """Keeps whole chains, as they were downloaded."""

    def __init__(self, server: Certloom, responder: Responder) -> None:
        super().__init__(server.target().directory, server.trust(), responder, workers=3)
        self.chains: list[bytes] = []

    async def _finish(self, account: Account, order: Order, name: str, csr: bytes) -> None:
        await super()._finish(account, order, name, csr)
        chain = await account.download(order)
        check_chain(chain, self._key.public_key(), [name])
        self.chains.append(chain)


def _steps() -> list[tuple[str, ...]]:
    return [
        ("authority", "set", "root", "trust_seconds=0"),
        ("authority", "prepare", "root", "--algorithm", "P-384"),
        ("authority", "rollover", "root", "--go"),
        ("authority", "prepare", "issuing"),
        ("authority", "rollover", "issuing", "--go"),
    ]


async def _traffic(server: Certloom, lab: Lab) -> Chains:
    responder = Responder()
    await responder.listen(ADDRESS, lab.http_port)
    try:
        load = Chains(server, responder)
        working = asyncio.create_task(load.run())
        for step in (*_steps(), None):
            until = len(load.chains) + _EACH
            while len(load.chains) < until and not working.done():
                await asyncio.sleep(0.02)
            if step is not None:
                await asyncio.to_thread(server.cli, *step)
        load.stop()
        await working
        return load
    finally:
        responder.close()


def _verifies(folder: Path, chain: bytes, root: str) -> str:
    leaf, *above = x509.load_pem_x509_certificates(chain)
    (folder / "leaf.pem").write_bytes(leaf.public_bytes(Encoding.PEM))
    (folder / "above.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in above))
    (folder / "root.pem").write_text(root)
    result = subprocess.run(
        [
            *("openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-no-CApath", "-no-CAstore"),
            *("-CAfile", str(folder / "root.pem"), "-untrusted", str(folder / "above.pem")),
            str(folder / "leaf.pem"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if result.returncode == 0 else result.stderr + result.stdout


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_rollover_under_load_fails_nobody_and_every_chain_verifies(
    database: str, servers: Servers, lab: Lab, tmp_path: Path
) -> None:
    server = servers.another(tmp_path, database=database)
    with server:
        load = asyncio.run(_traffic(server, lab))
        generations = json.loads(server.cli("authority", "generations", "root", "--json"))
        issuers = json.loads(server.cli("authority", "generations", "issuing", "--json"))
    assert load.interrupted == 0
    assert [each["state"] for each in generations] == ["past", "current"]
    old, new = (each["certificate"] for each in generations)
    names = [x509.load_pem_x509_certificate(each["certificate"].encode()) for each in issuers]
    by = [x509.load_pem_x509_certificates(chain)[1] for chain in load.chains]
    counts = [by.count(issuer) for issuer in names]
    assert min(counts) >= _EACH, "certificates of both generations were wanted"
    activated = False
    for chain in load.chains:
        assert _verifies(tmp_path, chain, old) == "", "who trusts the old root has no other yet"
        # From when the new root is issued from on, it is enough.
        verifies = _verifies(tmp_path, chain, new) == ""
        assert verifies or not activated
        activated = activated or (verifies and len(x509.load_pem_x509_certificates(chain)) > 2)
    assert activated
