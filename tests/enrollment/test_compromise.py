"""Compromised keys: blocked for ever, and all that has them revoked; on both databases."""

from __future__ import annotations

import asyncio
from itertools import count

import msgspec
import pytest

from certloom.clock import ManualClock
from certloom.enrollment.compromise import Report, is_proof
from certloom.enrollment.errors import Refused
from certloom.enrollment.revoke import COMPROMISE_JOB
from certloom.pki import signatures
from certloom.pki.csr import CertificateRequest, parse_csr, tbs_csr
from certloom.pki.keys import generate, spki_of
from certloom.pki.names import COMMON_NAME, Name
from certloom.store import Store, certificates, crls
from tests.conftest import run
from tests.core import Core, core
from tests.enrollment.test_pipeline import ALICE, ask, certificate_of, csr

_NUMBERS = count(1)


async def issue(c: Core, request: CertificateRequest, many: int) -> list[int]:
    ids = []
    for _ in range(many):
        made = await c.enrollment.submit(ask(request, idempotency_key=str(next(_NUMBERS))))
        assert made.certificate_id is not None
        ids.append(made.certificate_id)
    return ids


async def report(c: Core, key: bytes, *, authorities: bool = False) -> Report:
    return await c.store.write(
        lambda tx: c.compromise.report_in(tx, key, "it leaked", ALICE, authorities=authorities)
    )


async def reasons(c: Core) -> dict[int, int | None]:
    rows = await c.store.read(lambda tx: tx.all("SELECT id, revocation_reason FROM certificates ORDER BY id"))
    return dict(rows)


async def jobs_done(c: Core, kind: str = COMPROMISE_JOB) -> None:
    waiting = "SELECT count(*) FROM jobs WHERE kind = ? AND state IN ('waiting', 'running')"
    while await c.store.read(lambda tx: tx.one(waiting, (kind,))) != (0,):
        await asyncio.sleep(0.02)


def test_every_certificate_with_the_key_is_revoked_and_no_other(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            lost, other = csr(), csr()
            first, second, held, superseded = await issue(c, lost, 4)
            (untouched,) = await issue(c, other, 1)
            await c.revoker.hold(held, ALICE)
            await c.revoker.revoke(superseded, 4, ALICE)
            done = await report(c, lost.key.spki_sha256)
            assert (done.new, done.revoked, done.left, done.authorities) == (True, 4, False, ())
            assert await reasons(c) == {first: 1, second: 1, held: 1, superseded: 1, untouched: None}
            again = await report(c, lost.key.spki_sha256)
            assert (again.new, again.revoked, again.left) == (False, 0, False)
            with pytest.raises(Refused) as caught:
                await issue(c, lost, 1)
            assert caught.value.code == "key-blocked"
            await issue(c, other, 1)
            kinds = await store.read(
                lambda tx: tx.all(
                    "SELECT kind FROM events WHERE kind IN ('key.blocked', 'certificate.revoked')"
                )
            )
            assert [kind for (kind,) in kinds].count("key.blocked") == 1
            assert [kind for (kind,) in kinds].count("certificate.revoked") == 5

    run(scenario())


def test_what_has_expired_stays_as_it_was(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            lost = csr()
            (old,) = await issue(c, lost, 1)
            clock.advance((await certificate_of(c, old)).not_after - clock.now() + 1)
            assert (await report(c, lost.key.spki_sha256)).revoked == 0
            assert await reasons(c) == {old: None}

    run(scenario())


def test_a_key_that_nobody_here_has_is_blocked_before_it_comes(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            lost = csr()
            assert (await report(c, lost.key.spki_sha256)).new
            with pytest.raises(Refused) as caught:
                await issue(c, lost, 1)
            assert caught.value.code == "key-blocked"

    run(scenario())


def test_many_are_revoked_in_pieces_and_all_are_on_crls(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            lost = csr()
            ids = await issue(c, lost, 230)
            done = await report(c, lost.key.spki_sha256)
            assert (done.revoked, done.left) == (100, True)
            await c.runner.start()
            await jobs_done(c)
            assert await reasons(c) == dict.fromkeys(ids, 1)
            await jobs_done(c, "status.crl")
            listed = await store.read(lambda tx: [crls.get(tx, "issuing", 1, shard) for shard in range(16)])
            assert all(listed)
            actors = await store.read(
                lambda tx: tx.all("SELECT DISTINCT actor FROM events WHERE kind = 'certificate.revoked'")
            )
            assert actors == [(ALICE.actor,)]
            await c.runner.stop()

    run(scenario())


def test_a_revocation_for_key_compromise_by_any_door_takes_the_others_along(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            lost = csr()
            first, second, third = await issue(c, lost, 3)
            await c.revoker.revoke(second, 1, ALICE)
            await c.runner.start()
            await jobs_done(c)
            await c.runner.stop()
            assert await reasons(c) == {first: 1, second: 1, third: 1}

    run(scenario())


def test_ca_certificates_are_revoked_only_when_that_is_said(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            lost = csr()
            leaf, ca = await issue(c, lost, 2)
            await store.write(lambda tx: tx.run("UPDATE certificates SET profile = 'ca' WHERE id = ?", (ca,)))
            done = await report(c, lost.key.spki_sha256)
            assert (done.revoked, done.authorities) == (1, (ca,))
            assert await reasons(c) == {leaf: 1, ca: None}
            done = await report(c, lost.key.spki_sha256, authorities=True)
            assert (done.revoked, done.authorities) == (1, ())
            assert await reasons(c) == {leaf: 1, ca: 2}

    run(scenario())


def test_a_report_whose_job_was_lost_with_its_process_is_finished_by_the_next(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            lost = csr()
            ids = await issue(c, lost, 130)
            await report(c, lost.key.spki_sha256)
        async with core(store, clock, "another") as c:
            await c.runner.start()
            await jobs_done(c)
            await c.runner.stop()
            assert await reasons(c) == dict.fromkeys(ids, 1)
            assert await store.read(lambda tx: certificates.is_blocked(tx, lost.key.spki_sha256))

    run(scenario())


@pytest.mark.parametrize(
    ("name", "proves"),
    [
        ("Proof of key compromise", True),
        ("PROOF OF KEY COMPROMISE for Example CA", True),
        (" proof of key compromise", True),
        ("www.example.com", False),
        ("key compromise", False),
        ("", False),
    ],
)
def test_only_a_request_that_says_so_is_a_proof(name: str, proves: bool) -> None:
    key = generate("P-256")
    subject = Name(((COMMON_NAME, name),)) if name else Name(())
    request = parse_csr(signatures.assemble(key, tbs_csr(subject, spki_of(key), ca=False)))
    assert is_proof(request) is proves
    assert is_proof(msgspec.structs.replace(request, common_name=None)) is False
