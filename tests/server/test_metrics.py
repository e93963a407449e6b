"""Metrics and health of a running server, over its own listener."""

from __future__ import annotations

import asyncio
import json
import timeit
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from certloom.clock import SystemClock
from certloom.server.app import Application, build
from certloom.server.meters import Meters
from certloom.settings import Settings
from certloom.settings.schema import Listen
from tests.conftest import run


def _settings(path: Path) -> Settings:
    listen = Listen(https="127.0.0.1:0", http="127.0.0.1:0", metrics="127.0.0.1:0")
    return Settings(data_dir=str(path / "data"), listen=listen)


async def _serving(path: Path) -> tuple[Application, str, str]:
    app = await build(_settings(path), SystemClock())
    await app.start()
    at = {name: f"http://127.0.0.1:{app.sockets[name].getsockname()[1]}" for name in ("http", "metrics")}
    return app, at["http"], at["metrics"]


async def _get(url: str, accept: str = "*/*") -> tuple[int, str, str]:
    async with aiohttp.ClientSession() as session, session.get(url, headers={"Accept": accept}) as answer:
        return answer.status, await answer.text(), answer.headers["Content-Type"]


def test_the_exposition_is_what_prometheus_parses_and_counts_what_happened(tmp_path: Path) -> None:
    async def go() -> None:
        app, http, metrics = await _serving(tmp_path)
        try:
            for path in ("/", "/nowhere", "/ca/roots.pem"):
                await _get(http + path)
            await asyncio.sleep(1.5)  # until the listener's own certificate is linked into the log
            status, text, content_type = await _get(metrics + "/metrics")
            assert status == 200
            assert content_type.startswith("text/plain")
            families = {family.name: family for family in text_string_to_metric_families(text)}
            assert all(family.documentation for family in families.values())
            found = {
                (sample.name, *sorted(sample.labels.items())): sample.value
                for family in families.values()
                for sample in family.samples
            }
            place = (("listener", "http"), ("protocol", "pages"))
            assert found["certloom_requests_total", *place, ("status", "2xx")] == 2
            assert found["certloom_requests_total", *place, ("status", "4xx")] == 1
            assert found["certloom_request_seconds_count", *place] == 3
            assert found["certloom_request_seconds_bucket", ("le", "+Inf"), *place] == 3
            issued = (
                "certloom_certificates_issued_total",
                ("profile", "tls-server"),
                ("protocol", "system"),
            )
            assert found[issued] == 1
            assert found["certloom_certificates_expiring", ("days", "30")] >= 0
            assert found["certloom_store_commit_seconds_count",] > 0
            assert found["certloom_crl_valid_seconds", ("authority", "issuing")] > 0
            assert found["certloom_audit_unlinked_events",] >= 0
            assert "process_cpu_seconds_total" in text
            status, text, content_type = await _get(metrics + "/metrics", "application/openmetrics-text")
            assert content_type.startswith("application/openmetrics-text")
            parse: Callable[[str], Iterator[object]] = openmetrics
            assert list(parse(text))
        finally:
            await app.close()

    run(go())


def test_the_metrics_listener_serves_nothing_else_and_others_serve_no_metrics(tmp_path: Path) -> None:
    async def go() -> None:
        app, http, metrics = await _serving(tmp_path)
        try:
            assert (await _get(metrics + "/ca/roots.pem"))[0] == 404
            assert (await _get(http + "/metrics"))[0] == 404
            for base in (http, metrics):
                assert (await _get(base + "/health/live"))[1] == "live\n"
                assert (await _get(base + "/health/ready"))[:2] == (200, "ready\n")
                status, text, _ = await _get(base + "/health", "application/json")
                health = json.loads(text)
                assert (status, health["ready"]) == (200, True)
                names = {check["name"] for check in health["checks"]}
                assert names == {"store", "signer", "clock", "crls", "ocsp", "linter"}
        finally:
            await app.close()

    run(go())


def test_a_store_that_takes_no_writes_is_not_ready(tmp_path: Path) -> None:
    async def go() -> None:
        app, http, _ = await _serving(tmp_path)
        try:
            await app.rooms.store.write(
                lambda tx: tx.run(
                    "CREATE TRIGGER full_disk BEFORE INSERT ON facts WHEN NEW.key = 'health'"
                    " BEGIN SELECT RAISE(ABORT, 'full'); END"
                )
            )
            status, text, _ = await _get(http + "/health/ready")
            assert status == 503
            assert "store" in text
        finally:
            await app.close()

    run(go())


def test_a_clock_behind_the_log_is_not_ready_and_a_stale_crl_is_told(tmp_path: Path) -> None:
    async def go() -> None:
        app, http, _ = await _serving(tmp_path)
        try:

            def unit(tx: object) -> None:
                tx.run("UPDATE crls SET next_update = 5")  # type: ignore[attr-defined]

            await asyncio.sleep(1.2)
            await app.rooms.store.write(unit)
            await app.rooms.store.write(lambda tx: tx.run("UPDATE events SET at_ms = at_ms + 3600000"))
            status, text, _ = await _get(http + "/health/ready", "application/json")
            checks = {check["name"]: check for check in json.loads(text)["checks"]}
            assert status == 503
            assert not checks["clock"]["ok"]
            assert "issuing" in checks["crls"]["detail"]
        finally:
            await app.close()

    run(go())


def test_counting_a_request_costs_next_to_nothing() -> None:
    meters = Meters("https")
    each = min(
        timeit.repeat(lambda: meters.count("/acme/default/new-order", 201, 0.0021), number=20_000, repeat=5)
    )
    assert each / 20_000 < 10e-6, "half a microsecond on a quiet machine"


@pytest.mark.parametrize("status", [401, 429])
def test_failed_authentications_and_limited_requests_are_counted_apart(status: int) -> None:
    meters = Meters("https")
    meters.count("/api/v1/sessions", status, 0.1)
    assert (meters.api.unauthenticated, meters.api.limited) == ((1, 0) if status == 401 else (0, 1))
    assert meters.api.login_failures == (status == 401)
