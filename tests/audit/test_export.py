"""Checkpoints, and exports that a stranger can verify."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import sqlite3
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from certloom.audit import (
    CheckpointError,
    Checkpoints,
    Origin,
    Range,
    Verdict,
    export,
    link,
    prune,
    record,
    verify,
    verify_export,
)
from certloom.audit.checkpoints import parse, public_pem
from certloom.clock import ManualClock
from certloom.secrets import DataKey
from certloom.store import Store, Tx, open_store
from tests.conftest import run

DATA_KEY = DataKey(bytes(range(32)))
ORIGIN = Origin("person:ä\u2028", "2001:db8::1", "0a1b")


async def _record(store: Store, clock: ManualClock, count: int) -> None:
    for number in range(count):
        data = {"before": None, "after": {"n": number, "text": 'ü"\n'}}
        await store.write(
            partial(
                record,
                at_ms=clock.now_ms(),
                kind="thing.changed",
                subject="thing:1",
                origin=ORIGIN,
                data=data,
            )
        )
        clock.advance(100)
    await link(store)


async def _lines(store: Store, checkpoints: Checkpoints, part: Range | None = None) -> list[bytes]:
    pieces = [piece async for piece in export(store, checkpoints, part or Range())]
    return b"".join(pieces).splitlines()


def _strangers_verification(lines: list[bytes], pem: bytes) -> int:
    """What docs/audit.md describes, written by somebody who has only that page."""
    items = [json.loads(line) for line in lines]
    start, events, end = items[0], items[1:-1], items[-1]
    previous, number = bytes.fromhex(start["hash"]), start["sequence"]
    for event in events:
        number += 1
        text = previous + f"{number};".encode()
        for name in ("id", "at_ms", "kind", "subject", "actor", "origin", "trace", "data"):
            value = str(event[name]).encode()
            text += f"{len(value)}:".encode() + value
        previous = hashlib.sha256(text).digest()
        assert event["sequence"] == number
        assert event["hash"] == previous.hex()
    assert (end["sequence"], end["hash"], end["log"]) == (number, previous.hex(), start["log"])
    signed = (
        f"certloom audit checkpoint v1\nlog {end['log']}\nsequence {end['sequence']}\nhash {end['hash']}\n"
        f"base {end['base']}\ntime {end['at']}\nkey {end['key']}\n"
    )
    key = serialization.load_pem_public_key(pem)
    assert isinstance(key, Ed25519PublicKey)
    key.verify(base64.b64decode(end["signature"]), signed.encode())
    return int(number)


def test_a_stranger_can_recompute_the_chain_of_an_export_and_check_its_signature(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 7)
        pem = public_pem(await checkpoints.public_key())
        assert _strangers_verification(await _lines(store, checkpoints), pem) == 7
        part = await _lines(store, checkpoints, Range(first=3, last=5))
        assert len(part) == 5
        assert _strangers_verification(part, pem) == 5

    run(go())


def test_an_empty_log_can_be_exported_and_verified(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        lines = await _lines(store, checkpoints)
        assert len(lines) == 2
        assert verify_export(lines, await checkpoints.public_key()).intact

    run(go())


def test_an_export_by_time_holds_all_events_of_that_time(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        start = clock.now_ms()
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 50)
        lines = await _lines(
            store, checkpoints, Range(since_ms=start + 1_000_000, until_ms=start + 2_000_000)
        )
        numbers = [json.loads(line)["sequence"] for line in lines[1:-1]]
        assert set(range(11, 22)) <= set(numbers) <= set(range(9, 24))
        assert numbers == sorted(numbers)
        assert verify_export(lines, await checkpoints.public_key()).intact

    run(go())


def test_an_export_after_retention_begins_where_the_chain_begins(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 10)
        before = await checkpoints.make()
        clock.advance(40 * 86_400)
        assert await prune(store, clock.now_ms() - 30 * 86_400_000, clock.now_ms()) == 9
        await link(store)
        lines = await _lines(store, checkpoints)
        assert json.loads(lines[0])["sequence"] == 9
        assert json.loads(lines[-1])["base"] == 9
        assert verify_export(lines, await checkpoints.public_key()).intact
        verdict = await verify(store, before, keep_days=30, now_ms=clock.now_ms())
        assert verdict.intact, "retention had reason to remove them"
        assert [f.problem for f in (await verify(store, before)).faults] == ["missing"], "retention is off"

    run(go())


def _tampered(lines: list[bytes], how: str) -> list[bytes]:
    lines = list(lines)
    if how == "changed":
        lines[4] = lines[4].replace(b"thing:1", b"thing:2")
    elif how == "missing":
        del lines[4]
    elif how == "reordered":
        lines[4], lines[5] = lines[5], lines[4]
    elif how == "inserted":
        lines.insert(4, lines[4].replace(b"thing:1", b"thing:2"))
    elif how == "truncated":
        lines[-3:-1] = []
    return lines


@pytest.mark.parametrize("how", ["changed", "missing", "reordered", "inserted", "truncated"])
def test_tampering_with_an_exported_file_is_found_without_a_database(
    store: Store, clock: ManualClock, how: str
) -> None:
    async def go() -> Verdict:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 9)
        lines = await _lines(store, checkpoints)
        return verify_export(_tampered(lines, how), await checkpoints.public_key())

    faults = run(go()).faults
    expected = 8 if how == "truncated" else 4
    assert faults
    assert how in {fault.problem for fault in faults}
    assert faults[0].sequence in (expected, expected + 1)


def test_a_file_without_its_end_or_with_a_forged_one_is_not_taken_for_whole(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 5)
        lines = await _lines(store, checkpoints)
        key = await checkpoints.public_key()
        assert [f.problem for f in verify_export(lines[:-1], key).faults] == ["truncated"]
        with pytest.raises(CheckpointError, match="signature"):
            verify_export([*lines[:-1], lines[-1].replace(b'"sequence":5', b'"sequence":4')], key)
        for bad in ([], lines[1:], [b"{}"], [b"\xff"], [lines[0], *lines], [*lines, lines[1]]):
            with pytest.raises(CheckpointError):
                verify_export(bad, key)

    run(go())


def test_checkpoints_are_made_only_when_the_chain_moved_and_old_ones_are_kept(
    store: Store, clock: ManualClock
) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await checkpoints.keep()
        assert await checkpoints.newest(10) == []
        for _ in range(3):
            await _record(store, clock, 2)
            await checkpoints.keep()
            await checkpoints.keep()
        assert [made.sequence for made in await checkpoints.newest(10)] == [6, 4, 2]
        assert [made.sequence for made in await checkpoints.newest(10, before=6)] == [4, 2]
        assert (await verify(store)).intact

    run(go())


def test_the_signing_key_is_made_once_and_sealed(database_url: str, clock: ManualClock) -> None:
    async def go() -> None:
        store = await open_store(database_url, clock=clock)
        makers = [Checkpoints(store, clock, DATA_KEY) for _ in range(8)]
        keys = await asyncio.gather(*(maker.public_key() for maker in makers))
        assert len({public_pem(key) for key in keys}) == 1
        assert len({await maker.log() for maker in makers}) == 1
        rows = await store.read(lambda tx: tx.all("SELECT id, purpose FROM keys"))
        assert [purpose for _, purpose in rows] == ["audit-checkpoints"]
        await store.close()
        store = await open_store(database_url, clock=clock)
        again = Checkpoints(store, clock, DATA_KEY)
        assert public_pem(await again.public_key()) == public_pem(keys[0])
        await store.close()

    run(go())


def test_a_restored_log_is_older_than_an_exported_checkpoint_and_it_is_said_so(
    tmp_path: Path, clock: ManualClock
) -> None:
    async def go() -> None:
        store = await open_store(f"sqlite:///{tmp_path}/a.db", clock=clock)
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 4)
        await checkpoints.make()
        with sqlite3.connect(tmp_path / "a.db") as source, sqlite3.connect(tmp_path / "b.db") as copy:
            source.backup(copy)
        await _record(store, clock, 4)
        exported = await checkpoints.make()
        key = await checkpoints.public_key()
        await store.close()

        restored = await open_store(f"sqlite:///{tmp_path}/b.db", clock=clock)
        await restored.write(
            lambda tx: record(tx, clock.now_ms(), "store.restored", "store", Origin("local:root"))
        )
        await link(restored)
        (fault,) = (await verify(restored, exported, key)).faults
        assert (fault.sequence, fault.problem) == (6, "truncated")
        assert "restored from a backup: event 5" in fault.detail
        assert (await verify(restored)).intact
        await _record(restored, clock, 9)
        (fault,) = (await verify(restored, exported, key)).faults
        assert fault.problem == "changed", "what was written since is not what was signed"
        assert "restored from a backup: event 5" in fault.detail
        await restored.close()

    run(go())


def test_the_logs_own_checkpoints_give_away_who_forgot_them(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 4)
        await checkpoints.make()
        await _record(store, clock, 4)

        def forget(tx: Tx) -> None:
            from certloom.store import events
            from certloom.store.events import Mark

            (hash,) = tx.one("SELECT hash FROM events WHERE sequence = 2") or (b"",)
            tx.run("DELETE FROM events WHERE sequence > 2")
            events.set_mark(tx, events.HEAD, Mark(2, bytes(hash).hex()))

        await store.write(forget)
        assert [(f.sequence, f.problem) for f in (await verify(store)).faults] == [(3, "truncated")]

    run(go())


def test_a_checkpoint_is_read_alone_or_from_the_end_of_an_export(store: Store, clock: ManualClock) -> None:
    async def go() -> None:
        checkpoints = Checkpoints(store, clock, DATA_KEY)
        await _record(store, clock, 3)
        lines = await _lines(store, checkpoints)
        made = await checkpoints.make()
        assert parse(b"\n".join(lines) + b"\n") == made
        assert parse(lines[-1]) == made
        assert parse(json.dumps(json.loads(lines[-1]), indent=2).encode()) == made
        for bad in (b"", b"[]", b"1", b"{}", lines[1], b"\xff\n"):
            with pytest.raises(CheckpointError):
                parse(bad)

    run(go())
