"""The audit log's hash chain, on either database."""

from __future__ import annotations

import asyncio
import threading

import pytest

from certloom.audit import SYSTEM, Checkpoints, Origin, link, prune, record, verify
from certloom.audit.chain import digest
from certloom.clock import ManualClock
from certloom.secrets import DataKey
from certloom.store import Store, Tx, open_store
from tests.conftest import run

ORIGIN = Origin("acme-account:1", "192.0.2.1", "trace-1")


async def _record(store: Store, count: int, at_ms: int = 1_000) -> None:
    def unit(tx: Tx) -> None:
        for number in range(count):
            record(tx, at_ms + number, "certificate.issued", f"certificate:{number}", ORIGIN, {"n": number})

    await store.write(unit)


async def _chain(store: Store, count: int) -> None:
    await _record(store, count)
    assert await link(store) == count


async def _run(store: Store, sql: str, *params: object) -> None:
    await store.write(lambda tx: tx.run(sql, params))


def test_every_event_gets_the_next_place_in_the_chain_in_the_order_of_ids(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 3)
        await _chain(store, 2)
        rows = await store.read(lambda tx: tx.all("SELECT id, sequence FROM events ORDER BY id"))
        assert [sequence for _, sequence in rows] == [1, 2, 3, 4, 5]

    run(go())


def test_linking_goes_on_until_nothing_is_left_however_much_there_is(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 2_345)
        assert await link(store) == 0
        verdict = await verify(store)
        assert verdict.intact
        assert (verdict.checked, verdict.head.sequence) == (2_345, 2_345)

    run(go())


def test_an_untouched_log_is_intact_and_so_is_an_empty_one(store: Store) -> None:
    async def go() -> None:
        assert (await verify(store)).intact
        await _chain(store, 5)
        assert (await verify(store)).intact

    run(go())


def test_events_not_yet_linked_are_no_fault(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 2)
        await _record(store, 2)
        verdict = await verify(store)
        assert verdict.intact
        assert verdict.checked == 2

    run(go())


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at_ms", 5),
        ("kind", "certificate.revoked"),
        ("subject", "certificate:9"),
        ("actor", "person:mallory"),
        ("origin", "192.0.2.2"),
        ("trace", ""),
        ("data", "{}"),
        ("hash", b"\0" * 32),
    ],
)
def test_a_change_to_any_column_is_found_where_it_is(store: Store, column: str, value: object) -> None:
    async def go() -> None:
        await _chain(store, 5)
        await _run(store, f"UPDATE events SET {column} = ? WHERE sequence = 3", value)
        faults = (await verify(store)).faults
        assert faults[0].sequence == 3
        assert faults[0].problem == "changed"
        assert faults[0].event_id is not None

    run(go())


def test_one_changed_event_is_one_fault_and_the_rest_is_still_checked(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 9)
        await _run(store, "UPDATE events SET kind = 'x' WHERE sequence IN (3, 7)")
        assert [fault.sequence for fault in (await verify(store)).faults] == [3, 7]

    run(go())


def test_moving_text_from_one_column_to_its_neighbour_is_a_change() -> None:
    before = digest(b"", 1, (1, 2, "ab", "c", "", "", "", ""))
    assert digest(b"", 1, (1, 2, "a", "bc", "", "", "", "")) != before
    assert digest(b"", 12, (1, 2, "ab", "c", "", "", "", "")) != digest(
        b"", 1, (21, 2, "ab", "c", "", "", "", "")
    )


def test_a_missing_event_is_found_where_it_was(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 6)
        await _run(store, "DELETE FROM events WHERE sequence = 4")
        (fault,) = (await verify(store)).faults
        assert (fault.sequence, fault.problem) == (4, "missing")

    run(go())


def test_a_cut_in_the_middle_is_found_with_its_ends(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 9)
        await _run(store, "DELETE FROM events WHERE sequence BETWEEN 3 AND 6")
        (fault,) = (await verify(store)).faults
        assert (fault.sequence, fault.problem) == (3, "missing")
        assert "3 to 6" in fault.detail

    run(go())


def test_a_missing_beginning_is_found(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 4)
        await _run(store, "DELETE FROM events WHERE sequence <= 2")
        assert (await verify(store)).faults[0].sequence == 1

    run(go())


def test_two_events_that_changed_places_are_found(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 6)
        await _run(store, "UPDATE events SET sequence = 99 WHERE sequence = 3")
        await _run(store, "UPDATE events SET sequence = 3 WHERE sequence = 4")
        await _run(store, "UPDATE events SET sequence = 4 WHERE sequence = 99")
        faults = (await verify(store)).faults
        assert [fault.sequence for fault in faults][:2] == [3, 4]

    run(go())


def test_a_cut_off_end_is_noticed_although_what_is_left_is_in_order(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 6)
        await _run(store, "DELETE FROM events WHERE sequence > 4")
        (fault,) = (await verify(store)).faults
        assert (fault.sequence, fault.problem) == (5, "truncated")

    run(go())


def test_everything_deleted_is_noticed(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 3)
        await _run(store, "DELETE FROM events")
        assert [fault.problem for fault in (await verify(store)).faults] == ["truncated"]

    run(go())


def test_a_forged_event_behind_the_head_is_found(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 3)
        await _record(store, 1)
        await _run(store, "UPDATE events SET sequence = 4, hash = ? WHERE sequence IS NULL", b"\1" * 32)
        (fault,) = (await verify(store)).faults
        assert (fault.sequence, fault.problem) == (4, "inserted")

    run(go())


def test_a_deleted_head_does_not_make_the_log_look_empty(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 3)
        await _run(store, "DELETE FROM facts WHERE key = 'audit.head'")
        assert not (await verify(store)).intact

    run(go())


def test_a_chain_rewritten_from_the_middle_does_not_end_at_the_recorded_head(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 3)

        def rewrite(tx: Tx) -> None:
            (previous,) = tx.one("SELECT hash FROM events WHERE sequence = 2") or (b"",)
            tx.run("UPDATE events SET kind = 'x' WHERE sequence = 3")
            columns = tx.one(
                "SELECT id, at_ms, kind, subject, actor, origin, trace, data FROM events WHERE sequence = 3"
            )
            assert columns is not None
            tx.run("UPDATE events SET hash = ? WHERE sequence = 3", (digest(previous, 3, columns),))

        await store.write(rewrite)
        (fault,) = (await verify(store)).faults
        assert (fault.sequence, fault.problem) == (3, "changed")

    run(go())


def test_faults_beyond_a_hundred_are_not_collected(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 150)
        await _run(store, "UPDATE events SET kind = 'x'")
        assert len((await verify(store)).faults) == 100

    run(go())


def test_retention_removes_the_beginning_and_what_is_left_is_intact(store: Store) -> None:
    async def go() -> None:
        await _record(store, 1_500, at_ms=1_000)
        await link(store)
        assert await prune(store, 1_000 + 1_200, 5_000) == 1_199
        assert await prune(store, 1_000 + 1_200, 5_000) == 0
        verdict = await verify(store)
        assert verdict.intact
        assert (verdict.checked, verdict.base) == (301, 1_199)
        await _run(store, "DELETE FROM events WHERE sequence = 1200")
        assert not (await verify(store)).intact

    run(go())


def test_retention_leaves_the_newest_of_what_is_old_enough_and_the_chain_goes_on(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 3)
        assert await prune(store, 10**9, 10**9) == 2
        assert (await verify(store)).intact
        await _record(store, 2)
        assert await link(store) == 3  # the removal is an event as well
        verdict = await verify(store)
        assert verdict.intact
        assert verdict.head.sequence == 6

    run(go())


def test_a_removal_by_retention_is_an_event_that_says_what_went(store: Store) -> None:
    async def go() -> None:
        await _chain(store, 5)
        await prune(store, 10**9, 7_000)
        rows = await store.read(
            lambda tx: tx.all("SELECT at_ms, actor, data FROM events WHERE kind = 'audit.pruned'")
        )
        assert rows == [(7_000, "system", '{"from":1,"through":4}')]

    run(go())


def test_an_unlinked_event_is_never_pruned(store: Store) -> None:
    async def go() -> None:
        await _record(store, 2)
        assert await prune(store, 10**9, 10**9) == 0
        assert await link(store) == 2

    run(go())


def test_linkers_on_several_nodes_make_one_chain(postgresql_url: str, clock: ManualClock) -> None:
    async def go() -> None:
        nodes = [await open_store(postgresql_url, clock=clock) for _ in range(3)]
        try:

            async def node(store: Store) -> None:
                for _ in range(10):
                    await _record(store, 7)
                    await link(store)

            await asyncio.gather(*(node(store) for store in nodes))
            await link(nodes[0])
            verdict = await verify(nodes[1])
            assert verdict.intact
            assert verdict.checked == 210
        finally:
            for store in nodes:
                await store.close()

    run(go())


def test_an_event_committed_late_is_linked_behind_those_with_higher_ids(
    postgresql_url: str, clock: ManualClock
) -> None:
    async def go() -> None:
        store = await open_store(postgresql_url, clock=clock)
        try:
            inserted, release = threading.Event(), threading.Event()

            def slow(tx: Tx) -> None:
                record(tx, 1, "late", "x:1", SYSTEM)
                inserted.set()
                assert release.wait(10)

            late = asyncio.create_task(store.write(slow))
            await asyncio.to_thread(inserted.wait, 10)
            await store.write(lambda tx: record(tx, 2, "early", "x:2", SYSTEM))
            assert await link(store) == 1
            release.set()
            await late
            assert await link(store) == 1
            rows = await store.read(lambda tx: tx.all("SELECT kind FROM events ORDER BY sequence"))
            assert rows == [("early",), ("late",)]
            ids = await store.read(lambda tx: tx.all("SELECT kind FROM events ORDER BY id"))
            assert ids == [("late",), ("early",)]
            assert (await verify(store)).intact
        finally:
            await store.close()

    run(go())


def test_the_chain_holds_while_many_write_link_sign_and_verify_at_once(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DataKey(bytes(32)))

        async def write() -> None:
            for _ in range(20):
                await _record(store, 5)

        async def link_and_sign() -> None:
            for _ in range(20):
                await link(store)
                await checkpoints.keep()
                assert (await verify(store)).intact

        await asyncio.gather(*(write() for _ in range(6)), link_and_sign(), link_and_sign())
        await link(store)
        verdict = await verify(store, await checkpoints.make())
        assert verdict.intact
        assert (verdict.checked, verdict.unprovable) == (600, 0)

    run(go())
