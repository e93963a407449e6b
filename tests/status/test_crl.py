"""CRLs of every kind: what is on them, how their numbers go, and what strangers make of them."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.authorities.local import LocalBody
from certloom.clock import ManualClock
from certloom.store import Store, configuration, crls
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate
from certloom.store.crls import WHOLE, StoredCRL
from tests.conftest import run
from tests.core import Core, core, prepare
from tests.enrollment.test_pipeline import ALICE, ask, certificate_of, csr

HOUR = 3600


@asynccontextmanager
async def with_options(store: Store, clock: ManualClock, **options: Any) -> AsyncIterator[Core]:
    """A core whose issuing CA has these options, and has had them from the beginning."""
    await prepare(store, clock)

    def unit(tx: Tx) -> None:
        body = msgspec.json.encode(LocalBody(**options)).decode()
        tx.run("UPDATE authorities SET body = ? WHERE name = 'issuing'", (body,))
        configuration.touch(tx)

    await store.write(unit)
    async with core(store, clock) as c:
        yield c


async def issue(c: Core, n: int) -> StoredCertificate:
    request = await c.enrollment.submit(ask(csr(), idempotency_key=f"k{n}"))
    return await certificate_of(c, request.certificate_id)


async def newest(c: Core, shard: int, *, delta: bool = False) -> StoredCRL:
    found = await c.store.read(lambda tx: crls.get(tx, "issuing", 1, shard, delta=delta))
    assert found is not None
    return found


def listed(crl: StoredCRL) -> dict[int, x509.ReasonFlags | None]:
    """Reason by serial."""
    found = {}
    for entry in x509.load_der_x509_crl(crl.der):
        reason = None
        if len(entry.extensions):
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        found[entry.serial_number] = reason
    return found


def number(row: StoredCertificate) -> int:
    return int.from_bytes(row.serial, "big")


async def jobs_done(c: Core) -> None:
    """Run what waits."""
    await c.runner.start()
    for _ in range(300):
        left = await c.store.read(
            lambda tx: tx.one("SELECT count(*) FROM jobs WHERE state IN ('waiting', 'running')")
        )
        if left == (0,):
            break
        await asyncio.sleep(0.02)
    await c.runner.stop()


def test_a_delta_crl_says_what_changed_since_the_complete_one(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with with_options(store, clock, delta_seconds=HOUR) as c:
            rows = [await issue(c, n) for n in range(8)]
            shard = rows[0].crl_shard
            same = [row for row in rows if row.crl_shard == shard]
            await c.revoker.revoke(rows[0].id, 4, ALICE)
            await c.crls.refresh()
            base = await newest(c, shard)
            assert listed(base) == {number(rows[0]): x509.ReasonFlags.superseded}
            assert listed(await newest(c, shard, delta=True)).keys() <= {number(rows[0])}

            clock.advance(HOUR // 2)
            later = next(row for row in rows if row.crl_shard != shard) if len(same) < 2 else same[1]
            await c.revoker.hold(later.id, ALICE)
            await jobs_done(c)
            first = await newest(c, later.crl_shard, delta=True)
            its_base = await newest(c, later.crl_shard)
            assert first.base_number == its_base.number < first.number
            assert listed(first)[number(later)] is x509.ReasonFlags.certificate_hold
            assert number(later) not in listed(its_base), "the complete list waits for its time"

            clock.advance(60)
            await c.revoker.release(later.id, ALICE)
            await jobs_done(c)
            second = await newest(c, later.crl_shard, delta=True)
            assert second.number > first.number
            assert listed(second)[number(later)] is x509.ReasonFlags.remove_from_crl

            clock.advance(60)
            await c.revoker.revoke(later.id, 5, ALICE)
            await jobs_done(c)
            third = await newest(c, later.crl_shard, delta=True)
            assert listed(third)[number(later)] is x509.ReasonFlags.cessation_of_operation

            # The next complete one knows it all; its deltas begin anew.
            clock.advance(7 * 86400 // 2)
            await c.crls.refresh()
            complete = await newest(c, later.crl_shard)
            assert complete.number > third.number
            assert number(later) in listed(complete)
            assert (await newest(c, later.crl_shard, delta=True)).base_number == complete.number

    run(scenario())


def test_a_whole_list_stands_beside_the_shards(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with with_options(store, clock, full_crl=True) as c:
            rows = [await issue(c, n) for n in range(6)]
            for row in rows[:4]:
                await c.revoker.revoke(row.id, 4, ALICE)
            await jobs_done(c)
            whole = await newest(c, WHOLE)
            assert listed(whole).keys() == {number(row) for row in rows[:4]}
            parsed = x509.load_der_x509_crl(whole.der)
            with pytest.raises(x509.ExtensionNotFound):
                parsed.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
            shards = {row.crl_shard for row in rows[:4]}
            apart: dict[int, x509.ReasonFlags | None] = {}
            for shard in shards:
                apart |= listed(await newest(c, shard))
            assert apart == listed(whole)

    run(scenario())


def test_many_revocations_of_one_shard_make_one_crl(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with with_options(store, clock, publish_seconds=30) as c:
            await c.crls.refresh()
            rows = [await issue(c, n) for n in range(5)]
            await store.write(lambda tx: tx.run("UPDATE certificates SET crl_shard = 3"))
            c.revoker._publish_seconds = lambda authority: c.local(authority).publish_seconds
            before = (await newest(c, 3)).number
            for row in rows:
                clock.advance(1)
                await c.revoker.revoke(row.id, 4, ALICE)
            waiting = await store.read(
                lambda tx: tx.all("SELECT due_ms FROM jobs WHERE kind = 'status.crl' AND state = 'waiting'")
            )
            assert len(waiting) == 1
            assert waiting[0][0] <= (clock.now() - 4 + 30) * 1000 + 999, "the first one's time counts"
            await c.runner.start()
            await asyncio.sleep(0.1)
            assert (await newest(c, 3)).number == before
            await c.runner.stop()
            clock.advance(30)
            await jobs_done(c)
            assert len(listed(await newest(c, 3))) == 5

    run(scenario())


def test_a_release_and_a_new_hold_leave_one_truth(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with with_options(store, clock, delta_seconds=HOUR) as c:
            row = await issue(c, 0)
            await c.crls.refresh()
            clock.advance(10)
            for _ in range(2):
                await c.revoker.hold(row.id, ALICE)
                await c.revoker.release(row.id, ALICE)
            await c.revoker.hold(row.id, ALICE)
            await jobs_done(c)
            delta = x509.load_der_x509_crl((await newest(c, row.crl_shard, delta=True)).der)
            assert len(delta) == 1, "one entry for one certificate"
            assert listed(await newest(c, row.crl_shard, delta=True)) == {
                number(row): x509.ReasonFlags.certificate_hold
            }

    run(scenario())


def test_openssl_and_gnutls_take_every_kind(store: Store, clock: ManualClock, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with with_options(store, clock, delta_seconds=HOUR, full_crl=True) as c:
            good, bad, late = [await issue(c, n) for n in range(3)]
            await c.revoker.revoke(bad.id, 1, ALICE)
            await c.crls.refresh()
            clock.advance(60)
            await c.revoker.revoke(late.id, 4, ALICE)
            await jobs_done(c)
            for row in c.books.authority_rows():
                _pem(tmp_path / f"{row.name}.pem", row.certificate)
            for name, one in (("good", good), ("bad", bad), ("late", late)):
                _pem(tmp_path / f"{name}.pem", one.der)
            root = await c.store.read(lambda tx: crls.get(tx, "root", 1, 0))
            assert root is not None
            ders = [root.der]
            for one in (good, bad, late):
                ders += [
                    (await newest(c, one.crl_shard)).der,
                    (await newest(c, one.crl_shard, delta=True)).der,
                ]
            _crl_pem(tmp_path / "shards.pem", *ders)
            whole = [(await newest(c, WHOLE)).der, (await newest(c, WHOLE, delta=True)).der]
            _crl_pem(tmp_path / "whole.pem", root.der, *whole)

    run(scenario())
    for file in ("shards", "whole"):
        arguments = ["-attime", str(clock.now()), "-crl_check_all", "-extended_crl", "-use_deltas"]
        lists = ["-CAfile", "root.pem", "-untrusted", "issuing.pem", "-CRLfile", f"{file}.pem"]
        for name, verdict in (
            ("good", "OK"),
            ("bad", "certificate revoked"),
            ("late", "certificate revoked"),
        ):
            done = subprocess.run(
                ["openssl", "verify", *arguments, *lists, f"{name}.pem"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            assert verdict in done.stdout + done.stderr, (file, name, done.stdout, done.stderr)
            assert (done.returncode == 0) == (name == "good")


def _pem(path: Path, *ders: bytes) -> None:
    text = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in ders)
    path.write_bytes(text)


def _crl_pem(path: Path, *ders: bytes) -> None:
    path.write_bytes(b"".join(x509.load_der_x509_crl(der).public_bytes(Encoding.PEM) for der in ders))
