"""Asking for certificates over REST, and agreeing to it: end to end through the API, on both databases."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key, pkcs12

from certloom.api.app import API
from certloom.clock import ManualClock
from certloom.identity.principals import Grant, Principal, Scope, holding
from certloom.policy.profiles import encode_profile
from certloom.server.rooms import Rooms, open_rooms
from certloom.server.services import services
from certloom.settings.schema import Database, Settings
from certloom.store import configuration
from certloom.store.base import Tx
from tests.api.asking import Reply, ask
from tests.conftest import run
from tests.enrollment.people import BOB, CAROL, SAM, person, profile
from tests.protocols.acme.lab import make_csr

WEB = Scope(teams=("web",), names=("**.example.com",))
ALICE = Principal(
    kind="person",
    id="alice",
    name="Alice",
    owner="alice",
    teams=("web", "db"),
    held=holding([Grant(role="requester", scope=WEB)], {}),
)
MALLORY = person("mallory", "requester")


class Client:
    """The API as somebody sees it."""

    def __init__(self, app: API, rooms: Rooms) -> None:
        self.app = app
        self.rooms = rooms

    async def __call__(
        self, who: Principal, method: str, path: str, body: Any = None, **headers: str
    ) -> Reply:
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        if body is not None and "content-type" not in sent:
            sent["content-type"] = "application/json"
        return await ask(self.app, method, f"/api/v1{path}", principal=who, headers=sent, body=data)

    async def until(self, who: Principal, id: str, state: str) -> Any:
        for _ in range(500):
            found = json.loads((await self(who, "GET", f"/requests/{id}")).body)
            if found["state"] == state:
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"never {state}: {found}")

    async def count(self, table: str) -> int:
        rows = await self.rooms.store.read(lambda tx: tx.all(f"SELECT count(*) FROM {table}"))
        return int(rows[0][0])


@asynccontextmanager
async def serving(url: str, tmp_path: Path, clock: ManualClock, **approval: Any) -> AsyncIterator[Client]:
    """A whole server without its listeners; the profile ``asked`` wants people to agree."""
    settings = Settings(data_dir=str(tmp_path / "data"), database=Database(url=url))
    rooms = await open_rooms(settings, clock)
    keys = [{"type": "ec"}, {"type": "rsa"}]
    made_here = {"algorithms": ["P-256", "rsa-2048"], "keep": "1h"}
    common = {"authority": "issuing", "keys": keys, "server_keys": made_here}
    issuing = rooms.books.profiles()["tls-server"][0].authority
    asked = profile(approval or {"approvers": 1}, "asked", **(common | {"authority": issuing}))
    free = profile({}, "free", **(common | {"authority": issuing}))

    def unit(tx: Tx) -> None:
        for made in (asked, free):
            configuration.add_profile_version(tx, made.name, 1, encode_profile(made), clock.now())
        configuration.touch(tx)

    await rooms.store.write(unit)
    await rooms.refresh()
    await rooms.runner.start()
    try:
        yield Client(API(services(rooms)), rooms)
    finally:
        await rooms.runner.stop(1)
        await rooms.close()


def pem(name: str = "www.example.com", **how: Any) -> str:
    der = make_csr([name], **how)
    return x509.load_der_x509_csr(der).public_bytes(Encoding.PEM).decode()


def problem(reply: Reply) -> Any:
    assert reply.headers["content-type"] == "application/problem+json", reply
    return json.loads(reply.body)


def test_a_csr_is_answered_with_its_certificate(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            made = await api(ALICE, "POST", "/requests", {"profile": "free", "csr": pem()})
            assert made.status == 201, made.body
            shown = json.loads(made.body)
            certificate = x509.load_pem_x509_certificate(shown["certificate_pem"].encode())
            found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            assert found.get_values_for_type(x509.DNSName) == ["www.example.com"]
            assert (shown["owner"], shown["team"], shown["requester"]) == ("alice", "web", "person:alice")
            seen = await api(ALICE, "GET", made.headers["location"].removeprefix("/api/v1"))
            assert json.loads(seen.body) == shown
            der = make_csr(["b.example.com"])
            for body, how in (
                ({"profile": "free", "csr_der": base64.b64encode(der).decode(), "lifetime": 86400}, {}),
                (der, {"content_type": "application/pkcs10"}),
                (pem().encode(), {"content_type": "application/x-pem-file"}),
            ):
                query = "?profile=free" if isinstance(body, bytes) else ""
                assert (await api(ALICE, "POST", f"/requests{query}", body, **how)).status == 201
            listed = json.loads((await api(ALICE, "GET", "/requests?state=issued&limit=3")).body)
            assert len(listed["items"]) == 3
            rest = json.loads(
                (await api(ALICE, "GET", f"/requests?state=issued&limit=3&cursor={listed['next']}")).body
            )
            assert len(rest["items"]) == 1
            # Others see none of it.
            assert json.loads((await api(MALLORY, "GET", "/requests")).body)["items"] == []
            hidden = await api(MALLORY, "GET", f"/requests/{shown['id']}")
            assert hidden.status == 404

    run(scenario())


def test_a_repeat_with_the_same_idempotency_key_makes_no_second_certificate(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            body = {"profile": "free", "csr": pem()}
            first = await api(ALICE, "POST", "/requests", body, idempotency_key="one")
            again = await api(ALICE, "POST", "/requests", body, idempotency_key="one")
            assert (again.status, again.body) == (201, first.body)
            assert await api.count("certificates WHERE profile <> 'ca'") == 1
            made_here = {"profile": "asked", "key": {"algorithm": "P-256"}, "names": ["dns:k.example.com"]}
            first = await api(ALICE, "POST", "/requests", made_here, idempotency_key="two")
            again = await api(ALICE, "POST", "/requests", made_here, idempotency_key="two")
            assert first.status == again.status == 202
            assert await api.count("enrolment_requests") == 2

    run(scenario())


def test_only_names_profiles_and_teams_that_are_ones_own_can_be_asked_for(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            refused = await api(
                ALICE,
                "POST",
                "/requests",
                {
                    "profile": "free",
                    "csr": pem(),
                    "names": ["a.example.com", "b.example.net", "ip:192.0.2.1"],
                },
            )
            assert refused.status == 403
            assert [r["identifier"]["value"] for r in problem(refused)["reasons"]] == [
                "b.example.net",
                "192.0.2.1",
            ]
            for body in (
                {"profile": "free", "csr": pem(), "team": "hr"},
                {"profile": "free", "csr": pem(), "team": "db"},
            ):
                assert (await api(ALICE, "POST", "/requests", body)).status == 403
            auditor = person("audrey", "auditor")
            body = {"profile": "free", "csr": pem()}
            assert (await api(auditor, "POST", "/requests", body)).status == 403
            assert await api.count("enrolment_requests") == 0

    run(scenario())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"profile": "free", "csr": "nonsense"}, "bad-csr"),
        ({"profile": "free", "csr_der": "!!"}, "bad-csr"),
        ({"profile": "free", "csr_der": "MAA="}, "bad-csr"),
        ({"profile": "free"}, "invalid"),
        ({"profile": "free", "csr": pem(), "key": {"algorithm": "P-256"}}, "invalid"),
        ({"profile": "free", "csr": pem(), "names": ["dns:a..example.com"]}, "invalid"),
        ({"profile": "free", "csr": pem(), "names": ["pid:1"]}, "invalid"),
        (
            {"profile": "free", "csr": pem(), "lifetime": 86400, "not_after": "2030-01-01T00:00:00Z"},
            "invalid",
        ),
        ({"profile": "free", "csr": pem(), "replaces": 77}, "invalid"),
        ({"profile": "free", "csr": pem(), "lifetime": 86400 * 99}, "refused"),
        ({"profile": "nothing", "csr": pem()}, "refused"),
        ({"profile": "nothing", "key": {"algorithm": "P-256"}, "names": ["a.example.com"]}, "refused"),
        ({"profile": "free", "key": {"algorithm": "P-521"}, "names": ["a.example.com"]}, "refused"),
        ({"profile": "free", "key": {"algorithm": "P-256"}}, "refused"),
        ({"profile": "free", "key": {"algorithm": "P-256"}, "subject": "CN"}, "invalid"),
        ({"profile": "free", "csr": pem(), "surprise": 1}, "malformed"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reasons_and_nothing_is_stored(
    tmp_path: Path, clock: ManualClock, body: Any, code: str
) -> None:
    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/certloom.db", tmp_path, clock) as api:
            refused = await api(person("root", "requester"), "POST", "/requests", body)
            assert 400 <= refused.status < 500
            assert problem(refused)["code"] == code, refused.body
            assert await api.count("enrolment_requests") == 0

    run(scenario())


def test_a_request_goes_through_its_stages_and_everyone_sees_what_they_need(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        stages = [{"role": "approver", "approvers": 2}, {"role": "security"}]
        terms = {"stages": stages, "may_change": ["validity"]}
        async with serving(database_url, tmp_path, clock, **terms) as api:
            before = await api(MALLORY, "POST", "/requests", {"profile": "free", "csr": pem()})
            assert before.status == 201
            waiting = await api(
                ALICE, "POST", "/requests", {"profile": "asked", "csr": pem(), "comment": "for the shop"}
            )
            assert waiting.status == 202
            assert int(waiting.headers["retry-after"]) > 0
            shown = json.loads(waiting.body)
            assert waiting.headers["location"].endswith(f"/requests/{shown['id']}")
            assert shown["state"] == "awaiting_approval"
            where = f"/approvals/{shown['approval']}"
            mine = json.loads((await api(BOB, "GET", "/approvals?mine=true")).body)["items"]
            assert [a["id"] for a in mine] == [shown["approval"]]
            assert json.loads((await api(SAM, "GET", "/approvals?mine=true")).body)["items"] == []
            seen = json.loads((await api(BOB, "GET", where)).body)
            assert (seen["comment"], seen["key"], seen["can_decide"]) == ("for the shop", "P-256", True)
            assert seen["earlier"][0]["requester"] == "person:mallory"
            assert {d["what"] for d in seen["differences"]} >= {"requester", "owner", "team", "profile"}
            assert json.loads((await api(ALICE, "GET", where)).body)["own"] is True

            async def says(who: Principal, decision: str, **more: Any) -> Reply:
                return await api(who, "POST", f"{where}/decisions", {"decision": decision, **more})

            assert (await says(ALICE, "approve")).status == 403
            assert problem(await says(SAM, "approve"))["code"] == "not-yours-to-decide"
            assert problem(await says(BOB, "deny"))["reasons"][0]["code"] == "reason-needed"
            first = await says(BOB, "approve", reason="ok")
            assert (first.status, json.loads(first.body)["missing"]) == (200, 1)
            assert (await says(BOB, "approve")).status == 409
            changed = await says(CAROL, "approve", changes={"lifetime": 86400})
            assert json.loads(changed.body)["lifetime"] == 86400
            assert (await says(BOB, "approve")).status == 200
            granted = json.loads((await says(SAM, "approve")).body)
            assert granted["state"] == "granted"
            done = await api.until(ALICE, shown["id"], "issued")
            assert done["changes"][0]["lifetime"] == 86400
            certificate = x509.load_pem_x509_certificate(done["certificate_pem"].encode())
            life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            assert round(life.total_seconds()) in (86399, 86400)
            assert (await says(person("dora", "approver"), "approve")).status == 409
            again = await api(ALICE, "POST", "/requests", {"profile": "asked", "csr": pem()})
            assert again.status == 201
            back = await api(ALICE, "POST", f"{where}/withdraw", {"reason": "done"})
            assert json.loads(back.body)["state"] == "lapsed"
            assert (await api(ALICE, "POST", "/requests", {"profile": "asked", "csr": pem()})).status == 202

    run(scenario())


def test_a_request_is_withdrawn_by_who_asked(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            waiting = await api(ALICE, "POST", "/requests", {"profile": "asked", "csr": pem()})
            id = json.loads(waiting.body)["id"]
            assert (await api(MALLORY, "POST", f"/requests/{id}/cancel")).status == 404
            assert (
                json.loads((await api(ALICE, "POST", f"/requests/{id}/cancel")).body)["state"] == "cancelled"
            )
            assert (await api(ALICE, "POST", f"/requests/{id}/cancel")).status == 409
            assert (await api(ALICE, "POST", "/requests/nothing/cancel")).status == 404

    run(scenario())


def test_a_key_that_was_made_here_is_fetched_under_a_password_until_its_time_is_up(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            body = {"profile": "free", "key": {"algorithm": "rsa-2048"}, "names": ["k.example.com"]}
            made = await api(ALICE, "POST", "/requests", body)
            shown = json.loads(made.body)
            assert made.status == 201
            assert shown["server_key"] is True
            assert b"PRIVATE" not in made.body
            certificate = x509.load_pem_x509_certificate(shown["certificate_pem"].encode())
            where = f"/requests/{shown['id']}/private-key"
            password = {"password": "correct horse"}
            assert (await api(MALLORY, "POST", where, password)).status == 404
            assert (await api(ALICE, "POST", where, {"password": "short"})).status == 400
            fetched = await api(ALICE, "POST", where, password)
            key = load_pem_private_key(fetched.body, b"correct horse")
            assert isinstance(key, rsa.RSAPrivateKey)
            assert key.public_key() == certificate.public_key()
            bundle = await api(ALICE, "POST", where, {**password, "format": "pkcs12"})
            opened = pkcs12.load_pkcs12(bundle.body, b"correct horse")
            assert opened.cert is not None
            assert opened.cert.certificate == certificate
            assert len(opened.additional_certs) == 1
            events = await api.rooms.store.read(lambda tx: tx.all("SELECT kind, data FROM events"))
            assert sum(kind == "request.key_fetched" for kind, _ in events) == 2
            assert not any("correct horse" in data for _, data in events)
            clock.advance(3600)
            assert (await api(ALICE, "POST", where, password)).status == 410
            assert await api.rooms.server_keys.wipe_expired() == 1
            assert await api.count("request_keys") == 0

    run(scenario())


def test_a_key_for_a_request_that_waits_is_kept_from_when_it_is_issued_and_wiped_when_it_is_denied(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as api:
            body = {"profile": "asked", "key": {"algorithm": "P-256"}, "names": ["k.example.com"]}
            ids = []
            for name in ("k.example.com", "l.example.com"):
                made = await api(ALICE, "POST", "/requests", {**body, "names": [name]})
                ids.append(json.loads(made.body))
            clock.advance(86400)
            assert await api.rooms.server_keys.wipe_expired() == 0
            password = {"password": "correct horse"}
            early = await api(ALICE, "POST", f"/requests/{ids[0]['id']}/private-key", password)
            assert early.status == 410
            decisions = [f"/approvals/{made['approval']}/decisions" for made in ids]
            await api(BOB, "POST", decisions[0], {"decision": "approve"})
            await api.until(ALICE, ids[0]["id"], "issued")
            await api(BOB, "POST", decisions[1], {"decision": "deny", "reason": "no"})
            assert await api.count("request_keys") == 1
            fetched = await api(ALICE, "POST", f"/requests/{ids[0]['id']}/private-key", password)
            assert isinstance(
                load_pem_private_key(fetched.body, b"correct horse"), ec.EllipticCurvePrivateKey
            )

    run(scenario())


def test_injection_through_the_filters_finds_nothing(tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/certloom.db", tmp_path, clock) as api:
            await api(ALICE, "POST", "/requests", {"profile": "asked", "csr": pem()})
            auditor = person("audrey", "auditor")
            evil = "x%27%20OR%20%271%27%3D%271"
            for path in ("requests", "approvals"):
                for field in ("owner", "team", "profile", "requester"):
                    found = await api(auditor, "GET", f"/{path}?{field}={evil}")
                    assert json.loads(found.body)["items"] == []
            assert (await api(auditor, "GET", f"/requests?state={evil}")).status == 400

    run(scenario())
