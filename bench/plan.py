"""Plans over a large inventory, on SQLite and PostgreSQL, and how well a server answers meanwhile.

    .venv-test/bin/python -m bench.plan --certificates 1000000 --databases sqlite,postgresql

The certificates are rows without real DER (a plan does not look at it): one to three names each, several key
types, teams, profiles and lifetimes. Two things are planned: a profile that no longer takes short RSA keys,
and with it a rule over the names; then a rule that looks at what the inventory knows of each name. While a
plan runs, the same event loop is asked for the time every millisecond: how late it answers is how much a plan
holds up a server.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from certloom.clock import SystemClock
from certloom.inventory.planning import Progress, Summary, plan
from certloom.policy.plan import Terms
from certloom.policy.profiles import default_profiles, encode_profile, parse_profile
from certloom.policy.rules import Rule, parse_rule
from certloom.store import Store, open_store
from certloom.store.base import Tx

_DAY = 86400
_KEYS = ("P-256", "rsa-2048", "P-384", "rsa-3072", "ed25519")
_PROFILES = ("tls-server", "tls-client")
_ROW = (
    "INSERT INTO certificates (authority, serial, der, spki_sha256, not_before, not_after, profile,"
    " profile_version, requester, request_id, crl_shard, issued, names, key_type, fingerprint, owner, team,"
    " channel) VALUES ('issuing', ?, ?, ?, ?, ?, ?, 1, ?, ?, 0, ?, ?, ?, ?, ?, ?, 'acme/default')"
)


def rules() -> dict[str, tuple[tuple[Rule, int], ...]]:
    """What is planned, by its name in the report."""
    names = parse_rule(
        {
            "name": "no-short-rsa",
            "when": 'request.key.type == "rsa" && request.key.bits < 3072'
            ' && request.dns.exists(n, under(n, "prod.example.com"))',
            "effect": "refuse",
            "message": "names under prod.example.com need RSA keys of 3072 bits",
        }
    )
    teams = parse_rule(
        {
            "name": "other-team",
            "when": 'inventory.exists(h, h.last_team != "" && h.last_team != requester.team)',
            "effect": "ask",
            "message": "the name was last issued to another team",
        }
    )
    return {"profile and rule over names": ((names, 1),), "rule over the inventory": ((teams, 1),)}


def _names(number: int) -> list[str]:
    domain = ("prod", "test", "lab", "corp")[number % 4]
    return [f"dns:host-{number}-{i}.{domain}.example.com" for i in range(1 + number % 3)]


def _fill(first: int, count: int, now: int) -> tuple[list[tuple[Any, ...]], list[tuple[str, int]]]:
    rows, names = [], []
    for number in range(first, first + count):
        start = now - number % 60 * _DAY
        unique = number.to_bytes(20, "big")
        found = _names(number)
        rows.append(
            (
                unique,
                bytes(600),
                unique + bytes(12),
                start,
                start + 90 * _DAY - 1,
                _PROFILES[number % 10 == 0],
                f"acme-account:{number % 1000}",
                f"r{number}",
                start,
                json.dumps(found),
                _KEYS[number % 5],
                unique + bytes(12),
                f"person-{number % 50}",
                f"team-{number % 20}",
            )
        )
        for name in found:
            labels = name.removeprefix("dns:").split(".")
            names.append((".".join(reversed(labels)) + ".", number))
    return rows, names


def _chunks(certificates: int) -> Iterator[tuple[int, int]]:
    for first in range(1, certificates + 1, 5_000):
        yield first, min(5_000, certificates + 1 - first)


async def fill(store: Store, certificates: int, now: int) -> None:
    """Rows as issuing would have left them, in so far as plans look at them."""
    for first, count in _chunks(certificates):
        rows, names = _fill(first, count, now)

        def unit(tx: Tx, rows: Any = rows, names: Any = names) -> None:
            tx.many(_ROW, rows)
            tx.many("INSERT INTO certificate_names (key, certificate_id) VALUES (?, ?)", names)

        await store.write(unit)


async def _lateness(late: list[float]) -> None:
    while True:
        due = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        late.append(time.perf_counter() - due)


async def measure(
    store: Store, added: tuple[tuple[Rule, int], ...], now: int, stricter: bool
) -> dict[str, Any]:
    """One plan: its time, what it found, and how late the event loop was meanwhile."""
    profiles = {profile.name: (profile, 1) for profile in default_profiles("issuing")}
    before = Terms(profiles, (), {"issuing": now + 3650 * _DAY})
    body = json.loads(encode_profile(profiles["tls-server"][0]))
    body["keys"][0]["min"] = 3072
    changed = profiles | {"tls-server": (parse_profile(body), 2)} if stricter else profiles
    after = Terms(changed, added, before.authorities)
    versions = {(name, version): profile for name, (profile, version) in profiles.items()}
    late: list[float] = []
    watching = asyncio.create_task(_lateness(late))
    began = time.perf_counter()
    summary: Summary | None = None
    steps = lines = 0
    async for step in plan(store, before, after, versions, now):
        if isinstance(step, Progress):
            steps += 1
        elif isinstance(step, Summary):
            summary = step
        else:
            lines += 1
    took = time.perf_counter() - began
    watching.cancel()
    late.sort()
    assert summary is not None
    return {
        "seconds": round(took, 1),
        "certificates": summary.total,
        "changed": summary.changed,
        "reasons": summary.reasons,
        "progress": steps,
        "lines": lines,
        "late_ms": {
            "p50": round(late[len(late) // 2] * 1000, 2),
            "p99": round(late[len(late) * 99 // 100] * 1000, 2),
            "max": round(late[-1] * 1000, 1),
        },
    }


async def _run(url: str, certificates: int) -> None:
    clock = SystemClock()
    store = await open_store(url, clock=clock)
    try:
        now = clock.now()
        began = time.perf_counter()
        await fill(store, certificates, now)
        print(f"{store.dialect}: filled with {certificates:,} in {time.perf_counter() - began:.0f} s")
        for name, added in rules().items():
            result = await measure(store, added, now, stricter="profile" in name)
            print(f"{store.dialect}: {name}: {json.dumps(result)}", flush=True)
    finally:
        await store.close()


def main() -> None:
    """Fill, plan, report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--certificates", type=int, default=1_000_000)
    parser.add_argument("--databases", default="sqlite,postgresql")
    options = parser.parse_args()
    for database in options.databases.split(","):
        if database == "sqlite":
            with tempfile.TemporaryDirectory() as directory:
                asyncio.run(_run(f"sqlite:///{Path(directory)}/certloom.db", options.certificates))
        else:
            from tests.postgresql import Cluster

            cluster = Cluster()
            try:
                asyncio.run(_run(cluster.url(cluster.create()), options.certificates))
            finally:
                cluster.remove()


if __name__ == "__main__":
    main()
