"""From an ask to a certificate, on both databases."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from certloom.audit import Origin
from certloom.clock import ManualClock
from certloom.enrollment.asks import Ask
from certloom.enrollment.errors import Refused, Unavailable
from certloom.enrollment.states import State
from certloom.pki.certificates import CertificateTemplate
from certloom.pki.csr import CertificateRequest, parse_csr
from certloom.pki.identifiers import Identifier, parse_dns
from certloom.pki.keys import facts_of, spki_of
from certloom.policy.decisions import Requester
from certloom.policy.profiles import Profile, parse_profile
from certloom.store import Store, authorities, certificates, requests
from certloom.store.base import StoreError, Tx
from certloom.store.certificates import StoredCertificate
from tests.conftest import run
from tests.core import Core, core

ALICE = Origin("acme-account:alice", "192.0.2.1", "trace-1")


def csr(name: str = "www.example.com") -> CertificateRequest:
    key = ec.generate_private_key(ec.SECP256R1())
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
        .sign(key, hashes.SHA256())
    )
    return parse_csr(request.public_bytes(serialization.Encoding.DER))


def ask(request: CertificateRequest | None = None, **changes: Any) -> Ask:
    request = request or csr()
    values: dict[str, Any] = {
        "protocol": "acme",
        "channel": "default",
        "profile": "tls-server",
        "requester": Requester("acme-account", "alice"),
        "csr": request,
        "identifiers": request.identifiers,
        "origin": ALICE,
        "idempotency_key": "acme:1",
    }
    return Ask(**(values | changes))


def approved_by(people: int) -> Profile:
    return parse_profile(
        {
            "name": "tls-server",
            "authority": "issuing",
            "keys": [{"type": "ec"}],
            "extended_key_usage": ["serverAuth"],
            "validity": {"default": "30d"},
            "approval": {"approvers": people},
            "lint": {"mode": "off"},
        }
    )


async def everything(store: Store) -> tuple[int, int, int]:
    """How many requests, certificates and events there are."""

    def unit(tx: Tx) -> tuple[int, int, int]:
        counts = [
            tx.all(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("enrolment_requests", "certificates", "events")
        ]
        return counts[0], counts[1], counts[2]

    return await store.read(unit)


async def certificate_of(c: Core, id: int | None) -> StoredCertificate:
    assert id is not None
    found = await c.store.read(lambda tx: certificates.get(tx, id))
    assert found is not None
    return found


async def settled(c: Core, id: str) -> requests.EnrolmentRequest:
    """The request once its job has run."""
    for _ in range(200):
        found = await c.store.read(lambda tx: requests.get(tx, id))
        assert found is not None
        if found.state not in (State.APPROVED, State.ISSUING):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError("the request was never issued")


def test_an_ask_within_policy_is_issued_recorded_and_told_of_in_one_unit(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            joined: list[str] = []
            request = await c.enrollment.submit(ask(), lambda tx, r: joined.append(r.state))
            assert request.state == State.ISSUED
            assert joined == ["issued"]
            row = await certificate_of(c, request.certificate_id)
            issued = x509.load_der_x509_certificate(row.der)
            names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert names.get_values_for_type(x509.DNSName) == ["www.example.com"]
            assert row.serial == issued.serial_number.to_bytes(16, "big")
            assert row.request_id == request.id
            point = issued.extensions.get_extension_for_class(x509.CRLDistributionPoints).value[0]
            assert point.full_name is not None
            assert point.full_name[0].value == f"http://pki.test:8080/crl/issuing/{row.crl_shard}.crl"
            events = await store.read(
                lambda tx: tx.all("SELECT kind, actor, origin, trace FROM events ORDER BY id")
            )
            assert events == [("certificate.issued", "acme-account:alice", "192.0.2.1", "trace-1")]
            # The serial's reservation went with the record.
            state = await store.read(lambda tx: authorities.serial_state(tx, "issuing", row.serial))
            assert state is None

    run(scenario())


def test_what_the_protocol_adds_commits_or_falls_with_the_certificate(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:

            def fail(tx: Tx, request: requests.EnrolmentRequest) -> None:
                raise StoreError("the disk is full")

            with pytest.raises(Unavailable) as caught:
                await c.enrollment.submit(ask(), fail)
            assert caught.value.code == "store-unavailable"
            assert await everything(store) == (0, 0, 0)
            assert (await c.enrollment.submit(ask())).state == State.ISSUED

    run(scenario())


def test_asking_again_gives_the_same_certificate(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            request = csr()
            first = await c.enrollment.submit(ask(request))
            again = await c.enrollment.submit(ask(request))
            assert again == first
            assert (await everything(store))[1] == 1

    run(scenario())


def test_two_asks_at_the_same_instant_give_one_certificate(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            request = csr()
            answers = await asyncio.gather(*(c.enrollment.submit(ask(request)) for _ in range(8)))
            assert len({answer.certificate_id for answer in answers}) == 1
            assert (await everything(store))[:2] == (1, 1)

    run(scenario())


def test_the_same_key_with_another_csr_is_refused(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            await c.enrollment.submit(ask())
            with pytest.raises(Refused) as caught:
                await c.enrollment.submit(ask(csr()))
            assert caught.value.code == "different-ask"
            request = csr()
            await c.enrollment.submit(ask(request, idempotency_key="2"))
            with pytest.raises(Refused):
                await c.enrollment.submit(
                    ask(request, idempotency_key="2", requester=Requester("acme-account", "mallory"))
                )

    run(scenario())


def test_a_refusal_says_why_and_stores_nothing(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            many: tuple[Identifier, ...] = tuple(parse_dns(f"h{n}.example.com") for n in range(101))
            with pytest.raises(Refused) as caught:
                await c.enrollment.submit(ask(identifiers=many))
            assert caught.value.code == "too-many-names"
            with pytest.raises(Refused) as unknown:
                await c.enrollment.submit(ask(profile="nothing"))
            assert unknown.value.code == "not-configured"
            assert await everything(store) == (0, 0, 0)

    run(scenario())


def test_a_weak_key_is_refused_whichever_protocol_brings_it(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
            weak = msgspec.structs.replace(csr(), key=facts_of(spki_of(short)))
            with pytest.raises(Refused) as caught:
                await c.enrollment.submit(ask(weak))
            assert caught.value.code == "rsa-key-too-small"

    run(scenario())


def test_a_blocked_key_is_refused_also_when_blocked_during_signing(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            request = csr()
            spki = request.key.spki_sha256
            authority = c.local()
            issue = authority.issue

            async def block_meanwhile(contents: Any) -> Any:
                issued = await issue(contents)
                await store.write(lambda tx: certificates.block_key(tx, spki, "test", clock.now()))
                return issued

            authority.issue = block_meanwhile  # type: ignore[method-assign]
            for _ in range(2):
                with pytest.raises(Refused) as caught:
                    await c.enrollment.submit(ask(request))
                assert caught.value.code == "key-blocked"
            assert (await everything(store))[:2] == (0, 0)

    run(scenario())


def test_a_serial_that_another_node_burned_meanwhile_is_never_shown(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            authority = c.local()
            issue = authority.issue

            async def slow(contents: Any) -> Any:
                issued = await issue(contents)
                await store.write(lambda tx: authorities.burn_reserved(tx, clock.now() + 1))
                return issued

            authority.issue = slow  # type: ignore[method-assign]
            with pytest.raises(Unavailable):
                await c.enrollment.submit(ask())
            assert (await everything(store))[:2] == (0, 0)

    run(scenario())


def test_an_authority_that_takes_its_time_is_asked_by_a_job(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            c.local().immediate = False
            await c.runner.start()
            request = await c.enrollment.submit(ask())
            assert request.state == State.ISSUING
            done = await settled(c, request.id)
            assert done.state == State.ISSUED
            await c.runner.stop()

    run(scenario())


def test_a_successor_is_linked_to_what_it_replaces(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            first = await c.enrollment.submit(ask())
            second = await c.enrollment.submit(ask(csr(), idempotency_key="2", replaces=first.certificate_id))
            row = await certificate_of(c, first.certificate_id)
            assert row.replaced_by == second.certificate_id

    run(scenario())


def test_a_certificate_that_differs_from_what_was_decided_is_withheld_and_its_serial_burned(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with core(store, clock) as c:
            sign = c.signing.certificate

            async def wrong(key_id: str, issuer: bytes, template: CertificateTemplate) -> bytes:
                other = msgspec.structs.replace(template, identifiers=(parse_dns("evil.example.com"),))
                return await sign(key_id, issuer, other)

            c.signing.certificate = wrong  # type: ignore[method-assign]
            with pytest.raises(Refused) as caught:
                await c.enrollment.submit(ask())
            assert caught.value.code == "recheck-failed"
            states = await store.read(
                lambda tx: tx.all("SELECT state, count(*) FROM serials GROUP BY state ORDER BY state")
            )
            assert states[0] == ("burned", 1)
            assert (await everything(store))[:2] == (0, 0)

    run(scenario())


def test_serials_that_a_crash_left_reserved_are_burned_at_the_next_start(
    store: Store, clock: ManualClock
) -> None:
    from certloom.authorities.serials import LIFE, SerialPool, burn_abandoned

    async def scenario() -> None:
        pool = SerialPool(store, clock, "issuing", "dead-node")
        serial = await pool.take()
        assert await burn_abandoned(store, clock, alone=False) == 0
        clock.advance(LIFE + 1)
        assert await burn_abandoned(store, clock, alone=False) == 128
        assert await store.read(lambda tx: authorities.serial_state(tx, "issuing", serial)) == "burned"

    run(scenario())


def test_a_pool_gives_back_what_nothing_was_signed_under(store: Store, clock: ManualClock) -> None:
    from certloom.authorities.serials import SerialPool

    async def scenario() -> None:
        pool = SerialPool(store, clock, "issuing", "node")
        taken = {await pool.take() for _ in range(100)}
        assert len(taken) == 100
        await pool.close()
        left = await store.read(lambda tx: tx.all("SELECT count(*) FROM serials"))
        assert left[0][0] == 100

    run(scenario())
