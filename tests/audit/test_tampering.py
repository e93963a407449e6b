"""Each kind of tampering with a log of 100,000 events is found, and said where, in seconds."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from certloom.audit import Checkpoint, Checkpoints, Fault, Origin, Verdict, link, record, verify
from certloom.audit.chain import START, digest
from certloom.audit.checkpoints import public_pem
from certloom.clock import ManualClock
from certloom.secrets import DataKey
from certloom.store import Store, Tx, events
from certloom.store.events import BASE, HEAD, Mark
from tests.conftest import run

COUNT = 100_000
SIGNED = 90_000
SECONDS = 15
"""For one verification. Two or three are usual; the machine may be busy."""
DATA_KEY = DataKey(bytes(range(32)))


class Log:
    """A log of 100,000 events with a checkpoint, and its original to go back to."""

    def __init__(self, store: Store, clock: ManualClock) -> None:
        self.store = store
        self.clock = clock
        self.checkpoints = Checkpoints(store, clock, DATA_KEY)
        self.checkpoint: Checkpoint
        self.marks: tuple[Mark | None, Mark | None]

    async def build(self) -> None:
        def some(tx: Tx) -> None:
            for number in range(10_000):
                origin = Origin("acme-account:1", "192.0.2.1", "0a1b2c3d4e5f")
                record(
                    tx,
                    self.clock.now_ms(),
                    "certificate.issued",
                    f"certificate:{number}",
                    origin,
                    {"n": number},
                )

        for _ in range(COUNT // 10_000):
            await self.store.write(some)
            self.clock.advance(60)
        assert await link(self.store) == COUNT
        self.checkpoint = await self.checkpoints.make_at(SIGNED)
        await self.store.write(lambda tx: tx.run("CREATE TABLE original AS SELECT * FROM events"))

        def marks(tx: Tx) -> tuple[Mark | None, Mark | None]:
            return events.mark(tx, HEAD), events.mark(tx, BASE)

        self.marks = await self.store.read(marks)

    async def restore(self) -> None:
        def unit(tx: Tx) -> None:
            tx.run("DELETE FROM events")
            tx.run("INSERT INTO events SELECT * FROM original")
            assert self.marks[0] is not None
            events.set_mark(tx, HEAD, self.marks[0])
            tx.run("DELETE FROM facts WHERE key = ?", (BASE,))

        await self.store.write(unit)

    async def tamper(self, unit: Callable[[Tx], Any]) -> Verdict:
        """Do it, verify against the checkpoint, and put all back."""
        await self.store.write(unit)
        key = await self.checkpoints.public_key()
        began = time.monotonic()
        verdict = await verify(self.store, self.checkpoint, key)
        assert time.monotonic() - began < SECONDS
        await self.restore()
        return verdict


def _rehash(tx: Tx, first: int) -> None:
    """As one would who can write everywhere: all hashes from ``first`` on, and the head with them."""
    (previous,) = tx.one("SELECT hash FROM events WHERE sequence = ?", (first - 1,)) or (
        bytes.fromhex(START.hash),
    )
    rows = tx.all(
        "SELECT id, at_ms, kind, subject, actor, origin, trace, data, sequence FROM events"
        " WHERE sequence >= ? ORDER BY sequence",
        (first,),
    )
    changed = []
    sequence = first - 1
    for row in rows:
        sequence = row[8]
        previous = digest(previous, sequence, row[:8])
        changed.append((previous, row[0]))
    tx.many("UPDATE events SET hash = ? WHERE id = ?", changed)
    events.set_mark(tx, HEAD, Mark(sequence, bytes(previous).hex()))
    tx.run("DELETE FROM audit_checkpoints")


def _places(verdict: Verdict) -> list[tuple[int, str]]:
    return [(fault.sequence, fault.problem) for fault in verdict.faults]


def _change(tx: Tx) -> None:
    tx.run("UPDATE events SET actor = 'person:mallory' WHERE sequence = 50000")


def _remove(tx: Tx) -> None:
    tx.run("DELETE FROM events WHERE sequence = 50000")


def _renumber(tx: Tx, condition: str, by: int) -> None:
    """Numbers are unique at every moment, so they go by way of others."""
    tx.run(f"UPDATE events SET sequence = sequence + 10000000 WHERE {condition}")
    tx.run("UPDATE events SET sequence = sequence - ? WHERE sequence > 5000000", (10_000_000 - by,))


def _remove_and_close_the_gap(tx: Tx) -> None:
    _remove(tx)
    _renumber(tx, "sequence > 50000", -1)


def _swap_numbers(tx: Tx) -> None:
    tx.run("UPDATE events SET sequence = 9999999 WHERE sequence = 40000")
    tx.run("UPDATE events SET sequence = 40000 WHERE sequence = 60000")
    tx.run("UPDATE events SET sequence = 60000 WHERE sequence = 9999999")


def _swap_neighbours(tx: Tx) -> None:
    tx.run("UPDATE events SET sequence = 9999999 WHERE sequence = 50000")
    tx.run("UPDATE events SET sequence = 50000 WHERE sequence = 50001")
    tx.run("UPDATE events SET sequence = 50001 WHERE sequence = 9999999")


def _swap_contents(tx: Tx) -> None:
    for column in ("id", "data", "subject"):
        one, other = (
            tx.one(f"SELECT {column} FROM events WHERE sequence = ?", (n,)) for n in (40_000, 60_000)
        )
        assert one is not None
        assert other is not None
        if column == "id":
            tx.run("UPDATE events SET id = 99999999 WHERE sequence = 40000")
        tx.run(f"UPDATE events SET {column} = ? WHERE sequence = 60000", one)
        tx.run(f"UPDATE events SET {column} = ? WHERE sequence = 40000", other)
    times = [tx.one("SELECT at_ms FROM events WHERE sequence = ?", (n,)) for n in (40_000, 60_000)]
    tx.run("UPDATE events SET at_ms = ? WHERE sequence = 60000", times[0] or ())
    tx.run("UPDATE events SET at_ms = ? WHERE sequence = 40000", times[1] or ())


def _insert(tx: Tx) -> None:
    _renumber(tx, "sequence >= 50000", 1)
    tx.run(
        "INSERT INTO events (id, at_ms, kind, subject, actor, origin, trace, data, sequence, hash)"
        " VALUES (8888888, 5, 'certificate.revoked', 'certificate:1', 'x', '', '', '{}', 50000, ?)",
        (hashlib.sha256(b"forged").digest(),),
    )


def _move_far(tx: Tx) -> None:
    tx.run("UPDATE events SET sequence = 9999999 WHERE sequence = 40000")
    _renumber(tx, "sequence > 40000 AND sequence <= 60000", -1)
    # the one moved went along with the others, which were numbered below it
    tx.run("UPDATE events SET sequence = 60000 WHERE sequence < 0 OR sequence = 9999999")


def _cut(tx: Tx) -> None:
    tx.run("DELETE FROM events WHERE sequence > 80000")


@pytest.fixture
def log(store: Store, clock: ManualClock) -> Log:
    made = Log(store, clock)
    run(made.build())
    return made


def test_every_kind_of_tampering_is_found_where_it_is(log: Log) -> None:
    expected: dict[Callable[[Tx], None], list[tuple[int, str]]] = {
        _change: [(50_000, "changed")],
        _remove: [(50_000, "missing")],
        _swap_neighbours: [(50_000, "reordered"), (50_001, "reordered")],
        _swap_numbers: [(40_000, "reordered"), (60_000, "reordered")],
        _swap_contents: [(40_000, "reordered"), (60_000, "reordered")],
        _cut: [(80_001, "truncated")],
    }

    async def go() -> None:
        assert _places(await log.tamper(lambda tx: None)) == []
        for tampering, places in expected.items():
            assert _places(await log.tamper(tampering)) == places, tampering
        inserted = await log.tamper(_insert)
        assert _places(inserted)[0] == (50_000, "inserted")
        assert {problem for _, problem in _places(inserted)} == {"inserted"}
        closed = await log.tamper(_remove_and_close_the_gap)
        assert _places(closed)[0] == (50_000, "missing")
        moved = await log.tamper(_move_far)
        assert _places(moved) == [(60_001, "reordered")], "before the one that was linked as 60001"
        assert "40000" in moved.faults[0].detail

    run(go())


def test_what_somebody_does_who_can_rewrite_everything_is_found_against_the_exported_checkpoint(
    log: Log,
) -> None:
    async def go() -> None:
        for tampering, problem in (
            (_change, "changed"),
            (_remove_and_close_the_gap, "changed"),
            (_swap_contents, "changed"),
            (_insert, "changed"),
        ):

            def consistently(tx: Tx, tampering: Callable[[Tx], None] = tampering) -> None:
                tampering(tx)
                _rehash(tx, 40_000)

            await log.store.write(consistently)
            assert (await verify(log.store)).intact, "without the checkpoint it cannot be seen"
            verdict = await log.tamper(lambda tx: None)
            assert _places(verdict) == [(SIGNED, problem)]

    run(go())


def test_a_log_that_was_cut_off_and_written_on_is_found(log: Log) -> None:
    def cut(tx: Tx) -> None:
        _cut(tx)
        _rehash(tx, 80_000)

    def cut_and_write_on(tx: Tx) -> None:
        tx.run("UPDATE events SET kind = 'x' WHERE sequence > 80000")
        _rehash(tx, 80_000)

    async def go() -> None:
        assert _places(await log.tamper(cut)) == [(80_001, "truncated")]
        assert _places(await log.tamper(cut_and_write_on)) == [(SIGNED, "changed")]

    run(go())


def test_a_beginning_removed_in_the_name_of_retention_is_found(log: Log) -> None:
    def pretend(tx: Tx) -> None:
        (found,) = tx.one("SELECT hash FROM events WHERE sequence = 30000") or (b"",)
        events.set_mark(tx, BASE, Mark(30_000, bytes(found).hex()))
        tx.run("DELETE FROM events WHERE sequence <= 30000")

    async def go() -> None:
        await log.store.write(pretend)
        assert (await verify(log.store)).intact
        for keep_days in (0, 30):
            verdict = await verify(log.store, log.checkpoint, keep_days=keep_days, now_ms=log.clock.now_ms())
            assert _places(verdict) == [(1, "missing")]
        later = log.clock.now_ms() + 31 * 86_400_000
        assert (await verify(log.store, log.checkpoint, keep_days=30, now_ms=later)).intact

    run(go())


def test_what_follows_the_checkpoint_is_unprovable_and_said_to_be(log: Log) -> None:
    def rewrite(tx: Tx) -> None:
        tx.run("UPDATE events SET kind = 'x' WHERE sequence = 95000")
        _rehash(tx, 95_000)

    async def go() -> None:
        verdict = await log.tamper(rewrite)
        assert verdict.intact
        assert verdict.unprovable == COUNT - SIGNED

    run(go())


def test_a_checkpoint_under_another_key_or_of_another_log_is_not_believed(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        from certloom.audit import CheckpointError
        from certloom.audit.checkpoints import load_public

        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await store.write(lambda tx: record(tx, 1, "a.b", "a:1", Origin("system")))
        await link(store)
        good = await checkpoints.make()
        key = load_public(public_pem(await checkpoints.public_key()))
        assert (await verify(store, good, key)).intact
        for forged in (
            msgspec.structs.replace(good, hash="00" * 32),
            msgspec.structs.replace(good, sequence=2),
            msgspec.structs.replace(good, log="00" * 16),
            msgspec.structs.replace(good, at=good.at + 1),
            msgspec.structs.replace(good, base=1),
            msgspec.structs.replace(good, key="00" * 32),
            msgspec.structs.replace(good, signature="AAAA"),
            msgspec.structs.replace(good, signature="ä"),
        ):
            with pytest.raises(CheckpointError):
                await verify(store, forged, key)

    run(go())


def test_faults_say_which_event_it_is(store: Store) -> None:
    async def go() -> None:
        def unit(tx: Tx) -> None:
            for number in range(5):
                record(tx, 1, "a.b", f"a:{number}", Origin("system"))

        await store.write(unit)
        await link(store)
        await store.write(lambda tx: tx.run("UPDATE events SET kind = 'x' WHERE sequence = 2"))
        (fault,) = (await verify(store)).faults
        assert isinstance(fault, Fault)
        assert fault.event_id == 2

    run(go())
