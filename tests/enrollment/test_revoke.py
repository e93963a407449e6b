"""The one way to revoke, and the CRLs that tell of it, on both databases."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.authorities.local import LocalAuthority
from certloom.clock import ManualClock
from certloom.enrollment.errors import Refused
from certloom.enrollment.revoke import CRL_JOB
from certloom.jobs import Runner
from certloom.pki.crl import CRLTemplate
from certloom.status.crl import CRLPublisher
from certloom.store import Store, certificates, crls
from certloom.store.certificates import StoredCertificate
from certloom.store.crls import StoredCRL
from tests.conftest import run
from tests.core import Core, core
from tests.enrollment.test_pipeline import ALICE, ask, certificate_of, csr


async def published(c: Core, authority: str, shard: int) -> StoredCRL:
    found = await c.store.read(lambda tx: crls.get(tx, authority, 1, shard))
    assert found is not None
    return found


def test_a_revoked_certificate_is_on_its_shards_crl_within_seconds(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.runner.start()
            row = await certificate_of(c, (await c.enrollment.submit(ask())).certificate_id)
            revoked = await c.revoker.revoke(row.id, 4, ALICE)
            assert revoked.revoked == clock.now()
            for _ in range(100):
                crl = await store.read(lambda tx: crls.get(tx, "issuing", 1, row.crl_shard))
                if crl is not None:
                    break
                await asyncio.sleep(0.02)
            assert crl is not None
            parsed = x509.load_der_x509_crl(crl.der)
            entry = parsed.get_revoked_certificate_by_serial_number(int.from_bytes(row.serial, "big"))
            assert entry is not None
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
            assert reason is x509.ReasonFlags.superseded
            kinds = await store.read(lambda tx: tx.all("SELECT kind FROM events ORDER BY id"))
            assert [kind for (kind,) in kinds] == ["certificate.issued", "certificate.revoked"]
            await c.runner.stop()

    run(scenario())


def test_openssl_takes_a_revoked_certificate_for_revoked_and_another_for_good(
    store: Store, clock: ManualClock, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            bad = await certificate_of(c, (await c.enrollment.submit(ask())).certificate_id)
            good = await certificate_of(
                c, (await c.enrollment.submit(ask(csr(), idempotency_key="2"))).certificate_id
            )
            await c.revoker.revoke(bad.id, 1, ALICE)
            assert await c.crls.refresh() == 17
            pems = {row.name: row.certificate for row in c.books.authority_rows()}

            def pem(path: str, *ders: bytes) -> str:
                text = b"".join(x509.load_der_x509_certificate(d).public_bytes(Encoding.PEM) for d in ders)
                (tmp_path / path).write_bytes(text)
                return str(tmp_path / path)

            for row, word in ((bad, "revoked"), (good, "OK")):
                lists = [
                    (await published(c, "issuing", row.crl_shard)).der,
                    (await published(c, "root", 0)).der,
                ]
                (tmp_path / "crls.pem").write_bytes(
                    b"".join(x509.load_der_x509_crl(d).public_bytes(Encoding.PEM) for d in lists)
                )
                answer = subprocess.run(
                    [
                        *("openssl", "verify", "-no-CApath", "-no-CAstore", "-crl_check_all"),
                        *("-extended_crl", "-attime", str(clock.now() + 1)),
                        *("-CAfile", pem("root.pem", pems["root"])),
                        *("-untrusted", pem("issuing.pem", pems["issuing"])),
                        *("-CRLfile", str(tmp_path / "crls.pem"), pem("leaf.pem", row.der)),
                    ],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert word in answer.stdout + answer.stderr

    run(scenario())


def test_revoking_twice_is_refused_and_changes_nothing(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            id = (await c.enrollment.submit(ask())).certificate_id
            assert id is not None
            first = await c.revoker.revoke(id, 4, ALICE)
            clock.advance(60)
            with pytest.raises(Refused) as caught:
                await c.revoker.revoke(id, 5, ALICE)
            assert caught.value.code == "already-revoked"
            assert await certificate_of(c, id) == first

    run(scenario())


def test_that_a_key_was_compromised_may_be_found_out_later(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            id = (await c.enrollment.submit(ask())).certificate_id
            assert id is not None
            first = await c.revoker.revoke(id, 4, ALICE)
            clock.advance(60)
            again = await c.revoker.revoke(id, 1, ALICE)
            assert (again.revoked, again.revocation_reason) == (first.revoked, 1)
            assert await store.read(lambda tx: certificates.is_blocked(tx, first.spki_sha256))
            for reason in (1, 4):
                with pytest.raises(Refused) as caught:
                    await c.revoker.revoke(id, reason, ALICE)
                assert caught.value.code == "already-revoked"

    run(scenario())


@pytest.mark.parametrize("reason", [2, 6, 7, 8, 9, 10, 11, -1])
def test_a_requester_cannot_give_a_reason_that_is_the_cas_to_give(
    store: Store, clock: ManualClock, reason: int
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            id = (await c.enrollment.submit(ask())).certificate_id
            assert id is not None
            with pytest.raises(Refused) as caught:
                await c.revoker.revoke(id, reason, ALICE)
            assert caught.value.code == "bad-revocation-reason"
            assert (await certificate_of(c, id)).revoked is None

    run(scenario())


def test_an_operator_may_withdraw_a_privilege(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            id = (await c.enrollment.submit(ask())).certificate_id
            assert id is not None
            assert (await c.revoker.revoke(id, 9, ALICE, by_operator=True)).revocation_reason == 9

    run(scenario())


def test_a_compromised_key_is_certified_never_again(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            request = csr()
            id = (await c.enrollment.submit(ask(request))).certificate_id
            assert id is not None
            await c.revoker.revoke(id, 1, ALICE)
            assert await store.read(lambda tx: certificates.is_blocked(tx, request.key.spki_sha256))
            with pytest.raises(Refused) as caught:
                await c.enrollment.submit(ask(request, idempotency_key="2"))
            assert caught.value.code == "key-blocked"

    run(scenario())


def test_crl_numbers_rise_also_when_the_store_forgot_the_last_one(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.crls.refresh()
            first = await published(c, "issuing", 3)
            assert await c.crls.refresh() == 0
            clock.advance(c.local().crl_seconds // 2 + 1)
            assert await c.crls.refresh() == 17
            second = await published(c, "issuing", 3)
            assert second.number > first.number
            await store.write(lambda tx: tx.run("DELETE FROM crls"))
            clock.advance(1)
            await c.crls.refresh()
            assert (await published(c, "issuing", 3)).number > second.number

    run(scenario())


def test_an_expired_certificate_leaves_the_crl_only_after_one_more(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            row = await certificate_of(c, (await c.enrollment.submit(ask())).certificate_id)
            await c.revoker.revoke(row.id, 4, ALICE)

            async def listed() -> bool:
                await c.crls.refresh()
                return await is_listed(c, row)

            clock.advance(row.not_after - clock.now() + 60)
            assert await listed()
            clock.advance(c.local().crl_seconds)
            assert not await listed()

    run(scenario())


def test_a_certificate_that_expires_between_two_crls_is_on_the_second(
    store: Store, clock: ManualClock
) -> None:
    """RFC 5280 section 3.3: on one regular CRL after its expiry, however long that takes to come."""

    async def scenario() -> None:
        async with core(store, clock) as c:
            row = await certificate_of(c, (await c.enrollment.submit(ask())).certificate_id)
            clock.advance(row.not_after - clock.now() - 60)
            await c.revoker.revoke(row.id, 4, ALICE)
            await c.crls.refresh()
            clock.advance(c.local().crl_seconds // 2)
            assert await c.crls.refresh() == 17
            assert await is_listed(c, row)

    run(scenario())


def test_a_crl_that_was_begun_earlier_does_not_replace_one_that_knows_more(
    store: Store, clock: ManualClock
) -> None:
    """Not even where the slower node's clock is ahead, and so its CRL's number higher."""

    class Slow(LocalAuthority):
        def __init__(self, authority: LocalAuthority) -> None:
            self.__dict__.update(authority.__dict__)
            self.signing, self.go_on = asyncio.Event(), asyncio.Event()

        async def sign_crl(self, generation: int, template: CRLTemplate) -> bytes:
            self.signing.set()
            await self.go_on.wait()
            return await super().sign_crl(generation, template)

    async def scenario() -> None:
        async with core(store, clock) as c:
            row = await certificate_of(c, (await c.enrollment.submit(ask())).certificate_id)
            if row.crl_shard:  # the shard that the slow node begins with
                await store.write(lambda tx: tx.run("UPDATE certificates SET crl_shard = 0"))
                row = await certificate_of(c, row.id)
            slow, ahead = Slow(c.local()), ManualClock(clock.now() + 5)
            other = CRLPublisher(store, ahead, Runner(store, ahead, "b"), lambda: {slow.name: slow}, CRL_JOB)
            late = asyncio.create_task(other.refresh())
            await slow.signing.wait()
            await c.revoker.revoke(row.id, 4, ALICE)
            await c.crls.refresh()
            assert await is_listed(c, row)
            slow.go_on.set()
            await late
            assert await is_listed(c, row)

    run(scenario())


async def is_listed(c: Core, row: StoredCertificate) -> bool:
    parsed = x509.load_der_x509_crl((await published(c, "issuing", row.crl_shard)).der)
    return parsed.get_revoked_certificate_by_serial_number(int.from_bytes(row.serial, "big")) is not None


def test_a_hold_is_on_the_crl_until_it_is_released(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.runner.start()
            row = await certificate_of(c, (await c.enrollment.submit(ask())).certificate_id)
            serial = int.from_bytes(row.serial, "big")

            async def listed() -> x509.RevokedCertificate | None:
                for _ in range(250):
                    open_jobs = await store.read(
                        lambda tx: tx.all("SELECT id FROM jobs WHERE state IN ('waiting', 'running')")
                    )
                    if not open_jobs:
                        break
                    await asyncio.sleep(0.02)
                crl = x509.load_der_x509_crl((await published(c, "issuing", row.crl_shard)).der)
                return crl.get_revoked_certificate_by_serial_number(serial)

            held = await c.revoker.hold(row.id, ALICE)
            assert (held.revoked, held.revocation_reason) == (clock.now(), 6)
            entry = await listed()
            assert entry is not None
            reason = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
            assert reason is x509.ReasonFlags.certificate_hold
            with pytest.raises(Refused, match="already revoked or on hold"):
                await c.revoker.hold(row.id, ALICE)

            released = await c.revoker.release(row.id, ALICE)
            assert (released.revoked, released.revocation_reason) == (None, None)
            assert await listed() is None
            with pytest.raises(Refused, match="not on hold"):
                await c.revoker.release(row.id, ALICE)
            kinds = await store.read(lambda tx: tx.all("SELECT kind FROM events ORDER BY id"))
            assert [k for (k,) in kinds if k.startswith("certificate")] == [
                "certificate.issued",
                "certificate.held",
                "certificate.released",
            ]
            await c.runner.stop()

    run(scenario())


def test_what_is_on_hold_can_be_revoked_for_good_as_of_when_the_hold_began(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            row = await certificate_of(c, (await c.enrollment.submit(ask())).certificate_id)
            held = await c.revoker.hold(row.id, ALICE)
            clock.advance(3600)
            revoked = await c.revoker.revoke(row.id, 1, ALICE)
            assert (revoked.revoked, revoked.revocation_reason) == (held.revoked, 1)
            assert await store.read(lambda tx: certificates.is_blocked(tx, row.spki_sha256))
            with pytest.raises(Refused, match="not on hold"):
                await c.revoker.release(row.id, ALICE)
            with pytest.raises(Refused, match="already revoked"):
                await c.revoker.revoke(row.id, 4, ALICE)
            with pytest.raises(Refused, match="already revoked"):
                await c.revoker.hold(row.id, ALICE)

    run(scenario())
