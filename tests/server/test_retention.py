"""What has been finished for long enough goes; nothing else does."""

from __future__ import annotations

import msgspec

from certloom.audit import SYSTEM, chain, record, verify
from certloom.clock import ManualClock
from certloom.jobs import enqueue
from certloom.server.retention import Retention
from certloom.settings.schema import Retention as RetentionSettings
from certloom.store import requests as request_statements
from certloom.store.base import Store, Tx
from certloom.store.ids import new_id
from certloom.store.requests import EnrolmentRequest
from tests.conftest import run

DAY = 86_400
NEVER = RetentionSettings(orders_days=0, authorizations_days=0, jobs_days=0, events_days=0)


def add_order(tx: Tx, clock: ManualClock, expires: int, request_id: str | None = None) -> str:
    made = min(clock.now(), expires - 1)
    id = new_id(made * 1000)
    tx.run(
        "INSERT INTO acme_orders (id, account_id, channel, profile, identifiers, authorization_ids,"
        " request_id, created, expires) VALUES (?, 'a', 'c', 'p', '[]', '[]', ?, ?, ?)",
        (id, request_id, made, expires),
    )
    return id


def add_authorization(tx: Tx, clock: ManualClock, expires: int) -> str:
    id = new_id(clock.now_ms())
    tx.run(
        "INSERT INTO acme_authorizations (id, account_id, identifier_type, identifier_value, wildcard,"
        " status, token, challenges, created, expires)"
        " VALUES (?, 'a', 'dns', 'x', 0, 'valid', 't', '[]', ?, ?)",
        (id, clock.now(), expires),
    )
    return id


def add_request(tx: Tx, clock: ManualClock, state: str) -> str:
    id = new_id(clock.now_ms())
    request_statements.insert(
        tx,
        EnrolmentRequest(
            id=id,
            state=state,
            protocol="acme",
            channel="c",
            requester="acme-account:a",
            profile="p",
            profile_version=1,
            ask="{}",
            csr=b"",
        ),
    )
    return id


def ids(store: Store, table: str) -> set[str]:
    return {row[0] for row in run(store.scan(lambda tx: tx.all(f"SELECT id FROM {table}")))}


def prune(store: Store, clock: ManualClock, **days: int) -> dict[str, int]:
    settings = msgspec.structs.replace(NEVER, **days)
    return msgspec.structs.asdict(run(Retention(store, clock, settings).prune()))


def test_orders_go_some_days_after_they_expired_but_not_while_their_request_is_open(
    store: Store, clock: ManualClock
) -> None:
    now = clock.now()

    def unit(tx: Tx) -> list[str]:
        return [
            add_order(tx, clock, now - 11 * DAY),
            add_order(tx, clock, now - 9 * DAY),
            add_order(tx, clock, now + DAY),
            add_order(tx, clock, now - 11 * DAY, add_request(tx, clock, "awaiting_approval")),
            add_order(tx, clock, now - 11 * DAY, add_request(tx, clock, "issued")),
        ]

    _, recent, alive, waiting, _ = run(store.write(unit))
    assert prune(store, clock, orders_days=10)["orders"] == 2
    assert ids(store, "acme_orders") == {recent, alive, waiting}


def test_more_orders_than_one_chunk_go_in_several(store: Store, clock: ManualClock) -> None:
    run(store.write(lambda tx: [add_order(tx, clock, clock.now() - 2 * DAY) for _ in range(1203)]))
    assert prune(store, clock, orders_days=1)["orders"] == 1203


def test_authorizations_stay_as_long_as_orders_may_show_them(store: Store, clock: ManualClock) -> None:
    then = clock.now()

    def unit(tx: Tx) -> list[str]:
        expiries = (then + DAY, then + 15 * DAY, then + 400 * DAY)
        return [add_authorization(tx, clock, expires) for expires in expiries]

    gone, recent, alive = run(store.write(unit))
    clock.advance(30 * DAY)
    assert prune(store, clock, orders_days=40, authorizations_days=1)["authorizations"] == 0
    assert prune(store, clock, orders_days=0, authorizations_days=1)["authorizations"] == 0
    assert prune(store, clock, orders_days=20, authorizations_days=1)["authorizations"] == 1
    assert ids(store, "acme_authorizations") == {recent, alive}
    assert gone not in {recent, alive}


def test_ended_jobs_go_and_waiting_ones_stay(store: Store, clock: ManualClock) -> None:
    def unit(tx: Tx) -> None:
        for _ in range(3):
            enqueue(tx, clock.now_ms(), "kind", {})
        tx.run("UPDATE jobs SET state = 'failed', finished = ? WHERE id = 1", (clock.now() - 8 * DAY,))
        tx.run("UPDATE jobs SET state = 'failed', finished = ? WHERE id = 2", (clock.now(),))

    run(store.write(unit))
    assert prune(store, clock, jobs_days=7)["jobs"] == 1


def test_events_go_from_the_beginning_and_the_rest_of_the_chain_verifies(
    store: Store, clock: ManualClock
) -> None:
    def unit(tx: Tx) -> None:
        for day in range(6):
            record(tx, clock.now_ms() + day * DAY * 1000, "thing.changed", "thing:1", SYSTEM)

    run(store.write(unit))
    run(chain.link(store))
    clock.advance(6 * DAY)
    assert prune(store, clock, events_days=3)["events"] == 2
    verdict = run(verify(store))
    assert (verdict.intact, verdict.checked) == (True, 4)


def test_nothing_goes_when_settings_keep_everything(store: Store, clock: ManualClock) -> None:
    run(store.write(lambda tx: add_order(tx, clock, 1)))
    assert set(prune(store, clock).values()) == {0}
