"""Webhooks over the API: made, seen, changed, rotated, tried out, deleted; and by whom not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from certloom.api.app import API
from certloom.clock import ManualClock
from certloom.identity.principals import Grant, Principal, Role, Scope, holding, local
from certloom.server.rooms import Rooms, open_rooms
from certloom.server.services import services
from certloom.settings.schema import Database, Outbound, Settings
from tests.api.asking import Reply, ask
from tests.conftest import run
from tests.enrollment.people import person
from tests.notifications.receivers import receiving

ROOT = local("root")
READER = person("reader", "auditor")
HOOKS = Role(name="hooks", permissions=frozenset({"webhook.read", "webhook.write"}))
WEB = Principal(
    kind="person",
    id="wendy",
    name="Wendy",
    owner="wendy",
    held=holding([Grant(role="hooks", scope=Scope(teams=("web",)))], {"hooks": HOOKS}),
)
Client = Callable[..., Awaitable[Reply]]


@asynccontextmanager
async def serving(url: str, folder: Path, clock: ManualClock) -> AsyncIterator[tuple[Client, Rooms]]:
    settings = Settings(
        data_dir=str(folder / "data"),
        database=Database(url=url),
        outbound=Outbound(allow_addresses=("127.0.0.0/8",)),
    )
    rooms = await open_rooms(settings, clock)
    app = API(services(rooms))

    async def client(who: Principal, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None:
            sent["content-type"] = "application/json"
        data = b"" if body is None else json.dumps(body).encode()
        return await ask(app, method, f"/api/v1{path}", principal=who, headers=sent, body=data)

    await rooms.runner.start()
    try:
        yield client, rooms
    finally:
        await rooms.runner.stop(1)
        await rooms.close()


def test_the_whole_life_of_a_webhook(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with serving(database_url, tmp_path, clock) as (api, rooms):
            body = {"name": "chat", "url": hook.url, "events": ["approval.waiting"]}
            made = await api(ROOT, "POST", "/webhooks", body, idempotency_key="k1")
            assert made.status == 201, made.body
            secret = json.loads(made.body)["secret"]
            assert secret.startswith("whsec_")
            assert (await api(ROOT, "POST", "/webhooks", body, idempotency_key="k1")).body == made.body
            assert (await api(ROOT, "POST", "/webhooks", body)).status == 409
            shown = await api(READER, "GET", "/webhooks/chat")
            assert secret not in shown.body.decode()
            listed = json.loads((await api(READER, "GET", "/webhooks")).body)
            assert [item["name"] for item in listed["items"]] == ["chat"]

            tried = await api(ROOT, "POST", "/webhooks/chat/test")
            assert tried.status == 202
            for _ in range(300):
                found = json.loads((await api(READER, "GET", "/webhooks/chat/deliveries")).body)["items"]
                if found[0]["state"] == "delivered":
                    break
                await asyncio.sleep(0.02)
            assert (found[0]["event"], found[0]["status"]) == ("webhook.test", 204)
            assert found[0]["id"] == hook.posted[0].id

            terms = {"url": hook.url, "events": ["request.denied"], "enabled": False}
            assert (await api(ROOT, "PUT", "/webhooks/chat", terms)).status == 428
            stale = await api(ROOT, "PUT", "/webhooks/chat", terms, if_match='"stale"')
            assert stale.status == 412
            etag = shown.headers["etag"]
            changed = await api(ROOT, "PUT", "/webhooks/chat", terms, if_match=etag)
            assert changed.status == 200, changed.body
            assert changed.headers["etag"] != etag
            assert (await api(ROOT, "POST", "/webhooks/chat/test")).status == 409

            turned = await api(ROOT, "POST", "/webhooks/chat/rotate", {"overlap": 60})
            assert json.loads(turned.body)["secret"] not in ("", secret)
            assert json.loads(turned.body)["webhook"]["previous_secret_until"] is not None
            now = (await api(ROOT, "GET", "/webhooks/chat")).headers["etag"]
            assert (await api(ROOT, "DELETE", "/webhooks/chat", if_match=now)).status == 204
            assert (await api(ROOT, "GET", "/webhooks/chat")).status == 404

            def logged(tx: Any) -> list[tuple[str, str]]:
                rows = tx.all("SELECT kind, data FROM events WHERE kind LIKE 'webhook.%' ORDER BY id")
                return [(row[0], row[1]) for row in rows]

            events = await rooms.store.read(logged)
            assert [kind.partition(".")[2] for kind, _ in events] == [
                "created",
                "tested",
                "changed",
                "rotated",
                "deleted",
            ]
            assert not any("whsec_" in data for _, data in events)

    with receiving() as hook:
        run(scenario())


@pytest.mark.parametrize(
    "change",
    [
        {"url": "ftp://x/"},
        {"url": "http://user:pass@x/"},
        {"url": ""},
        {"events": []},
        {"events": ["nothing"]},
        {"events": ["request.denied", "request.denied"]},
        {"name": "Not A Name"},
        {"unknown": 1},
        {"teams": [""]},
    ],
)
def test_bad_input_makes_nothing(tmp_path: Path, clock: ManualClock, change: dict[str, Any]) -> None:
    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/x.db", tmp_path, clock) as (api, _):
            body = {"name": "chat", "url": "https://example.com/", "events": ["request.denied"]} | change
            refused = await api(ROOT, "POST", "/webhooks", body)
            assert refused.status in (400, 422), refused.body
            assert refused.headers["content-type"] == "application/problem+json"
            assert json.loads((await api(ROOT, "GET", "/webhooks")).body)["items"] == []

    run(scenario())


def test_nobody_is_told_by_a_webhook_what_they_may_not_see(tmp_path: Path, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with serving(f"sqlite:///{tmp_path}/x.db", tmp_path, clock) as (api, _):
            body = {"name": "w", "url": "https://example.com/", "events": ["certificate.issued"]}
            for teams in ([], ["db"], ["web", "db"]):
                assert (await api(WEB, "POST", "/webhooks", body | {"teams": teams})).status == 403
            assert (await api(READER, "POST", "/webhooks", body)).status == 403
            made = await api(WEB, "POST", "/webhooks", body | {"teams": ["web"]})
            assert made.status == 201
            etag = made.headers["etag"]
            wide = {"url": "https://example.com/", "events": ["certificate.issued"]}
            assert (await api(WEB, "PUT", "/webhooks/w", wide, if_match=etag)).status == 403
            assert (await api(ROOT, "POST", "/webhooks", body | {"name": "all"})).status == 201
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/rotate"), ("GET", "/deliveries")):
                given = {"overlap": 0} if path == "/rotate" else None
                assert (await api(WEB, method, f"/webhooks/all{path}", given, if_match="*")).status == 404
            assert [w["name"] for w in json.loads((await api(WEB, "GET", "/webhooks")).body)["items"]] == [
                "w"
            ]

    run(scenario())
