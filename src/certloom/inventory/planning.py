"""Plans over the whole inventory: what every certificate would be told under changed terms.

Nothing is changed. The database is read in chunks, each in a transaction of its own, so a certificate that is
issued meanwhile may be in it or not. What judges is a process of its own (``plan_worker``).
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from functools import partial

import msgspec

from certloom.inventory.plan_worker import MOST_OCTETS, Answered, Judged, Task, WireTerms
from certloom.policy.plan import Terms
from certloom.policy.profiles import Profile, encode_profile
from certloom.policy.rules import encode_rule
from certloom.store import plans as statements
from certloom.store.base import Store, Tx
from certloom.store.certificates import as_identifier
from certloom.store.name_keys import key_of

_CHUNK = 4_000
"""Certificates read at a time."""
_AHEAD = 2
"""Chunks that may be on their way to the worker."""


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a plan has come."""

    done: int
    total: int


class Outcomes(msgspec.Struct, frozen=True, kw_only=True):
    """How many certificates would be told what."""

    compliant: int = 0
    ask: int = 0
    refused: int = 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a plan."""

    total: int
    """Certificates in the inventory."""
    in_use: int
    """Those that were judged: neither revoked nor expired."""
    before: Outcomes
    after: Outcomes
    changed: int
    """How many would be told something else."""
    reasons: dict[str, int]
    """How many would newly meet each reason: its code, or ``rule:name@version``."""


class PlanFailed(Exception):
    """The process that judges came to an end before its work was done."""


_names = msgspec.json.Decoder(
    list[tuple[int, str, str, int, tuple[str, ...], str, int, int, str, str, str, str, str]]
).decode

Step = Progress | msgspec.Raw | Summary
"""A ``Raw`` is a ``plan_worker.Told`` in JSON."""


async def plan(
    store: Store, before: Terms, after: Terms, versions: Mapping[tuple[str, int], Profile], now: int
) -> AsyncGenerator[Step, None]:
    """Progress after each chunk, what would be told something else, and the summary at the end.

    Raises ``PlanFailed``.
    """
    total = await store.scan(statements.total)
    task = Task(
        _wire(before),
        _wire(after),
        [(encode_profile(profile), version) for (_, version), profile in versions.items()],
        now,
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "certloom.inventory.plan_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 20,
    )
    feeding: asyncio.Task[None] | None = None
    try:
        await _send(process, msgspec.json.encode(task))
        needs = msgspec.json.decode(await _receive(process), type=Answered)
        sent: asyncio.Queue[int | None] = asyncio.Queue(_AHEAD)
        feeding = asyncio.create_task(_feed(store, process, needs, now, sent))
        outcomes_before: Counter[str] = Counter()
        outcomes_after: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        done = changed = 0
        yield Progress(done=0, total=total)
        while (rows := await sent.get()) is not None:
            judged = msgspec.json.decode(await _receive(process), type=Judged)
            outcomes_before.update(judged.before)
            outcomes_after.update(judged.after)
            reasons.update(judged.reasons)
            changed += judged.changed
            done += rows
            for line in judged.lines:
                yield line
            yield Progress(done=done, total=max(total, done))
        await feeding
        yield Summary(
            total=done,
            in_use=sum(outcomes_after.values()),
            before=Outcomes(**outcomes_before),
            after=Outcomes(**outcomes_after),
            changed=changed,
            reasons=dict(reasons.most_common()),
        )
    finally:
        if feeding is not None:
            feeding.cancel()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _feed(
    store: Store,
    process: asyncio.subprocess.Process,
    needs: Answered,
    now: int,
    sent: asyncio.Queue[int | None],
) -> None:
    """Read chunks and hand them on, a little ahead of the worker."""
    after = 0
    try:
        while True:
            read = await store.scan(partial(_read, store.dialect, after, needs, now))
            if read is None:
                return
            await _send(
                process, f'{{"certificates":{read.certificates},"histories":{read.histories}}}'.encode()
            )
            await sent.put(read.rows)
            after = read.last
    finally:
        await sent.put(None)


def _read(dialect: str, after: int, needs: Answered, now: int, tx: Tx) -> statements.Chunk | None:
    chunk = statements.chunk(tx, dialect, after, _CHUNK, now, subjects=needs.needs_subject)
    if chunk is None or not needs.needs_history:
        return chunk
    names = {name for row in _names(chunk.certificates) for name in row[4]}
    keys = msgspec.json.encode([key_of(as_identifier(name)) for name in names]).decode()
    return msgspec.structs.replace(
        chunk, histories=statements.histories(tx, dialect, keys, now, counted=needs.needs_count)
    )


async def _send(process: asyncio.subprocess.Process, message: bytes) -> None:
    assert process.stdin is not None
    try:
        process.stdin.write(len(message).to_bytes(4, "big") + message)
        await process.stdin.drain()
    except OSError as error:
        raise PlanFailed("the process that judges is gone") from error


async def _receive(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    try:
        length = int.from_bytes(await process.stdout.readexactly(4), "big")
        if length > MOST_OCTETS:
            raise PlanFailed("the process that judges said too much")
        return await process.stdout.readexactly(length)
    except asyncio.IncompleteReadError as error:
        raise PlanFailed("the process that judges came to an end") from error


def _wire(terms: Terms) -> WireTerms:
    return WireTerms(
        [(encode_profile(profile), version) for profile, version in terms.profiles.values()],
        [(encode_rule(rule), version) for rule, version in terms.rules],
        dict(terms.authorities),
    )
