"""What OCSP answers, on both databases."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import msgspec
import pytest
import structlog

from certloom.authorities.lint import lint_ocsp
from certloom.clock import ManualClock
from certloom.pki import der, ocsp
from certloom.pki.certificates import parse_certificate
from certloom.pki.template import IssuerFacts
from certloom.signing import SigningUnavailable
from certloom.signing.service import Service
from certloom.store import Store, Tx, authorities, open_store, recovery
from tests.conftest import run
from tests.core import SIGNER_KEY
from tests.enrollment.test_pipeline import ALICE
from tests.pki.making import hierarchy
from tests.pki.ocsp_requests import cert_id, malformed, request
from tests.status.ocsp_desk import Desk, One, desk, read

UNISSUED = b"\x77" * 16


async def seen(d: Desk) -> None:
    """What periodically happens where nodes share a database."""
    if d.c.store.dialect != "sqlite":
        await d.responder.follow()


def zulu(at: int) -> str:
    return der.generalized_time(at)[2:].decode()


def test_a_certificate_is_good_until_it_is_held_or_revoked(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            assert (await d.ask(row.serial)).only == One(row.serial, "good")
            clock.advance(10)
            await d.c.revoker.hold(row.id, ALICE)
            await seen(d)
            held = One(row.serial, "revoked", zulu(clock.now()), 6)
            assert (await d.ask(row.serial)).only == held
            await d.c.revoker.release(row.id, ALICE)
            await seen(d)
            assert (await d.ask(row.serial)).only == One(row.serial, "good")
            clock.advance(10)
            await d.c.revoker.revoke(row.id, 1, ALICE)
            await seen(d)
            assert (await d.ask(row.serial)).only == One(row.serial, "revoked", zulu(clock.now()), 1)
            other = await d.issue()
            await d.c.revoker.revoke(other.id, 0, ALICE)
            await seen(d)
            # A reason that says nothing is left out (RFC 5280 section 5.3.1).
            assert (await d.ask(other.serial)).only == One(other.serial, "revoked", zulu(clock.now()), None)

    run(scenario())


def test_sqlite_never_shows_an_answer_from_before_a_revocation(tmp_path: object, clock: ManualClock) -> None:
    async def scenario() -> None:
        store = await open_store(f"sqlite:///{tmp_path}/certloom.db", clock=clock)
        try:
            async with desk(store, clock) as d:
                rows = [await d.issue() for _ in range(3)]
                asking = True

                async def ask_on() -> list[str]:
                    kinds = []
                    while asking:
                        kinds.append((await d.ask(rows[0].serial)).only.kind)
                        await asyncio.sleep(0)
                    return kinds

                task = asyncio.create_task(ask_on())
                await asyncio.sleep(0.05)
                await d.c.revoker.revoke(rows[0].id, 4, ALICE)
                assert (await d.ask(rows[0].serial)).only.kind == "revoked"
                asking = False
                kinds = await task
                assert kinds == sorted(kinds)  # good, and from then on revoked
        finally:
            await store.close()

    run(scenario())


def test_another_nodes_revocation_is_seen_when_changes_are_looked_for(
    postgresql_url: str, clock: ManualClock
) -> None:
    async def scenario() -> None:
        store = await open_store(postgresql_url, clock=clock)
        other = await open_store(postgresql_url, clock=clock)
        try:
            async with desk(store, clock) as d, desk(other, clock) as o:
                await d.responder.follow()
                row, bystander = await d.issue(), await d.issue()
                for certificate in (row, bystander):
                    assert (await d.ask(certificate.serial)).only.kind == "good"
                    assert (await o.ask(certificate.serial)).only.kind == "good"
                await o.c.revoker.revoke(row.id, 4, ALICE)
                await d.responder.follow()
                before = d.signatures
                assert (await d.ask(bystander.serial)).only.kind == "good"
                assert d.signatures == before  # what nobody changed is not signed again
                assert (await d.ask(row.serial)).only.kind == "revoked"
                # Where it has not looked for long, it asks the database each time.
                await o.c.revoker.revoke(bystander.id, 4, ALICE)
                d.responder._sighted_until = 0.0
                assert (await d.ask(bystander.serial)).only.kind == "revoked"
        finally:
            await store.close()
            await other.close()

    run(scenario())


def test_serials_that_were_never_issued(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            unknown = await d.ask(UNISSUED)
            assert unknown.only == One(UNISSUED, "unknown")
            assert not unknown.extended
            await d.set(ocsp_non_issued="revoked")
            revoked = await d.ask(UNISSUED)
            # RFC 6960 section 2.2: on hold, since 1970, and saying that it is so (section 4.4.8).
            assert revoked.only == One(UNISSUED, "revoked", "19700101000000Z", 6)
            assert revoked.extended
            for nothing in (b"", b"\x00"):
                raw = request([d.ids([b"\x01"])[0][:-1] + (nothing or b"\x00")])
                assert read((await d.raw(raw)).body).all[0].kind == "revoked"
            # Whoever restored a backup cannot say what was issued since.
            await store.write(lambda tx: recovery.mark_restored(tx, clock.now() - 60, clock.now()))
            assert (await d.ask(UNISSUED)).only.kind == "unknown"

    run(scenario())


def test_serials_without_a_certificate(store: Store, clock: ManualClock) -> None:
    burned, reserved, lost = b"\x11" * 16, b"\x12" * 16, b"\x13" * 16

    async def scenario() -> None:
        async with desk(store, clock) as d:
            at = clock.now()

            def unit(tx: Tx) -> None:
                authorities.reserve_serials(tx, "issuing", [burned, reserved, lost], "node", at)
                authorities.burn_serial(tx, "issuing", burned)
                tx.run("UPDATE serials SET state = 'unknown' WHERE serial = ?", (lost,))

            await store.write(unit)
            clock.advance(100)
            # Something may have been signed under it and never shown.
            assert (await d.ask(burned)).only == One(burned, "revoked", zulu(at), None)
            # Its certificate may come this very second, and is then good.
            assert (await d.ask(reserved)).only == One(reserved, "unknown")
            # Its certificate may be in use.
            await d.set(ocsp_non_issued="revoked")
            assert (await d.ask(lost)).only == One(lost, "unknown")

    run(scenario())


def test_an_issued_serial_is_good_as_soon_as_it_is_recorded(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            await store.write(
                lambda tx: tx.run("UPDATE certificates SET serial = ? WHERE id = ?", (UNISSUED, row.id))
            )
            assert (await d.ask(row.serial)).only.kind == "unknown"
            await store.write(
                lambda tx: tx.run("UPDATE certificates SET serial = ? WHERE id = ?", (row.serial, row.id))
            )
            assert (await d.ask(row.serial)).only.kind == "good"

    run(scenario())


def test_several_certificates_are_answered_in_the_order_asked(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            first, second = await d.issue(), await d.issue()
            await d.c.revoker.revoke(second.id, 5, ALICE)
            issuing = d.c.books.authority_row("issuing")
            ca_serial = _serial(issuing.certificate)
            stranger: IssuerFacts = hierarchy().issuer
            asked = [
                *d.ids([second.serial], algorithm=ocsp.SHA256),
                cert_id(stranger, first.serial),
                *d.ids([first.serial, UNISSUED, first.serial]),
                *d.ids([ca_serial], "root"),
            ]
            said = read((await d.raw(request(asked, b"n" * 32))).body)
            assert [one.kind for one in said.all] == ["revoked", "unknown", "good", "unknown", "good", "good"]
            assert [one.serial for one in said.all] == [
                second.serial,
                first.serial,
                first.serial,
                UNISSUED,
                first.serial,
                ca_serial,
            ]
            assert said.nonce == b"n" * 32

    run(scenario())


def _serial(certificate: bytes) -> bytes:
    return parse_certificate(certificate).serial


def test_who_is_asked_about_another_issuers_certificates_is_not_authorized(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            stranger = hierarchy().issuer
            assert (
                read((await d.raw(request([cert_id(stranger, b"\x05")] * 2))).body).status == "unauthorized"
            )
            ours = d.issuer()
            # The name alone does not make it ours, nor the key.
            for made in (
                msgspec.structs.replace(ours, spki=stranger.spki),
                msgspec.structs.replace(ours, name=stranger.name),
            ):
                assert read((await d.raw(request([cert_id(made, b"\x05")]))).body).status == "unauthorized"
            md5 = ocsp.cert_id("1.2.840.113549.2.5", bytes(16), bytes(16), b"\x05", der.NULL)
            assert read((await d.raw(request([md5]))).body).status == "unauthorized"
            # Sent to an authority's own address, it is that one's to say that it does not know.
            assert read((await d.raw(request([md5]), "issuing")).body).only.kind == "unknown"

    run(scenario())


def test_ca_certificates_are_answered_by_their_issuer(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = d.c.books.authority_row("issuing")
            serial = _serial(row.certificate)
            assert (await d.ask(serial, name="root")).only.kind == "good"
            # Also one that is in no inventory, having been made before there was one for them.
            await store.write(lambda tx: tx.run("DELETE FROM certificates WHERE serial = ?", (serial,)))
            assert (await d.ask(serial, name="root", nonce=b"1")).only.kind == "good"
            assert (await d.ask(serial, nonce=b"2")).only.kind == "unknown"

    run(scenario())


def test_a_certificate_is_answered_for_by_the_generation_that_issued_it(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            await store.write(
                lambda tx: tx.run("UPDATE certificates SET generation = 2 WHERE id = ?", (row.id,))
            )
            assert (await d.ask(row.serial)).only.kind == "unknown"

    run(scenario())


@pytest.mark.parametrize("algorithm", [ocsp.SHA1, ocsp.SHA256, ocsp.SHA384, ocsp.SHA512])
def test_an_answer_is_signed_once_and_given_again(store: Store, clock: ManualClock, algorithm: str) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            await seen(d)
            row = await d.issue()
            bodies = {(await d.raw(request(d.ids([row.serial], algorithm=algorithm)))).body for _ in range(5)}
            longer = request(d.ids([row.serial], algorithm=algorithm), version=True, signature=True)
            bodies.add((await d.raw(longer)).body)
            assert len(bodies) == 1
            assert d.signatures == 1
            assert d.responder.counts == {("good", "signed"): 1, ("good", "ahead"): 5}
            nonces = {(await d.ask(row.serial, nonce=bytes([n]))).nonce for n in range(3)}
            assert nonces == {b"\0", b"\1", b"\2"}
            assert d.signatures == 4

    run(scenario())


def test_what_is_asked_for_is_signed_anew_before_half_of_its_life_is_over(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            await d.set(ocsp_seconds=1000)
            wanted, forgotten = await d.issue(), await d.issue()
            for certificate in (wanted, wanted, forgotten):
                await seen(d)
                await d.ask(certificate.serial)
            clock.advance(399)
            assert await d.responder.renew() == 0
            clock.advance(2)
            assert await d.responder.renew() == 1
            before = d.signatures
            await seen(d)
            said = await d.ask(wanted.serial)
            assert said.this_update == zulu(clock.now())
            assert said.next_update == zulu(clock.now() + 1000)
            assert d.signatures == before
            clock.advance(100)
            assert len(d.responder.cache) == 2
            await d.responder.renew()
            assert len(d.responder.cache) == 1
            # Nothing older than half of its life is given out, whether or not anybody looked after it.
            clock.advance(401)
            assert (await d.ask(wanted.serial)).this_update == zulu(clock.now())

    run(scenario())


def test_renewing_ahead_sees_a_revocation(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            await d.set(ocsp_seconds=1000)
            row = await d.issue()
            await seen(d)
            await d.ask(row.serial)
            await d.ask(row.serial)
            await store.write(
                lambda tx: tx.run(
                    "UPDATE certificates SET revoked = 5, revocation_reason = 4 WHERE id = ?", (row.id,)
                )
            )
            clock.advance(410)
            assert await d.responder.renew() == 1
            assert (await d.ask(row.serial)).only.kind == "revoked"

    run(scenario())


class Watched(Service):
    """Counts what it is asked to sign, and can be told to be away."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(SIGNER_KEY, clock)
        self.batches: list[int] = []
        self.away = False

    async def sign(self, key_id: str, data: Sequence[bytes]) -> list[bytes]:
        await asyncio.sleep(0.002)
        if self.away:
            raise SigningUnavailable("signer-unreachable", "away")
        self.batches.append(len(data))
        return await super().sign(key_id, data)


async def tell(signing: Watched, d: Desk) -> None:
    """Of the CAs' keys, which the pipeline's own signer made."""
    for row in d.c.books.authority_rows():
        key = await d.c.store.read(partial(authorities.key, id=row.key_id or ""))
        assert key is not None
        signing.know(key.id, key.sealed)


def test_many_at_once_are_few_requests_to_the_signer(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        signing = Watched(clock)
        async with desk(store, clock, signing) as d:
            await tell(signing, d)
            row_ = await d.issue()
            await d.ask(row_.serial, nonce=b"first")
            signing.batches.clear()
            said = await asyncio.gather(*(d.ask(row_.serial, nonce=bytes([n])) for n in range(200)))
            assert [s.nonce for s in said] == [bytes([n]) for n in range(200)]
            assert sum(signing.batches) == 200
            assert len(signing.batches) <= 30
            # The same asked by many at once is signed once.
            other = await d.issue()
            signing.batches.clear()
            bodies = await asyncio.gather(*(d.raw(request(d.ids([other.serial]))) for _ in range(50)))
            assert len({answer.body for answer in bodies}) == 1
            assert sum(signing.batches) == 1

    run(scenario())


def test_many_at_once_are_few_reads_of_a_database_server(postgresql_url: str, clock: ManualClock) -> None:
    async def scenario() -> None:
        store = await open_store(postgresql_url, clock=clock)
        async with desk(store, clock) as d:
            rows = [await d.issue() for _ in range(3)]
            await d.c.revoker.revoke(rows[1].id, 4, ALICE)
            await d.ask(rows[0].serial, nonce=b"first")
            before = d.responder.readings.reads
            serials = [*(row.serial for row in rows), UNISSUED] * 30
            said = await asyncio.gather(*(d.ask(serial, nonce=b"n") for serial in serials))
            assert [s.only.serial for s in said] == serials
            assert [s.only.kind for s in said] == ["good", "revoked", "good", "unknown"] * 30
            assert d.responder.readings.reads - before <= 6
        # A database that is gone is everybody's trouble, and is told to each.
        await store.close()
        gone = await asyncio.gather(*(d.ask(serial, nonce=b"n") for serial in serials))
        assert {s.status for s in gone} == {"tryLater"}
        assert d.responder.counts["tryLater", "unsigned"] == len(serials)

    with structlog.testing.capture_logs() as told:
        run(scenario())
    # And to the log, but not as often as anybody cares to ask.
    assert 1 <= len([line for line in told if line["event"] == "ocsp.not_now"]) <= 3


def test_every_kind_of_answer_is_without_findings(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            await d.set(ocsp_archive_seconds=86_400, ocsp_non_issued="revoked")
            good, held, revoked, silent = [await d.issue() for _ in range(4)]
            await d.c.revoker.hold(held.id, ALICE)
            await d.c.revoker.revoke(revoked.id, 1, ALICE)
            await d.c.revoker.revoke(silent.id, 0, ALICE)
            serials = [good.serial, held.serial, revoked.serial, silent.serial, UNISSUED]
            root = _serial(d.c.books.authority_row("issuing").certificate)
            asked = [request(d.ids([serial])) for serial in serials]
            asked += [request(d.ids([serial], algorithm=ocsp.SHA256), b"n" * 32) for serial in serials]
            asked += [request(d.ids(serials), b"n"), request(d.ids([root, UNISSUED], "root"))]
            kinds = set()
            for one in asked:
                body = (await d.raw(one)).body
                kinds |= {said.kind for said in read(body).all}
                assert lint_ocsp(body) == []
            assert kinds == {"good", "revoked", "unknown"}

    run(scenario())


def test_while_the_signer_is_away_what_was_signed_is_given_until_it_ends(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        signing = Watched(clock)
        async with desk(store, clock, signing) as d:
            await tell(signing, d)
            await d.set(ocsp_seconds=1000)
            row_ = await d.issue()
            assert (await d.ask(row_.serial)).only.kind == "good"
            signing.away = True
            assert (await d.ask(row_.serial, nonce=b"1")).status == "tryLater"
            clock.advance(990)
            assert (await d.ask(row_.serial)).only.kind == "good"
            # But never what is no longer so.
            await d.c.revoker.revoke(row_.id, 4, ALICE)
            await seen(d)
            assert (await d.ask(row_.serial)).status == "tryLater"
            clock.advance(20)
            assert (await d.ask(row_.serial)).status == "tryLater"
            signing.away = False
            assert (await d.ask(row_.serial)).only.kind == "revoked"

    run(scenario())


def test_the_archive_cutoff_is_said_where_the_authority_has_one(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            assert (await d.ask(row.serial)).cutoff == ""
            await d.set(ocsp_archive_seconds=86_400 * 365)
            said = await d.ask(row.serial)
            assert said.cutoff == zulu(clock.now() - 86_400 * 365)
            # Expired for long, and still answered for.
            clock.advance(row.not_after - clock.now() + 86_400)
            assert (await d.ask(row.serial)).only.kind == "good"

    run(scenario())


def test_kept_answers_are_bounded(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock, octets=10_000) as d:
            await seen(d)
            rows = [await d.issue() for _ in range(6)]
            for row in rows:
                await d.ask(row.serial)
                assert d.responder.cache.octets <= 10_000
            assert 0 < len(d.responder.cache) < 6
            before = d.signatures
            await d.ask(rows[-1].serial)
            assert d.signatures == before
            # What does not exist cannot push out what does.
            for n in range(20):
                await d.ask(bytes([0x40, n]))
            await d.ask(rows[-1].serial)
            assert d.signatures == before + 20

    run(scenario())


def test_malformed_requests_are_told_so_and_cost_nothing(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            corpus = malformed(d.issuer())
            for what, data in corpus.items():
                assert read((await d.raw(data)).body).status == "malformedRequest", what
            assert d.signatures == 0
            assert d.responder.counts == {("malformedRequest", "unsigned"): len(corpus)}

    run(scenario())


def test_an_expired_ca_answers_for_nothing(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with desk(store, clock) as d:
            row = await d.issue()
            clock.advance(d.issuer().not_after - clock.now() + 1)
            assert (await d.ask(row.serial)).status == "unauthorized"

    run(scenario())
