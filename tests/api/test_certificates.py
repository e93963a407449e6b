"""Certificates over REST: searched, downloaded, revoked, held, on both databases."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs7, pkcs12

from certloom.clock import ManualClock
from certloom.identity.principals import Grant, Principal, Scope, holding, local
from tests.api.test_requests_and_approvals import ALICE, MALLORY, Client, pem, problem, serving
from tests.conftest import run

ROOT = local("0")
PASSWORD = "a password of theirs"


async def issue(api: Client, *names: str, **more: Any) -> dict[str, Any]:
    found = []
    for name in names:
        reply = await api(ALICE, "POST", "/requests", {"profile": "free", "csr": pem(name), **more})
        assert reply.status == 201, reply.body
        found.append(json.loads(reply.body))
    shown: dict[str, Any] = json.loads(
        (await api(ALICE, "GET", f"/certificates/{found[-1]['certificate']}")).body
    )
    return shown


async def names(api: Client, who: Principal, query: str) -> list[str]:
    """Of all pages."""
    found: list[str] = []
    cursor = ""
    while True:
        reply = await api(who, "GET", f"/certificates?{query}{cursor}")
        assert reply.status == 200, reply.body
        page = json.loads(reply.body)
        # CA certificates have no names.
        found += [item["names"][0].partition(":")[2] for item in page["items"] if item["names"]]
        if page["next"] is None:
            return found
        cursor = f"&cursor={page['next']}"


def test_certificates_are_found_by_what_is_known_of_them(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            a = await issue(api, "a.example.com")
            clock.advance(10)
            b = await issue(api, "x.b.example.com", lifetime=3600)
            both = ["x.b.example.com", "a.example.com"]
            assert await names(api, ALICE, "limit=1") == both
            assert await names(api, ALICE, "sort=issued&limit=1") == both[::-1]
            assert await names(api, ALICE, "sort=expires&limit=1") == both
            assert await names(api, ALICE, "under=example.com") == both
            assert await names(api, ALICE, "under=b.example.com") == both[:1]
            for query in (
                "name=a.example.com",
                "name=dns:A.example.com",
                f"serial={a['serial']}",
                f"serial={a['serial'].upper()}",
                f"fingerprint={a['fingerprint']}",
                f"spki={a['spki_sha256']}",
                f"expires_after={b['not_after'].replace('+', '%2B')}&expires_before=9999-01-01T00:00:00Z"
                "&name=a.example.com",
                f"issued_before={b['issued'].replace('+', '%2B')}",
            ):
                assert await names(api, ALICE, query) == ["a.example.com"], query
            for query in ("profile=free", "requester=person:alice", "owner=alice", "team=web", "state=valid"):
                assert await names(api, ALICE, query) == both, query
            for query in ("profile=none", "owner=bob", "state=revoked", "authority=none", "name=192.0.2.1"):
                assert await names(api, ALICE, query) == [], query
            clock.advance(4000)
            assert await names(api, ALICE, "state=expired") == both[:1]
            # What is not theirs is not there for them.
            assert await names(api, MALLORY, "under=example.com") == []
            assert (await api(MALLORY, "GET", f"/certificates/{a['id']}")).status == 404

    run(scenario())


def test_a_role_reaches_the_certificates_of_its_scope_alone(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    def auditor(**scope: Any) -> Principal:
        held = holding([Grant(role="auditor", scope=Scope(**scope))], {})
        return Principal(kind="token", id="t", name="t", owner="t", held=held)

    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            await issue(api, "a.example.com", "b.example.com")
            for seen in ({}, {"teams": ("web",)}, {"profiles": ("free",)}, {"channels": ("rest/api",)}):
                assert len(await names(api, auditor(**seen), "limit=1")) == 2, seen
            for unseen in ({"teams": ("db",)}, {"profiles": ("x",)}, {"channels": ("acme/default",)}):
                assert await names(api, auditor(**unseen), "limit=1") == [], unseen
            assert await names(api, auditor(names=("b.example.com",)), "limit=1") == ["b.example.com"]

    run(scenario())


@pytest.mark.parametrize(
    "query",
    [
        "name=' OR 1=1 --",
        "name=%25",
        "under=*.example.com",
        "under=",
        "serial=zz",
        "fingerprint=00",
        "state=good",
        "sort=name",
        "limit=0",
        "limit=1001",
        "cursor=AAAA",
        "expires_after=yesterday",
        "expires_after=2020-01-01T00:00:00",
        "nonsense=1",
        "profile=a&profile=b",
        "name=a%00b",
    ],
)
def test_a_search_that_makes_no_sense_is_a_problem_of_the_client(
    query: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/c.db", tmp_path, clock) as api:
            reply = await api(ROOT, "GET", f"/certificates?{query}".replace(" ", "%20"))
            assert problem(reply)["status"] in (400, 422)

    run(scenario())


def test_a_search_streams_everything_as_lines(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            await issue(api, *(f"h{number}.example.com" for number in range(5)))
            reply = await api(ALICE, "GET", "/certificates?under=example.com", accept="application/jsonl")
            assert reply.headers["content-type"] == "application/jsonl"
            lines = [json.loads(line) for line in reply.body.splitlines()]
            assert [line["names"] for line in lines] == [[f"dns:h{n}.example.com"] for n in (4, 3, 2, 1, 0)]

    run(scenario())


def test_a_certificate_is_downloaded_in_every_form(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            shown = await issue(api, "www.example.com")
            path = f"/certificates/{shown['id']}"
            own = x509.load_pem_x509_certificate(shown["certificate_pem"].encode())

            async def get(form: str) -> bytes:
                reply = await api(ALICE, "GET", f"{path}/download?format={form}")
                assert reply.status == 200
                return reply.body

            assert x509.load_pem_x509_certificate(await get("pem")) == own
            assert x509.load_der_x509_certificate(await get("der")) == own
            chain = x509.load_pem_x509_certificates(await get("chain"))
            assert chain[0] == own
            own.verify_directly_issued_by(chain[1])
            bundle = await get("pkcs7")
            assert set(pkcs7.load_der_pkcs7_certificates(bundle)) == set(chain)
            printed = subprocess.run(
                ["openssl", "pkcs7", "-inform", "DER", "-print_certs", "-noout"],
                input=bundle,
                capture_output=True,
                check=True,
            )
            assert printed.stdout.count(b"issuer=") == len(chain)
            wanted = {"password": PASSWORD}
            reply = await api(ALICE, "POST", f"{path}/pkcs12", wanted)
            assert reply.status == 200, reply.body
            store = pkcs12.load_pkcs12(reply.body, PASSWORD.encode())
            assert {found.certificate for found in store.additional_certs} == set(chain)
            assert store.key is None
            refused = await api(ALICE, "POST", f"{path}/pkcs12", wanted | {"key": True})
            assert problem(refused)["status"] == 410

    run(scenario())


def test_a_key_made_here_leaves_in_a_pkcs12_for_those_who_may_and_its_password_is_told_nowhere(
    database_url: str, tmp_path: Path, clock: ManualClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            body = {"profile": "free", "key": {"algorithm": "P-256"}, "names": ["www.example.com"]}
            made = await api(ALICE, "POST", "/requests", body)
            assert made.status == 201, made.body
            path = f"/certificates/{json.loads(made.body)['certificate']}/pkcs12"
            wanted = {"password": PASSWORD, "key": True}
            reply = await api(ALICE, "POST", path, wanted)
            assert reply.status == 200, reply.body
            store = pkcs12.load_pkcs12(reply.body, PASSWORD.encode())
            assert isinstance(store.key, ec.EllipticCurvePrivateKey)
            assert store.cert is not None
            assert store.cert.certificate.public_key() == store.key.public_key()
            auditor = holding([Grant(role="auditor", scope=Scope())], {})
            sees = Principal(kind="token", id="t", name="t", owner="t", held=auditor)
            assert problem(await api(sees, "POST", path, wanted))["status"] == 403
            assert (await api(sees, "POST", path, {"password": PASSWORD})).status == 200
            events = await api.rooms.store.read(lambda tx: tx.all("SELECT kind, data FROM events"))
            assert "request.key_fetched" in [kind for kind, _ in events]
            assert PASSWORD not in str(events)
            bad = await api(ALICE, "POST", path, {"password": PASSWORD, "key": "perhaps"})
            assert bad.status == 400
            assert PASSWORD.encode() not in bad.body

    run(scenario())
    printed = capsys.readouterr()
    assert PASSWORD not in printed.out + printed.err


def test_hold_release_revoke_and_replace(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            shown = await issue(api, "www.example.com")
            path = f"/certificates/{shown['id']}"

            async def act(who: Principal, what: str, body: Any = None, method: str = "POST") -> Any:
                reply = await api(who, method, f"{path}/{what}", body)
                return reply.status, json.loads(reply.body)

            assert (await act(ALICE, "hold"))[0] == 403
            status, held = await act(ROOT, "hold")
            assert (status, held["state"], held["reason"]) == (200, "held", "certificateHold")
            assert await names(api, ROOT, "state=held") == ["www.example.com"]
            assert (await act(ROOT, "hold"))[0] == 409
            status, free = await act(ROOT, "release")
            assert (status, free["state"], free["revoked"]) == (200, "valid", None)
            assert (await act(ROOT, "release"))[0] == 409
            status, marked = await act(ROOT, "replace", {"why": "moved"})
            assert (status, marked["state"], marked["replace_why"]) == (200, "to-be-replaced", "moved")
            assert await names(api, ROOT, "state=to-be-replaced") == ["www.example.com"]
            assert (await act(ROOT, "replace", method="DELETE"))[1]["state"] == "valid"
            assert (await act(ALICE, "revoke", {"reason": "privilegeWithdrawn"}))[0] == 422
            assert (await act(ALICE, "revoke", {"reason": "nonsense"}))[0] == 400
            status, revoked = await act(ALICE, "revoke", {"reason": "superseded"})
            assert (status, revoked["state"], revoked["reason"]) == (200, "revoked", "superseded")
            assert (await act(ALICE, "revoke", {}))[0] == 409
            assert (await act(MALLORY, "revoke", {}))[0] == 404

    run(scenario())


def test_a_key_is_blocked_for_ever_by_those_without_a_scope(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            shown = await issue(api, "www.example.com")
            body = {"spki_sha256": shown["spki_sha256"], "why": "found on a disk"}
            some = holding([Grant(role="operator", scope=Scope(teams=("web",)))], {})
            scoped = Principal(kind="token", id="t", name="t", owner="t", held=some)
            assert (await api(scoped, "POST", "/blocked-keys", body)).status == 403
            made = await api(ROOT, "POST", "/blocked-keys", body)
            assert made.status == 201, made.body
            assert json.loads(made.body)["unrevoked_certificates"] == [shown["id"]]
            assert (await api(ROOT, "POST", "/blocked-keys", body)).status == 200
            seen = await api(ROOT, "GET", f"/blocked-keys/{shown['spki_sha256']}")
            assert json.loads(seen.body)["why"] == "found on a disk"
            assert (await api(ROOT, "GET", f"/blocked-keys/{'0' * 64}")).status == 404

    run(scenario())
