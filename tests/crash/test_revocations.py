"""kill -9 of server, signer and both while certificates are revoked: CRL numbers never go back, and every
revocation that was acknowledged is on its CRL in the end."""

from __future__ import annotations

import asyncio
import http.client
import random
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from cryptography import x509

from bench.acme_client import Responder
from tests.clients.lab import ADDRESS, Lab, wait_for
from tests.clients.server import Certloom
from tests.clients.servers import Servers
from tests.crash.load import Load

KILLS = 9
SERVER, SIGNER = 0, 1
"""Victims by turns; 2 is both."""
SHARDS = 16


def fetch(server: Certloom, shard: int) -> x509.CertificateRevocationList | None:
    """A shard's CRL; None while the server is away."""
    try:
        url = f"http://{ADDRESS}:{server.http_port}/crl/issuing/{shard}.crl"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return x509.load_der_x509_crl(answer.read())
    except (OSError, http.client.HTTPException):
        return None


def number(crl: x509.CertificateRevocationList) -> int:
    return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


class Revoking:
    """Revokes what the load was given, and watches the CRLs."""

    def __init__(self, server: Certloom, load: Load) -> None:
        self._server, self._load = server, load
        self.acknowledged: set[int] = set()
        self.seen: dict[int, int] = {}
        """The highest number of each shard's CRL."""
        self.looks = 0
        self.stopping = False

    def revoke(self) -> None:
        """One after the other, until told to stop: each until it is acknowledged."""
        chance = random.Random(4)
        done = 0
        while not self.stopping:
            if done >= len(self._load.received):
                time.sleep(0.01)
                continue
            serial = x509.load_der_x509_certificate(self._load.received[done]).serial_number
            try:
                (row,) = self._server.local("GET", f"/certificates?serial={serial:x}")["items"]
                if row["state"] != "revoked":
                    reason = chance.choice(["superseded", "cessationOfOperation"])
                    self._server.local("POST", f"/certificates/{row['id']}/revoke", {"reason": reason})
                self.acknowledged.add(serial)
                done += 1
            except (OSError, http.client.HTTPException, AssertionError):
                time.sleep(0.05)

    def watch(self) -> None:
        """A CRL that is older than one that was seen before must never be served."""
        while not self.stopping:
            for shard in range(SHARDS):
                crl = fetch(self._server, shard)
                if crl is None:
                    break
                assert number(crl) >= self.seen.get(shard, 0), f"the number of shard {shard} went back"
                self.seen[shard] = number(crl)
                self.looks += 1
            time.sleep(0.02)


async def _kills(server: Certloom, lab: Lab) -> tuple[Load, Revoking]:
    responder = Responder()
    await responder.listen(ADDRESS, lab.http_port)
    load = Load(server.target().directory, server.trust(), responder, workers=4)
    revoking = Revoking(server, load)
    working = asyncio.create_task(load.run())
    threads = [asyncio.create_task(asyncio.to_thread(each)) for each in (revoking.revoke, revoking.watch)]
    chance = random.Random(9)
    try:
        for turn in range(KILLS):
            before = len(revoking.acknowledged)
            deadline = time.monotonic() + 75
            while len(revoking.acknowledged) < before + 3:
                assert time.monotonic() < deadline, "no revocations after a restart"
                assert not working.done()
                assert not any(thread.done() for thread in threads)
                await asyncio.sleep(0.02)
            await asyncio.sleep(chance.uniform(0, 0.3))
            victim = turn % 3
            if victim != SERVER:
                server.kill_signer()
            if victim != SIGNER:
                server.kill()
                await asyncio.to_thread(server.start)
        load.stop()
        await working
    finally:
        revoking.stopping = True
        await asyncio.gather(*threads)
        responder.close()
    return load, revoking


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_crl_numbers_never_go_back_and_no_acknowledged_revocation_is_lost(
    database: str, servers: Servers, lab: Lab, tmp_path: Path
) -> None:
    server = servers.another(tmp_path, database=database)
    with server:
        load, revoking = asyncio.run(_kills(server, lab))
        assert len(revoking.acknowledged) >= 3 * KILLS
        assert revoking.looks > SHARDS

        def listed() -> set[int]:
            crls = [crl for shard in range(SHARDS) if (crl := fetch(server, shard)) is not None]
            assert len(crls) == SHARDS
            for crl in crls:
                point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
                assert point.full_name is not None
            return {entry.serial_number for crl in crls for entry in crl}

        # On PostgreSQL the jobs of a killed process are taken over when their leases end, after 30 s.
        wait_for("all revocations on CRLs", lambda: revoking.acknowledged <= listed(), 60)
        for shard in range(SHARDS):
            crl = fetch(server, shard)
            assert crl is not None
            assert number(crl) >= revoking.seen[shard]
        assert load.received
