"""People, teams, roles, credentials and sessions over REST, on both databases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certloom.api.app import API
from certloom.clock import ManualClock
from certloom.identity.principals import local
from tests.api.asking import Reply, ask
from tests.api.test_requests_and_approvals import Client, serving
from tests.conftest import run
from tests.enrollment.people import person

ROOT = local("root")
PASSWORD = "correct horse battery"


def shown(reply: Reply, status: int = 200) -> Any:
    assert reply.status == status, reply.body
    return json.loads(reply.body) if reply.body else None


def code(reply: Reply) -> str:
    found: str = json.loads(reply.body)["code"]
    return found


async def as_bearer(app: API, secret: str, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    return await ask(
        app,
        method,
        f"/api/v1{path}",
        headers={"authorization": f"Bearer {secret}", "content-type": "application/json", **headers},
        body=b"" if body is None else json.dumps(body).encode(),
        scope={"client": ("192.0.2.1", 4711)},
    )


async def bare(app: API, method: str, path: str, body: Any = None, **headers: str) -> Reply:
    sent = {key.replace("_", "-"): value for key, value in headers.items()}
    return await ask(
        app,
        method,
        f"/api/v1{path}",
        headers={"content-type": "application/json", **sent},
        body=b"" if body is None else json.dumps(body).encode(),
        scope={"client": ("192.0.2.1", 4711)},
    )


async def made(client: Client, name: str, **terms: Any) -> tuple[str, str]:
    """An account's id and ETag."""
    reply = await client(ROOT, "POST", "/people", {"name": name, **terms})
    return shown(reply, 201)["id"], reply.headers["etag"]


def test_an_account_from_its_making_to_its_end(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            assert (await client(ROOT, "PUT", "/teams/web", {"description": "Web"})).status == 201
            id, tag = await made(client, "alice", teams=["web"], grants=[{"role": "requester"}])
            assert (await client(ROOT, "POST", "/people", {"name": "alice"})).status == 409
            handed = shown(await client(ROOT, "POST", f"/people/{id}/setup"), 201)
            set_up = {"code": handed["code"], "password": PASSWORD}
            assert shown(await bare(client.app, "POST", "/setup", set_up)) == {"name": "alice"}
            again = await bare(client.app, "POST", "/setup", set_up)
            assert (again.status, code(again)) == (401, "login-refused")

            login = await bare(client.app, "POST", "/sessions", {"name": "alice", "password": PASSWORD})
            assert shown(login, 201)["person"] == id
            cookie = login.headers["set-cookie"]
            assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=Lax", "Path=/"))
            session = {"cookie": cookie.partition(";")[0]}
            who = shown(await bare(client.app, "GET", "/whoami", **session))
            assert (who["kind"], who["id"], who["teams"]) == ("person", id, ["web"])
            assert [held["role"] for held in who["roles"]] == ["requester"]
            # A browser that another site makes ask changes nothing.
            foreign = await bare(
                client.app, "DELETE", "/sessions/current", sec_fetch_site="cross-site", **session
            )
            assert foreign.status == 403

            stale = await client(ROOT, "PUT", f"/people/{id}", {"grants": []}, if_match=tag)
            assert stale.status == 412
            tag = (await client(ROOT, "GET", f"/people/{id}")).headers["etag"]
            assert (await client(ROOT, "PUT", f"/people/{id}/state", {"active": False})).status == 428
            off = await client(ROOT, "PUT", f"/people/{id}/state", {"active": False}, if_match=tag)
            assert shown(off)["active"] is False
            assert (await bare(client.app, "GET", "/whoami", **session)).status == 401
            refused = await bare(client.app, "POST", "/sessions", {"name": "alice", "password": PASSWORD})
            assert (refused.status, code(refused)) == (401, "login-refused")
            rows = await client.rooms.store.read(lambda tx: tx.all("SELECT data FROM events"))
            assert not any(PASSWORD in row[0] or handed["code"] in row[0] for row in rows)

    run(story())


def test_a_token_is_shown_once_rotates_and_ends(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            new = {"kind": "api-token", "service": "ci", "grants": [{"role": "auditor"}], "label": "CI"}
            reply = await client(ROOT, "POST", "/credentials", new, idempotency_key="k1")
            first = shown(reply, 201)
            id = first["credential"]["id"]
            repeated = await client(ROOT, "POST", "/credentials", new, idempotency_key="k1")
            assert shown(repeated, 201) == first
            shown_again = (await client(ROOT, "GET", f"/credentials/{id}")).body
            assert first["secret"].encode() not in shown_again
            who = shown(await as_bearer(client.app, first["secret"], "GET", "/whoami"))
            assert (who["kind"], who["owner"]) == ("token", "service:ci")
            second = shown(await client(ROOT, "POST", f"/credentials/{id}/rotate", {"overlap": 60}))
            for secret in (first["secret"], second["secret"]):
                assert (await as_bearer(client.app, secret, "GET", "/whoami")).status == 200
            clock.advance(60)
            assert (await as_bearer(client.app, first["secret"], "GET", "/whoami")).status == 401
            tag = (await client(ROOT, "GET", f"/credentials/{id}")).headers["etag"]
            terms = {"grants": [{"role": "requester"}], "label": "CI"}
            edited = await client(ROOT, "PUT", f"/credentials/{id}", terms, if_match=tag)
            assert shown(edited)["grants"][0]["role"] == "requester"
            assert (await client(ROOT, "DELETE", f"/credentials/{id}")).status == 204
            assert (await client(ROOT, "DELETE", f"/credentials/{id}")).status == 409
            assert (await as_bearer(client.app, second["secret"], "GET", "/whoami")).status == 401

    run(story())


def test_a_person_looks_after_their_own_tokens_and_sees_no_others(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            id, _ = await made(client, "alice", grants=[{"role": "requester"}])
            alice = person("alice", "requester")
            alice = type(alice)(kind="person", id=id, name="alice", owner=id, held=alice.held)
            service = {"kind": "api-token", "service": "ci", "grants": [{"role": "auditor"}]}
            other = shown(await client(ROOT, "POST", "/credentials", service), 201)["credential"]["id"]
            mine = {"kind": "api-token", "grants": [{"role": "requester"}]}
            token = shown(await client(alice, "POST", "/credentials", mine), 201)
            listed = shown(await client(alice, "GET", "/credentials"))["items"]
            assert [c["id"] for c in listed] == [token["credential"]["id"]]
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate")):
                body: Any = {} if method == "POST" else None
                reply = await client(alice, method, f"/credentials/{other}{path}", body)
                assert reply.status == 404
            for wider in (
                {**mine, "grants": [{"role": "admin"}]},
                service,
                {"kind": "est-password", "names": ["**"]},
                {"kind": "acme-eab", "channel": "default", "names": ["a.example.com"]},
            ):
                assert (await client(alice, "POST", "/credentials", wider)).status == 403
            # What a token cannot do, it cannot do through a further token either.
            through = await as_bearer(client.app, token["secret"], "POST", "/credentials", mine)
            assert through.status == 403
            assert (await client(alice, "DELETE", f"/credentials/{token['credential']['id']}")).status == 204

    run(story())


def test_every_kind_is_made_over_the_api(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            certificate = {"profile": "tls-server", "name": "dns:Robot.Example.com"}
            bodies: list[dict[str, Any]] = [
                {"kind": "acme-eab", "channel": "default", "names": ["**.example.com"]},
                {"kind": "est-password", "id": "printer-7", "uses": 1},
                {"kind": "est-token"},
                {"kind": "scep-challenge", "expires": "2030-01-01T00:00:00Z"},
                {"kind": "cmp-secret", "id": "ref-1"},
                {"kind": "client-certificate", "service": "robot", "grants": [{"role": "auditor"}]}
                | {"certificate": certificate},
            ]
            for body in bodies:
                answer = shown(await client(ROOT, "POST", "/credentials", body), 201)
                assert (answer["secret"] is None) == (body["kind"] == "client-certificate")
                if body["kind"] == "client-certificate":
                    assert answer["credential"]["certificate"]["name"] == "dns:robot.example.com"
            found = shown(await client(ROOT, "GET", "/credentials?kind=est-password"))["items"]
            assert [c["id"] for c in found] == ["printer-7"]
            page = shown(await client(ROOT, "GET", "/credentials?limit=2"))
            rest = shown(await client(ROOT, "GET", f"/credentials?limit=100&cursor={page['next']}"))
            assert len({c["id"] for c in page["items"] + rest["items"]}) == 7

    run(story())


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"kind": "nothing"}, 400),
        ({"kind": "acme-eab"}, 422),
        ({"kind": "acme-eab", "channel": "nowhere"}, 422),
        ({"kind": "est-token", "names": ["not a name"]}, 422),
        ({"kind": "est-token", "team": "none"}, 422),
        ({"kind": "est-token", "uses": 0}, 400),
        ({"kind": "est-token", "expires": "2001-01-01T00:00:00Z"}, 422),
        ({"kind": "est-token", "person": "nobody"}, 422),
        ({"kind": "est-token", "person": "a", "service": "b"}, 422),
        ({"kind": "api-token", "service": "x"}, 422),
        ({"kind": "api-token", "grants": [{"role": "admin"}]}, 422),
        ({"kind": "api-token", "service": "x", "grants": [{"role": "none"}]}, 422),
        ({"kind": "client-certificate", "service": "x", "grants": [{"role": "auditor"}]}, 422),
        ({"kind": "client-certificate", "service": "x", "certificate": {"name": "dns:a"}}, 422),
    ],
)
def test_credentials_that_cannot_be_are_refused_and_leave_nothing(
    tmp_path: Path, clock: ManualClock, body: dict[str, Any], status: int
) -> None:
    async def story() -> None:
        url = f"sqlite:///{tmp_path}/certloom.db"
        async with serving(url, tmp_path, clock) as client:
            before = await client.count("credentials"), await client.count("events")
            assert (await client(ROOT, "POST", "/credentials", body)).status == status
            assert (await client.count("credentials"), await client.count("events")) == before

    run(story())


def test_custom_roles_are_made_used_and_taken_away(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            reader = {"permissions": ["certificate.read"], "description": "sees certificates"}
            assert (await client(ROOT, "PUT", "/roles/reader", reader)).status == 201
            assert (await client(ROOT, "PUT", "/roles/admin", reader)).status == 422
            bad = {"permissions": ["certificate.devour"]}
            assert (await client(ROOT, "PUT", "/roles/other", bad)).status == 422
            names = [role["name"] for role in shown(await client(ROOT, "GET", "/roles"))["items"]]
            assert names == ["admin", "approver", "auditor", "operator", "reader", "requester"]
            id, _ = await made(client, "alice", grants=[{"role": "reader"}])
            tag = (await client(ROOT, "GET", "/roles/reader")).headers["etag"]
            assert (await client(ROOT, "DELETE", "/roles/reader", if_match=tag)).status == 422
            tag_of_alice = (await client(ROOT, "GET", f"/people/{id}")).headers["etag"]
            emptied = await client(ROOT, "PUT", f"/people/{id}", {}, if_match=tag_of_alice)
            assert shown(emptied)["grants"] == []
            assert (await client(ROOT, "DELETE", "/roles/reader", if_match=tag)).status == 204

    run(story())


def test_a_team_admin_sees_and_changes_only_the_team(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            for team in ("web", "mail"):
                assert (await client(ROOT, "PUT", f"/teams/{team}", {})).status == 201
            await made(client, "boss", grants=[{"role": "admin"}])
            here, _ = await made(client, "webber", teams=["web"])
            there, tag = await made(client, "mailer", teams=["mail"])
            lead = await made(client, "lead", grants=[{"role": "admin", "scope": {"teams": ["web"]}}])
            token = shown(
                await client(
                    ROOT,
                    "POST",
                    "/credentials",
                    {
                        "kind": "api-token",
                        "person": lead[0],
                        "grants": [{"role": "admin", "scope": {"teams": ["web"]}}],
                    },
                ),
                201,
            )["secret"]
            seen = shown(await as_bearer(client.app, token, "GET", "/people"))["items"]
            assert {p["name"] for p in seen} == {"webber", "lead"}
            assert (await as_bearer(client.app, token, "GET", f"/people/{there}")).status == 404
            edit = await as_bearer(client.app, token, "PUT", f"/people/{there}", {}, **{"if-match": tag})
            assert edit.status == 404
            assert (await as_bearer(client.app, token, "POST", f"/people/{here}/setup")).status == 201
            teams = shown(await as_bearer(client.app, token, "GET", "/teams"))["items"]
            assert [team["name"] for team in teams] == ["web"]
            assert (await as_bearer(client.app, token, "PUT", "/teams/new", {})).status in (403, 404)
            wider = {"permissions": ["certificate.read"]}
            assert (await as_bearer(client.app, token, "PUT", "/roles/mine", wider)).status == 403

    run(story())


def test_a_flood_of_wrong_passwords_ends_in_429(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            statuses = [
                (await bare(client.app, "POST", "/sessions", {"name": "x", "password": "guess"})).status
                for _ in range(12)
            ]
            assert statuses == [401] * 10 + [429] * 2

    run(story())
