"""Searching the inventory, against a plain reading of the filters over every row."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from certloom.pki.identifiers import Identifier, parse_dns, parse_email, parse_uri
from certloom.store import Store, Tx, certificates, listing
from certloom.store import certificate_search as search
from certloom.store.certificate_search import Filters, Listed, Sort, State
from certloom.store.certificates import StoredCertificate
from tests.conftest import run

NOW = 10_000
NAMES = (
    (parse_dns("www.example.com"),),
    (parse_dns("example.com"), parse_dns("*.example.com")),
    (parse_dns("a.b.example.com"), parse_dns("c.example.org")),
    (parse_dns("notexample.com"),),
    (parse_email("root@mail.example.com"), parse_uri("https://host.test/x.example.com")),
    (parse_dns("host.example.com-like.test"),),
)


def _fill(tx: Tx, count: int = 400) -> None:
    random.seed(7)
    for number in range(count):
        names: tuple[Identifier, ...] = random.choice(NAMES)
        issued = random.randrange(1, 9_000)
        id = certificates.insert(
            tx,
            StoredCertificate(
                id=0,
                authority=random.choice(("one", "two")),
                serial=number.to_bytes(2, "big"),
                der=b"der%d" % number,
                spki_sha256=bytes([number % 50]) * 32,
                not_before=issued,
                not_after=issued + random.choice((500, 3_000, 9_000)),
                profile=random.choice(("web", "device", "mail")),
                profile_version=1,
                requester=f"acme-account:{number % 7}",
                request_id=f"r{number}",
                crl_shard=0,
                issued=issued // 4 * 4,
                key_type=random.choice(("P-256", "rsa-2048")),
                owner=random.choice((None, "ann", "bob")),
                team=random.choice((None, "red", "blue")),
            ),
            names,
        )
        fate = random.randrange(12)
        if fate == 0:
            certificates.set_revoked(tx, id, 1, 1)
        elif fate == 1:
            certificates.set_revoked(tx, id, 1, certificates.HOLD)
        if fate in (0, 1, 2, 3):
            certificates.set_replace(tx, id, 1, "why")
        if fate in (3, 4, 5):
            certificates.set_replaced_by(tx, id, 1)
    for name in ("one", "two"):
        tx.run(
            "INSERT INTO authorities (name, kind, issuer, certificate, key_identifier, key_id, crl_shards,"
            " state, body, created) VALUES (?, 'local', NULL, ?, ?, NULL, 1, 'active', '{}', 1)",
            (name, b"", b""),
        )


@pytest.fixture
def filled(store: Store) -> Store:
    run(store.write(_fill))
    return store


def _fits(c: Listed, f: Filters, within: listing.Within) -> bool:
    """What the filters mean, in so many words."""
    return all(
        (
            f.name is None or f.name in c.identifiers,
            f.under is None
            or any(
                i.type == "dns" and (i.value == f.under or i.value.endswith("." + f.under))
                for i in c.identifiers
            ),
            f.serial is None or c.serial == f.serial,
            f.fingerprint is None or c.fingerprint == f.fingerprint,
            f.spki_sha256 is None or c.spki_sha256 == f.spki_sha256,
            f.profile is None or c.profile == f.profile,
            f.authority is None or c.authority == f.authority,
            f.requester is None or c.requester == f.requester,
            f.owner is None or c.owner == f.owner,
            f.team is None or c.team == f.team,
            f.key_type is None or c.key_type == f.key_type,
            f.state is None or search.state_of(c, NOW) is f.state,
            f.expires_from is None or c.not_after >= f.expires_from,
            f.expires_before is None or c.not_after < f.expires_before,
            f.issued_from is None or c.issued >= f.issued_from,
            f.issued_before is None or c.issued < f.issued_before,
            within is None or any(getattr(c, column) == value for column, value in within),
        )
    )


def _random_filters() -> Filters:
    given: dict[str, Any] = {
        "name": random.choice([name for names in NAMES for name in names]),
        "under": random.choice(("example.com", "com", "b.example.com", "test")),
        "serial": random.randrange(400).to_bytes(2, "big"),
        "spki_sha256": bytes([random.randrange(50)]) * 32,
        "profile": random.choice(("web", "device", "none")),
        "authority": random.choice(("one", "two")),
        "requester": f"acme-account:{random.randrange(8)}",
        "owner": random.choice(("ann", "bob")),
        "team": random.choice(("red", "blue")),
        "key_type": "P-256",
        "state": random.choice(list(State)),
        "expires_from": random.randrange(18_000),
        "expires_before": random.randrange(18_000),
        "issued_from": random.randrange(9_000),
        "issued_before": random.randrange(9_000),
    }
    chosen = random.sample(sorted(given), random.choice((0, 1, 1, 2, 2, 3)))
    return Filters(**{name: given[name] for name in chosen})


def _walk(
    tx: Tx, filters: Filters, sort: Sort, limit: int, within: listing.Within, descending: bool
) -> list[Listed]:
    found: list[Listed] = []
    after = None
    for _ in range(5_000):
        page = search.search(
            tx, filters, sort, limit, now=NOW, within=within, after=after, descending=descending
        )
        assert len(page.certificates) <= limit
        found += page.certificates
        if page.after is None:
            return found
        after = page.after
    raise AssertionError("a listing without an end")


@pytest.mark.parametrize("bounds", [(4000, 2000), (7, 5), (16, 0)], ids=str)
def test_pages_hold_what_matches_each_once_and_in_order(
    filled: Store, bounds: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where so little may be looked at that most pages are short."""
    for module in (listing, search):
        monkeypatch.setattr(module, "EXAMINED", bounds[0])
        monkeypatch.setattr(module, "FEW", bounds[1])
    random.seed(11)

    def unit(tx: Tx) -> None:
        every = _walk(tx, Filters(), Sort.ISSUED, 1000, None, False)
        assert len(every) == 400
        for _ in range(60):
            filters = _random_filters()
            within = random.choice(
                (None, None, [("owner", "ann")], [("owner", "ann"), ("team", "red"), ("team", "blue")], [])
            )
            sort, descending = random.choice(list(Sort)), random.random() < 0.5
            found = _walk(tx, filters, sort, random.choice((3, 20, 200)), within, descending)
            column = "issued" if sort is Sort.ISSUED else "not_after"
            wanted = sorted(
                (c for c in every if _fits(c, filters, within)),
                key=lambda c: (getattr(c, column), c.id),
                reverse=descending,
            )
            assert [c.id for c in found] == [c.id for c in wanted], (filters, sort, descending, within)

    run(filled.scan(unit))


def test_more_teams_than_are_walked_are_all_seen(filled: Store) -> None:
    within = [("team", f"team{number}") for number in range(40)] + [("team", "red")]

    def unit(tx: Tx) -> None:
        every = _walk(tx, Filters(), Sort.ISSUED, 1000, None, False)
        found = _walk(tx, Filters(), Sort.ISSUED, 10, within, False)
        assert [c.id for c in found] == [c.id for c in every if c.team == "red"]

    run(filled.scan(unit))


@pytest.mark.parametrize(
    "text", ["' OR 1=1 --", '"; DROP TABLE certificates; --', "%", "_" * 5, "!%", "\\", "web' UNION SELECT"]
)
def test_what_is_searched_for_is_never_read_as_sql_or_as_a_pattern(filled: Store, text: str) -> None:
    def unit(tx: Tx) -> None:
        for column in ("under", "profile", "authority", "requester", "owner", "team", "key_type"):
            for sort in Sort:
                filters = msgspec.structs.replace(Filters(), **{column: text})
                assert _walk(tx, filters, sort, 50, None, False) == []
        assert _walk(tx, Filters(), Sort.ISSUED, 50, [("owner", text), ("team", text)], False) == []

    run(filled.scan(unit))


def test_a_name_is_matched_whole(filled: Store) -> None:
    def unit(tx: Tx) -> None:
        for filters in (Filters(name=parse_dns("ww.example.com")), Filters(under="xample.com")):
            assert _walk(tx, filters, Sort.ISSUED, 50, None, False) == []

    run(filled.scan(unit))


def test_every_page_of_every_search_is_read_from_an_index(
    filled: Store, dialect: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No walk sorts, and none passes over the table: it would do so for a million rows as well."""
    random.seed(3)
    asked: list[tuple[str, Any]] = []
    plain = listing.Index.subquery

    def subquery(self: listing.Index, *args: Any, **more: Any) -> listing.Sift:
        made = plain(self, *args, **more)
        asked.append((made.sql, made.params))
        return made

    monkeypatch.setattr(listing.Index, "subquery", subquery)
    for module in (listing, search):
        monkeypatch.setattr(module, "EXAMINED", 16)
        monkeypatch.setattr(module, "FEW", 4)

    def ask(tx: Tx) -> None:
        for _ in range(80):
            within = random.choice((None, [("owner", "ann"), ("team", "red")]))
            _walk(tx, _random_filters(), random.choice(list(Sort)), 5, within, random.random() < 0.5)

    def explain(tx: Tx) -> None:
        if dialect == "postgresql":
            # So few rows would else be sorted; a plan that must sort, or pass over the table, still does.
            for kind in ("seqscan", "bitmapscan", "sort", "incremental_sort"):
                tx.run(f"SET LOCAL enable_{kind} = off")
        for sql, params in dict(asked).items():
            if dialect == "sqlite":
                plan = " ".join(row[3] for row in tx.all(f"EXPLAIN QUERY PLAN {sql}", params))
                assert "TEMP B-TREE" not in plan, (plan, sql)
                assert "USING INDEX" in plan or "USING COVERING INDEX" in plan, (plan, sql)
            else:
                literals = iter(params)
                text = "".join(_literal(next(literals)) if part == "?" else part for part in _split(sql))
                plan = " ".join(row[0] for row in tx.all(f"EXPLAIN {text}"))
                assert "Sort" not in plan, (plan, sql)
                assert "Index" in plan, (plan, sql)

    run(filled.scan(ask))
    assert len(dict(asked)) > 30
    if dialect == "postgresql":
        run(filled.write(explain))
    else:
        run(filled.scan(explain))


def _split(sql: str) -> list[str]:
    return [part for piece in sql.split("?") for part in (piece, "?")][:-1]


def _literal(value: int | str) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"
