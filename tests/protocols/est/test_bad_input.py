"""What the attacker at the door may send: the right status, nothing changed, never a 500."""

from __future__ import annotations

import random

import pytest

from certloom.protocols.est.routes import is_est
from certloom.store import Store
from certloom.store.base import Tx
from tests.conftest import run
from tests.protocols.est.lab import Lab, basic, csr, lab, new_key

OPERATIONS = ("simpleenroll", "simplereenroll", "serverkeygen", "fullcmc")


async def state(it: Lab) -> tuple[int, ...]:
    """How many requests, certificates, transactions and events there are."""

    def unit(tx: Tx) -> tuple[int, ...]:
        tables = ("enrolment_requests", "certificates", "est_transactions", "events")
        return tuple(int((tx.one(f"SELECT count(*) FROM {table}") or (0,))[0]) for table in tables)

    return await it.c.store.read(unit)


def media(operation: str) -> str:
    return "application/pkcs7-mime" if operation == "fullcmc" else "application/pkcs10"


@pytest.mark.parametrize("operation", OPERATIONS)
def test_bodies_that_are_no_requests(store: Store, operation: str) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password = await it.password()
            before = await state(it)
            good = csr(new_key(), "x.example")
            bodies = [
                b"",
                b"\r\n",
                b"!!!!",
                b"====",
                b"MIIB",
                b"\x00" * 100,
                b"\xff" * 100,
                good[:40],
                good + b"\x00",
                b"\x30\x84\xff\xff\xff\xff" + bytes(20),
                b"0\x80" * 500,
                (b"\x30\x82\x01\x00" * 64),
                b"A" * 100_001,
                b'{"csr": 1}',
                b"-----BEGIN CERTIFICATE REQUEST-----\n",
            ]
            for body in bodies:
                answer = await it.enroll(
                    body, operation=operation, raw=True, authorization=password, media=media(operation)
                )
                assert answer.status == 400, (body[:20], answer)
                assert answer.headers["content-type"].startswith("text/plain")
                assert answer.text.count("\n") == 1
            assert await state(it) == before

    run(go())


@pytest.mark.parametrize("operation", OPERATIONS)
def test_requests_with_bits_turned_are_refused_or_meant(store: Store, operation: str) -> None:
    async def go() -> None:
        rng = random.Random(operation)
        async with lab(store) as it:
            password = await it.password()
            good = csr(new_key(), "x.example")
            for _ in range(150):
                body = bytearray(good)
                for _ in range(rng.randint(1, 4)):
                    body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
                answer = await it.enroll(
                    bytes(body), operation=operation, authorization=password, media=media(operation)
                )
                assert answer.status in (400, 403), answer
            assert await it.count() == 0

    run(go())


def test_headers_that_are_no_credentials(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            await it.password()
            before = await state(it)
            body = csr(new_key(), "x.example")
            for header, status in (
                ("Basic", 400),
                ("Basic !!!", 400),
                ("Basic Zm9v", 400),
                ("Basic " + "A" * 4000, 400),
                ("Bearer", 401),
                ("Bearer x y", 401),
                ("Digest username=x", 401),
                (basic("dev", ""), 401),
                (basic("", "x"), 401),
                (basic("dev", "x" * 300), 401),
                (basic("dev\x00", "x"), 401),
                ("Basic 4pyT/w==", 400),
            ):
                # From another minute each time: nobody is to be throttled here.
                it.clock.advance(60)
                answer = await it.enroll(body, authorization=header)
                assert answer.status == status, (header, answer)
            two = ((b"authorization", b"Bearer a"), (b"authorization", b"Bearer b"))
            assert (await it.enroll(body, headers=two)).status == 400
            assert await state(it) == before

    run(go())


def test_other_media_types_are_refused(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password = await it.password()
            for operation in OPERATIONS:
                for wrong in ("application/json", "application/x-www-form-urlencoded", "text/plain", ""):
                    answer = await it.enroll(
                        csr(new_key(), "x.example"), operation=operation, authorization=password, media=wrong
                    )
                    assert answer.status == 415

    run(go())


def test_methods_that_an_operation_does_not_have(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            for operation in OPERATIONS:
                for method in ("GET", "HEAD", "PUT", "DELETE"):
                    answer = await it.ask(f"/.well-known/est/{operation}", method=method)
                    assert answer.status == 405
                    assert answer.headers["allow"] == "POST"
            for operation in ("cacerts", "csrattrs"):
                answer = await it.ask(f"/.well-known/est/{operation}", b"x", method="POST")
                assert answer.headers["allow"] == "GET, HEAD"

    run(go())


def test_a_signature_that_fails_is_no_proof(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            password, body = await it.password(), csr(new_key(), "x.example")
            answer = await it.enroll(body[:-2] + bytes(2), authorization=password)
            assert answer.status == 400
            assert "proof of possession" in answer.text
            assert await it.count() == 0

    run(go())


@pytest.mark.parametrize(
    ("path", "is_ours"),
    [
        ("/.well-known/est/cacerts", True),
        ("/.well-known/est/", True),
        ("/iot/.well-known/est/cacerts", True),
        ("/.well-known/est", False),
        ("/a/b/.well-known/est/cacerts", False),
        ("//.well-known/est/cacerts", False),
        ("/api/v1/.well-known/est/cacerts", False),
        ("/", False),
        ("", False),
    ],
)
def test_which_paths_are_ests(path: str, is_ours: bool) -> None:
    assert is_est(path) is is_ours
