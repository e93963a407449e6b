"""Searching a big inventory: ``python -m bench.inventory --help``.

Fills a store with certificates of a fleet's shape, straight into its tables, then asks for pages and looks up
serials as the API does (``inventory.search``), at random and over both kinds of database. Rows look like real
ones and differ in all that is searched; their DER has the size of a real one but is not one.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from certloom.clock import SystemClock
from certloom.identity.principals import Grant, Principal, Scope, holding, local
from certloom.inventory.search import find
from certloom.pki.identifiers import parse_dns
from certloom.store import Store, Tx, open_store
from certloom.store.certificate_search import Filters, Found, Sort, State
from certloom.store.listing import Position
from certloom.store.name_keys import domain_key
from tests.postgresql import Cluster

DAY = 86400
LIFETIME = 90 * DAY
_CHUNK = 10_000
_DER = 800
"""Octets of a P-256 server certificate."""
PROFILES = (("tls-server", 0.7), ("tls-client", 0.2), ("device", 0.0995), ("legacy", 0.0005))
AUTHORITIES = (("issuing-1", 0.6), ("issuing-2", 0.399), ("old", 0.001))
COLUMNS = (
    "id, authority, serial, der, spki_sha256, not_before, not_after, profile, profile_version, requester,"
    " request_id, crl_shard, issued, revoked, revocation_reason, replace_since, replace_why, replaced_by,"
    " names, key_type, fingerprint, owner, team, channel"
)


class Fleet:
    """What is in the store: ``count`` certificates, issued evenly over the last 400 days."""

    def __init__(self, count: int, now: int) -> None:
        self.count = count
        self.now = now
        self._random = random.Random(1)
        self.serials: list[tuple[str, bytes]] = []
        """Some of them."""
        self.names: list[str] = []
        self.fingerprints: list[bytes] = []

    def rows(self) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """Each certificate's row, and that of its name."""
        pick = self._random
        profiles, weights = [name for name, _ in PROFILES], [weight for _, weight in PROFILES]
        authorities, shares = [name for name, _ in AUTHORITIES], [share for _, share in AUTHORITIES]
        keep = max(1, self.count // 5000)
        for id in range(1, self.count + 1):
            issued = self.now - 400 * DAY + id * 400 * DAY // self.count
            profile = pick.choices(profiles, weights)[0]
            authority = pick.choices(authorities, shares)[0]
            # A few big teams, many small ones; a third of all certificates is of none, as with ACME.
            team = None if pick.random() < 0.33 else f"team-{int(200 * pick.random() ** 3)}"
            owner = None if team is None else f"person-{int(20_000 * pick.random() ** 2)}"
            name = f"h{pick.randrange(2**40):x}.{'abcdefgh'[id % 8]}{pick.randrange(500)}.example.com"
            serial, fingerprint = pick.randbytes(16), pick.randbytes(32)
            lifetime = LIFETIME if profile != "device" else 365 * DAY
            revoked = reason = None
            if pick.random() < 0.01:
                revoked, reason = issued + DAY, 6 if pick.random() < 0.02 else 4
            marked = issued + DAY if pick.random() < 0.002 else None
            replaced = id + 1 if issued + lifetime < self.now + 30 * DAY and pick.random() < 0.8 else None
            if id % keep == 0:
                self.serials.append((authority, serial))
                self.names.append(name)
                self.fingerprints.append(fingerprint)
            yield (
                (
                    id,
                    authority,
                    serial,
                    pick.randbytes(16) + bytes(_DER - 16),
                    pick.randbytes(32),
                    issued,
                    issued + lifetime,
                    profile,
                    1,
                    f"acme-account:{int(5_000 * pick.random() ** 2):032x}",
                    f"{issued * 1000:012x}{id:020x}",
                    id % 1024,
                    issued,
                    revoked,
                    reason,
                    marked,
                    "planned" if marked else None,
                    replaced,
                    json.dumps([f"dns:{name}"]),
                    "P-256" if pick.random() < 0.8 else "rsa-2048",
                    fingerprint,
                    owner,
                    team,
                    "acme/default",
                ),
                (domain_key(name), id),
            )

    async def fill(self, store: Store) -> None:
        """Put it all into the store."""
        insert = f"INSERT INTO certificates ({COLUMNS}) VALUES ({', '.join('?' * 24)})"
        insert_name = "INSERT INTO certificate_names (key, certificate_id) VALUES (?, ?)"

        def unit(tx: Tx, rows: list[Any], names: list[Any]) -> None:
            tx.many(insert, rows)
            tx.many(insert_name, names)

        def authorities(tx: Tx) -> None:
            tx.many(
                "INSERT INTO authorities (name, kind, issuer, certificate, key_identifier, key_id,"
                " crl_shards, state, body, created)"
                " VALUES (?, 'local', NULL, ?, ?, NULL, 1024, 'active', '{}', 1)",
                [(name, b"", b"") for name, _ in AUTHORITIES],
            )

        await store.write(authorities)
        waiting: list[tuple[Any, Any]] = []
        for row in self.rows():
            waiting.append(row)
            if len(waiting) == _CHUNK:
                await store.write(partial(unit, rows=[r for r, _ in waiting], names=[n for _, n in waiting]))
                waiting = []
        if waiting:
            await store.write(partial(unit, rows=[r for r, _ in waiting], names=[n for _, n in waiting]))


class Measured(msgspec.Struct, kw_only=True):
    """One kind of question."""

    database: str
    certificates: int
    question: str
    asked: int
    p50_ms: float
    p99_ms: float
    max_ms: float
    rows: float
    """Per page, in the mean."""


ADMIN = local("0")


def person(teams: tuple[str, ...], owner: str) -> Principal:
    """Somebody who sees what is theirs and their teams'."""
    grants = [Grant(role="requester"), Grant(role="auditor", scope=Scope(teams=teams))]
    return Principal(kind="person", id=owner, name=owner, owner=owner, held=holding(grants, {}))


Question = tuple[Principal, Filters, Sort, bool]


def questions(fleet: Fleet) -> dict[str, Callable[[], Question]]:
    """What is asked, each at random."""
    pick = random.Random(2)

    def one_of(**filters: Any) -> Question:
        return ADMIN, Filters(**filters), pick.choice(list(Sort)), pick.random() < 0.5

    def some(principal: Principal | None = None) -> Question:
        when = fleet.now - 400 * DAY + pick.randrange(400 * DAY)
        every: dict[str, Any] = {
            "name": parse_dns(pick.choice(fleet.names)),
            "under": pick.choice(("example.com", f"a{pick.randrange(500)}.example.com", "com")),
            "profile": pick.choice([name for name, _ in PROFILES]),
            "authority": pick.choice([name for name, _ in AUTHORITIES]),
            "requester": f"acme-account:{pick.randrange(5_000):032x}",
            "owner": f"person-{pick.randrange(20_000)}",
            "team": f"team-{pick.randrange(200)}",
            "key_type": "rsa-2048",
            "state": pick.choice(list(State)),
            "expires_from": when,
            "expires_before": when + pick.randrange(1, 100) * DAY,
            "issued_from": when,
            "issued_before": when + pick.randrange(1, 100) * DAY,
        }
        chosen = pick.sample(sorted(every), pick.choice((1, 2, 2, 3, 3, 4)))
        filters = Filters(**{name: every[name] for name in chosen})
        return principal or ADMIN, filters, pick.choice(list(Sort)), pick.random() < 0.5

    def somebody() -> Question:
        teams = tuple(f"team-{pick.randrange(200)}" for _ in range(pick.choice((1, 3, 10, 40))))
        return some(person(teams, f"person-{pick.randrange(20_000)}"))

    return {
        "all": one_of,
        "serial": lambda: one_of(serial=pick.choice(fleet.serials)[1]),
        "fingerprint": lambda: one_of(fingerprint=pick.choice(fleet.fingerprints)),
        "name": lambda: one_of(name=parse_dns(pick.choice(fleet.names))),
        "under": lambda: one_of(under=f"{pick.choice('abcdefgh')}{pick.randrange(500)}.example.com"),
        "profile": lambda: one_of(profile=pick.choice(PROFILES)[0]),
        "team, state": lambda: one_of(team=f"team-{pick.randrange(200)}", state=pick.choice(list(State))),
        "expiring": lambda: one_of(
            expires_from=fleet.now, expires_before=fleet.now + 14 * DAY, state=State.VALID
        ),
        "any filters": some,
        "any filters, of a few teams": somebody,
    }


async def ask(
    store: Store, name: str, fleet: Fleet, question: Callable[[], Question], count: int
) -> Measured:
    """Ask so often; half of the pages are ones that follow another."""
    times: list[float] = []
    rows = 0
    after: Position | None = None
    asked: Question | None = None
    for number in range(count):
        if asked is None or after is None or number % 2 == 0:
            asked, after = question(), None
        principal, filters, sort, descending = asked
        unit = partial(
            find,
            principal=principal,
            filters=filters,
            sort=sort,
            limit=100,
            now=fleet.now,
            after=after,
            descending=descending,
        )
        begun = time.perf_counter()
        page: Found = await store.scan(unit)
        times.append(time.perf_counter() - begun)
        rows += len(page.certificates)
        after = page.after
    times.sort()
    return Measured(
        database=store.dialect,
        certificates=fleet.count,
        question=name,
        asked=count,
        p50_ms=round(statistics.median(times) * 1000, 2),
        p99_ms=round(times[min(count - 1, int(count * 0.99))] * 1000, 2),
        max_ms=round(times[-1] * 1000, 2),
        rows=round(rows / count, 1),
    )


async def measure(url: str, count: int, pages: int) -> list[Measured]:
    """Fill one store and ask it everything."""
    store = await open_store(url, clock=SystemClock())
    fleet = Fleet(count, int(time.time()))
    begun = time.perf_counter()
    await fleet.fill(store)
    if store.dialect == "postgresql":
        await store.write(lambda tx: tx.run("ANALYZE"))
    print(f"{store.dialect}: {count} certificates in {time.perf_counter() - begun:.0f} s", flush=True)
    found = []
    for name, question in questions(fleet).items():
        line = await ask(store, name, fleet, question, pages)
        print(
            f"{line.database:<11} {name:<28} p50 {line.p50_ms:>7.2f} ms   p99 {line.p99_ms:>7.2f} ms"
            f"   max {line.max_ms:>7.2f} ms   {line.rows:>5.1f} rows a page",
            flush=True,
        )
        found.append(line)
    await store.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--databases", default="sqlite,postgresql")
    parser.add_argument("--certificates", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=1000, help="of each kind of question")
    parser.add_argument("--json", type=Path, help="write the results here too")
    options = parser.parse_args()
    results: list[Measured] = []
    for database in options.databases.split(","):
        folder = Path(tempfile.mkdtemp(prefix="certloom-bench-"))
        folder.chmod(0o755)  # PostgreSQL runs as a user of its own
        cluster = Cluster(parent=folder) if database == "postgresql" else None
        try:
            url = cluster.url(cluster.create()) if cluster else f"sqlite:///{folder}/certloom.db"
            results += asyncio.run(measure(url, options.certificates, options.pages))
        finally:
            if cluster:
                cluster.remove()
            shutil.rmtree(folder, ignore_errors=True)
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    worst = max(line.p99_ms for line in results)
    print(f"worst p99: {worst} ms ({os.cpu_count()} processors)")


if __name__ == "__main__":
    main()
