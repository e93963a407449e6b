"""What somebody may try with the API that it was not made for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import pytest

from certloom.api import plans
from certloom.api.authentication import authenticate
from certloom.api.problems import Problem
from certloom.api.rendering import gathered
from certloom.api.resources import table
from certloom.clock import ManualClock
from certloom.identity.authentication import Authentication
from certloom.identity.principals import Grant, Principal, Scope, holding, local
from certloom.inventory.planning import Outcomes, Progress, Step, Summary
from tests.api.asking import Reply, ask
from tests.api.test_requests_and_approvals import serving
from tests.conftest import run
from tests.console.test_console import serving as console
from tests.enrollment.people import person
from tests.server.listening import listening
from tests.server.listening import run as listening_run

ROOT = local("root")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'certloom.db'}"


def shown(reply: Reply, status: int = 200) -> Any:
    assert reply.status == status, reply.body
    return json.loads(reply.body) if reply.body else None


def test_only_so_many_plans_are_under_way(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes a process and reads everything, so a few requests must not become as many of those."""

    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            go_on = asyncio.Event()

            async def slow(*_: Any) -> AsyncGenerator[Step, None]:
                yield Progress(done=0, total=1)
                await go_on.wait()
                none = Outcomes()
                yield Summary(total=0, in_use=0, before=none, after=none, changed=0, reasons={})

            monkeypatch.setattr(plans, "plan", slow)
            under_way = [asyncio.create_task(client(ROOT, "POST", "/plans", {})) for _ in range(2)]
            for _ in range(100):
                await asyncio.sleep(0.01)
            for how in ({}, {"accept": "application/jsonl"}):
                refused = await asyncio.wait_for(client(ROOT, "POST", "/plans", {}, **how), 5)
                assert (refused.status, refused.headers["retry-after"]) == (503, "30")
            go_on.set()
            assert [reply.status for reply in await asyncio.gather(*under_way)] == [200, 200]
            assert (await client(ROOT, "POST", "/plans", {})).status == 200
            # One that is refused for what it says takes no place.
            for _ in range(3):
                assert (await client(ROOT, "POST", "/plans", {"profiles": [{}]})).status == 422
            assert (await client(ROOT, "POST", "/plans", {})).status == 200

    run(main())


def test_what_streams_come_from_ends_with_the_client(clock: ManualClock) -> None:
    async def main() -> None:
        ended = []

        async def source() -> AsyncGenerator[bytes, None]:
            try:
                while True:
                    yield b"x" * 100_000
            finally:
                ended.append(True)

        async with aclosing(gathered(source())) as pieces:
            await anext(pieces)
        assert ended == [True]

    run(main())


def test_an_answer_without_end_ends_with_its_client() -> None:
    """Or each connection that is cut off would leave its work behind."""
    ended = asyncio.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"transfer-encoding", b"chunked")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"more", "more_body": True})
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async def main() -> None:
        async with listening(endless) as server:
            client = await server.connect()
            await client.send(GET)
            await asyncio.sleep(0.05)
            client.writer.transport.abort()
            await asyncio.wait_for(ended.wait(), 2)

    run(main())


def test_a_persons_tokens_share_their_limit(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            client.app._principals._quota = 5

            def token(number: int, owner: str) -> Principal:
                return Principal(kind="token", id=f"{owner}{number}", name="t", owner=owner)

            alice = [(await client(token(n, "alice"), "GET", "/whoami")).status for n in range(7)]
            assert alice == [200] * 5 + [429] * 2
            # Each of a service's is given out by somebody who may, and counts for itself.
            service = [(await client(token(n, "service:ci"), "GET", "/whoami")).status for n in range(7)]
            assert service == [200] * 7

    run(main())


def test_the_api_is_where_it_is_and_nowhere_else(tmp_path: Path, clock: ManualClock) -> None:
    """A proxy that lets some paths through decides by what they begin with."""

    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            assert (await ask(client.app, "GET", "/api/v1/version")).status == 200
            for path in ("/api/v1x/version", "/api/v1/../v1/version", "/api/version", "/api/v1version"):
                assert (await ask(client.app, "GET", path)).status == 404, path

    run(main())


class _Certificates:
    """Knows a client certificate."""

    async def certificate(self, der: bytes) -> Principal:
        return person("robot", "admin", kind="client-certificate")


@pytest.mark.parametrize(
    ("headers", "good"),
    [
        ({}, True),
        ({"origin": "https://pki.example.com"}, True),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "null"}, False),
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "cross-site"}, False),
    ],
)
def test_another_site_cannot_act_with_a_browsers_client_certificate(
    headers: dict[str, str], good: bool
) -> None:
    """Also where the browser is old, and a request needs no body."""
    route = next(route for route in table() if route.template == "/certificates/{id}/hold")
    scope = {
        "method": "POST",
        "certloom.peer_certificate": b"der",
        "certloom.base_url": "https://pki.example.com",
    }

    async def main() -> None:
        known = cast(Authentication, _Certificates())
        if good:
            assert (await authenticate(known, route, scope, headers)).owner == "robot"
        else:
            with pytest.raises(Problem) as told:
                await authenticate(known, route, scope, headers)
            assert told.value.code == "cross-site"

    run(main())


def test_nobody_takes_another_identity_away_by_claiming_its_certificate(
    tmp_path: Path, clock: ManualClock
) -> None:
    """What fits two identities is nobody's, so claiming one takes a permission."""

    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            id = shown(
                await client(ROOT, "POST", "/people", {"name": "eve", "grants": [{"role": "requester"}]}), 201
            )["id"]
            eve = person(id, "requester")
            claim = {
                "kind": "client-certificate",
                "certificate": {"profile": "free", "name": "dns:robot.example.com"},
                "grants": [{"role": "requester"}],
            }
            assert (await client(eve, "POST", "/credentials", claim)).status == 403
            token = {"kind": "api-token", "grants": [{"role": "requester"}]}
            assert (await client(eve, "POST", "/credentials", token)).status == 201

    run(main())


def test_services_of_one_name_in_two_teams_are_two(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            made = {}
            for team in ("web", "db"):
                shown(await client(ROOT, "PUT", f"/teams/{team}", {}), 201)
                new = {"kind": "api-token", "service": "ci", "team": team, "grants": [{"role": "requester"}]}
                made[team] = shown(await client(ROOT, "POST", "/credentials", new), 201)["credential"]["id"]
            held = holding([Grant(role="requester", scope=Scope(teams=("web",)))], {})
            ci = Principal(
                kind="token", id=made["web"], name="ci", owner="service:ci", teams=("web",), held=held
            )
            listed = shown(await client(ci, "GET", "/credentials"))["items"]
            assert [credential["id"] for credential in listed] == [made["web"]]
            assert (await client(ci, "DELETE", f"/credentials/{made['db']}")).status == 404
            assert (await client(ci, "DELETE", f"/credentials/{made['web']}")).status == 204

    run(main())


def test_of_two_changes_of_one_channel_one_is_made(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def main() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            first = await client(ROOT, "GET", "/channels/acme/default")
            channel, tag = shown(first)["channel"], first.headers["etag"]

            async def change(number: int) -> int:
                body = {**channel, "explanation_url": f"https://example.com/{number}"}
                return (await client(ROOT, "PUT", "/channels/acme/default", body, if_match=tag)).status

            statuses = await asyncio.gather(*(change(number) for number in range(8)))
            assert sorted(statuses) == [200] + [412] * 7

    run(main())


def test_an_address_with_a_nul_is_no_page_of_the_console(database_url: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with console(tmp_path, database_url) as site:
            await site.person("bob", "approver")
            browser = site.browser()
            assert (await browser.login("bob")).status == 303
            for path in ("/console/approvals/a%00b", "/console/approvals/a%0Ab"):
                assert (await browser.get(path)).status == 404, path

    listening_run(main())
