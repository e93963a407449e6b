"""The audit log over the API, and what no log, event or metric ever says."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from certloom import logs
from certloom.audit import Checkpoint, verify_export
from certloom.audit.checkpoints import load_public
from certloom.clock import SystemClock
from certloom.server.app import Application, build
from certloom.settings import Settings
from certloom.settings.schema import Listen, Logging
from tests.conftest import run


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[tuple[Application, aiohttp.ClientSession]]:
    """A server, and a client at its admin socket."""
    listen = Listen(https="", http="127.0.0.1:0", metrics="127.0.0.1:0")
    app = await build(Settings(data_dir=str(path / "data"), listen=listen), SystemClock())
    await app.start()
    connector = aiohttp.UnixConnector(str(app.rooms.data_dir.admin_socket))
    async with aiohttp.ClientSession("http://local", connector=connector) as client:
        try:
            await asyncio.sleep(1.2)  # what the first run recorded is linked within a second
            yield app, client
        finally:
            await client.close()
            await app.close()


async def _json(client: aiohttp.ClientSession, method: str, path: str, **more: Any) -> Any:
    async with client.request(method, f"/api/v1{path}", **more) as answer:
        assert answer.status < 300, await answer.text()
        return await answer.json()


def test_events_are_listed_newest_first_filtered_and_paged(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as (_, client):
            everything = (await _json(client, "GET", "/audit/events?limit=1000"))["items"]
            ids = [event["id"] for event in everything]
            assert ids == sorted(ids, reverse=True)
            assert len(ids) > 4
            paged: list[int] = []
            path: str | None = "/audit/events?limit=2"
            while path:
                page = await _json(client, "GET", path)
                paged += [event["id"] for event in page["items"]]
                path = f"/audit/events?limit=2&cursor={page['next']}" if page["next"] else None
            assert paged == ids
            some = (await _json(client, "GET", "/audit/events?kind=authority.created&actor=system"))["items"]
            assert {event["kind"] for event in some} == {"authority.created"}
            assert len(some) == 2
            assert (await _json(client, "GET", "/audit/events?kind=x' OR '1'='1"))["items"] == []
            assert (await _json(client, "GET", "/audit/events?until=2001-01-01T00:00:00Z"))["items"] == []
            assert (await _json(client, "GET", "/audit/events?since=2001-01-01T00:00:00Z&limit=1000"))[
                "items"
            ] == everything

    run(go())


def test_the_log_is_exported_signed_and_verified(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as (app, client):
            async with client.get("/api/v1/audit/key") as answer:
                pem = await answer.text()
            headers = {"Accept": "application/jsonl"}
            async with client.get("/api/v1/audit/events", headers=headers) as answer:
                assert answer.content_type == "application/jsonl"
                lines = (await answer.read()).splitlines()
            assert verify_export(lines, load_public(pem.encode())).intact
            async with client.get("/api/v1/audit/events?kind=x", headers=headers) as answer:
                assert answer.status == 422
            made = await _json(client, "POST", "/audit/checkpoints")
            assert Checkpoint(**made).sequence == json.loads(lines[-1])["sequence"]
            assert (await _json(client, "GET", "/audit/checkpoints"))["items"][0] == made
            body = {"checkpoint": made, "public_key": pem}
            assert (await _json(client, "POST", "/audit/verification", json=body))["intact"]
            await app.rooms.store.write(
                lambda tx: tx.run("UPDATE events SET actor = 'person:mallory' WHERE sequence = 2")
            )
            found = await _json(client, "POST", "/audit/verification", json=body)
            assert not found["intact"]
            assert found["verdict"]["faults"][0]["sequence"] == 2
            body["checkpoint"] = {**made, "hash": "00" * 32}
            async with client.post("/api/v1/audit/verification", json=body) as answer:
                assert answer.status == 422

    run(go())


def test_metrics_are_there_for_who_may_read_the_system(tmp_path: Path) -> None:
    async def go() -> None:
        async with serving(tmp_path) as (_, client), client.get("/api/v1/metrics") as answer:
            assert answer.status == 200
            assert "certloom_build_info" in await answer.text()

    run(go())


def test_lines_of_a_request_bear_its_id_and_no_secret_is_written_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.StringIO()
    monkeypatch.setattr(sys, "stderr", written)
    secrets = ["s3cr3t-token-value", "correct horse battery", "pkcs12-pass-phrase"]

    async def go() -> str:
        logs.configure(Logging(level="debug"))
        async with serving(tmp_path) as (app, client):
            metrics = f"http://127.0.0.1:{app.sockets['metrics'].getsockname()[1]}/metrics"
            for path, body in (
                ("/sessions", {"name": "alice", "password": secrets[1]}),
                ("/certificates/1/pkcs12", {"password": secrets[2]}),
                ("/credentials", {"kind": "api-token", "secret": secrets[0]}),
            ):
                headers = {"Authorization": f"Bearer {secrets[0]}"}
                async with client.post(f"/api/v1{path}", json=body, headers=headers) as answer:
                    seen.append(answer.headers["X-Request-Id"])
            async with aiohttp.ClientSession() as other, other.get(metrics) as answer:
                exposition = await answer.text()
            events = await app.rooms.store.read(lambda tx: tx.all("SELECT * FROM events"))
        return exposition + repr(events)

    seen: list[str] = []
    before = structlog.get_config()
    try:
        everywhere = run(go()) + written.getvalue()
    finally:
        structlog.configure(**before)
    for secret in secrets:
        assert secret not in everywhere
    lines = [json.loads(line) for line in written.getvalue().splitlines() if line.startswith("{")]
    assert set(seen) <= {line.get("request_id") for line in lines}
    calls = [line for line in lines if line["event"] == "api.call"]
    assert len(calls) >= len(seen)
    assert calls[0].keys() >= {"method", "route", "status", "ms", "principal", "request_id"}
