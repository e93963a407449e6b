"""Finding out whether the log is what was written: in the database, and in a file that was exported.

Without anything kept elsewhere, a verification finds what was done by somebody who could not rewrite the
whole table, both marks and the checkpoints. Against an exported checkpoint it finds any change to what
precedes that, whoever made it; of what follows, it says how many events that are, as nothing vouches for
them yet.

Retention removes events from the beginning, and so could somebody with other motives. Against a checkpoint,
what was removed since it was signed is ``missing`` unless retention is on and the first event left is so old
that retention would have removed those before it (it always leaves one such, see ``audit.chain``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from certloom.audit import checkpoints
from certloom.audit.chain import START
from certloom.audit.checkpoints import Checkpoint, CheckpointError, load_public
from certloom.audit.export import EndLine, EventLine, StartLine, read_line, row_of
from certloom.audit.walk import FAULTS, Fault, Row, Walk
from certloom.store import authorities as key_statements
from certloom.store import checkpoints as statements
from certloom.store import events
from certloom.store.base import Store, Tx
from certloom.store.checkpoints import StoredCheckpoint
from certloom.store.events import Mark

_CHUNK = 5_000
_SIGNATURES = 200
"""Signatures of the database's own checkpoints that are checked, the newest; places are compared of all."""
_DAY_MS = 86_400_000


class Verdict(msgspec.Struct, frozen=True):
    """What a verification found."""

    checked: int
    """Events whose hashes were recomputed."""
    head: Mark
    """The chain's last event when the verification began."""
    faults: tuple[Fault, ...]
    """At most the first 100, in the order of places."""
    base: int = 0
    """The last event that retention has removed; 0 for none."""
    checkpoint: int | None = None
    """The place of the checkpoint that it was compared with, if one was given."""
    unprovable: int = 0
    """Events behind that checkpoint: in order or not, somebody who could sign may have rewritten them."""

    @property
    def intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.faults


class _Known(msgspec.Struct, frozen=True):
    """What the database says of its log before the walk begins."""

    head: Mark
    base: Mark
    log: str | None
    public_key: Ed25519PublicKey | None


async def verify(
    store: Store,
    checkpoint: Checkpoint | None = None,
    public_key: Ed25519PublicKey | None = None,
    *,
    keep_days: int = 0,
    now_ms: int = 0,
) -> Verdict:
    """Recompute the chain in the database, in chunks beside everything else; say what is wrong where.

    ``checkpoint`` is one that was exported, ``public_key`` the key it must be signed with (without it, the
    database's own, which proves less: it may have been replaced). ``keep_days`` is what retention is set to,
    0 for never removing; ``now_ms`` is needed with it. Raises ``CheckpointError`` where the checkpoint itself
    is not to be believed.
    """
    known = await store.read(_known)
    if checkpoint is not None:
        trusted = public_key or known.public_key
        if trusted is None:
            raise CheckpointError("there is no key here to check the checkpoint with; give the public key")
        checkpoints.check(checkpoint, trusted)
    walk = Walk(START)
    rewritten = await _walk_through(store, walk, known, checkpoint)
    faults = await asyncio.to_thread(walk.finish)
    complete = len(faults) < FAULTS
    if complete:
        faults += _ending(walk, known.head, faults)
        if checkpoint is not None:
            faults += _against(walk, known, checkpoint, faults)
            faults += await _removed(store, known, checkpoint, keep_days, now_ms)
        if rewritten is not None and not faults:
            faults.append(rewritten)
        faults += await store.read(_outside)
        faults += await store.read(_signatures)
    if faults:
        faults = await store.read(lambda tx: _explain(tx, faults))
    return Verdict(
        checked=walk.checked,
        head=known.head,
        faults=tuple(sorted(faults, key=lambda fault: fault.sequence)[:FAULTS]),
        base=known.base.sequence,
        checkpoint=None if checkpoint is None else checkpoint.sequence,
        unprovable=0 if checkpoint is None else max(0, known.head.sequence - checkpoint.sequence),
    )


def _known(tx: Tx) -> _Known:
    id = statements.key_id(tx)
    key = key_statements.key(tx, id) if id else None
    return _Known(
        head=events.mark(tx, events.HEAD) or START,
        base=events.mark(tx, events.BASE) or START,
        log=statements.log_id(tx),
        public_key=load_public(key.spki) if key else None,
    )


async def _walk_through(
    store: Store, walk: Walk, known: _Known, checkpoint: Checkpoint | None
) -> Fault | None:
    """Walk through the table up to its head; answer the first of its own checkpoints that is contradicted."""
    after = 0
    rewritten: Fault | None = None
    walk.watch(known.head.sequence)
    if checkpoint is not None:
        walk.watch(checkpoint.sequence)
    while not walk.full:
        base, walk.last, rows, signed = await store.scan(_chunk_after(after))
        if base.sequence > after:
            walk.restart(base)  # the beginning, or retention went past us
            after = base.sequence
        for own in signed:
            walk.watch(own.sequence)
        await asyncio.to_thread(walk.feed, rows)
        if rewritten is None:
            rewritten = _contradicted(walk, signed)
        if len(rows) < _CHUNK:
            break
        after = rows[-1][8]
    return rewritten


_Chunk = tuple[Mark, int, list[Row], list[StoredCheckpoint]]


def _chunk_after(sequence: int) -> Callable[[Tx], _Chunk]:
    def unit(tx: Tx) -> _Chunk:
        base = events.mark(tx, events.BASE) or START
        head = events.mark(tx, events.HEAD) or START
        first = max(sequence, base.sequence)
        rows: list[Row] = [*events.linked_after(tx, first, _CHUNK)]
        signed = statements.between(tx, first, rows[-1][8]) if rows else []
        return base, head.sequence, rows, signed

    return unit


def _contradicted(walk: Walk, signed: list[StoredCheckpoint]) -> Fault | None:
    for own in signed:
        seen = walk.seen(own.sequence)
        if seen is not None and seen != own.hash:
            return Fault(
                own.sequence,
                "changed",
                "the checkpoint kept of this event has another hash: what leads to it was rewritten",
            )
    return None


def _ending(walk: Walk, head: Mark, faults: list[Fault]) -> list[Fault]:
    """Whether the walk came to the recorded head."""
    if walk.number < head.sequence:
        first = walk.number + 1
        return [Fault(first, "truncated", f"events {first} to {head.sequence} are gone")]
    seen = walk.seen(head.sequence)
    if seen is not None and seen.hex() != head.hash and not faults:
        return [Fault(head.sequence, "changed", "the last event is not the one that was linked last")]
    return []


def _against(walk: Walk, known: _Known, checkpoint: Checkpoint, faults: list[Fault]) -> list[Fault]:
    """Whether what stands at the checkpoint's place is what was signed."""
    place = checkpoint.sequence
    if known.log is not None and known.log != checkpoint.log:
        detail = f"this log calls itself {known.log}, the checkpoint is of {checkpoint.log}"
        return [Fault(place, "changed", detail)]
    if walk.number < place:
        if any(fault.problem == "truncated" for fault in faults):
            return []
        first = walk.number + 1
        return [Fault(first, "truncated", f"events {first} to {place} are gone; the checkpoint is of them")]
    seen = walk.seen(place)
    if seen is None and known.base.sequence == place:
        seen = bytes.fromhex(known.base.hash)
    if seen is None or seen.hex() == checkpoint.hash:
        return []
    return [
        Fault(
            place,
            "changed",
            f"events up to {place} are not those that were signed: one or more were changed and all"
            " hashes computed anew; an exported file of them tells which",
        )
    ]


async def _removed(
    store: Store, known: _Known, checkpoint: Checkpoint, keep_days: int, now_ms: int
) -> list[Fault]:
    """Events that were there when the checkpoint was signed and were not retention's to remove."""
    first, last = checkpoint.base + 1, known.base.sequence
    if last < first:
        return []
    what = f"events {first} to {last} were removed since the checkpoint was signed"
    if not keep_days:
        return [Fault(first, "missing", f"{what}, but retention is off")]
    limit = now_ms - keep_days * _DAY_MS
    at_ms = await store.read(lambda tx: events.at_of(tx, last + 1))
    if at_ms is not None and at_ms < limit:
        return []
    return [Fault(first, "missing", f"{what}, but {keep_days} days of retention would have kept some")]


def _outside(tx: Tx) -> list[Fault]:
    """Events with a place in the chain before its beginning or after its end."""
    base = events.mark(tx, events.BASE) or START
    head = events.mark(tx, events.HEAD) or START
    first, last = events.bounds(tx)
    found = []
    if first is not None and first <= base.sequence:
        found.append(Fault(first, "inserted", f"the chain begins after {base.sequence}"))
    if last is not None and last > head.sequence:
        found.append(Fault(last, "inserted", f"the chain ends at {head.sequence}"))
    return found


def _signatures(tx: Tx) -> list[Fault]:
    """Whether the newest of the database's own checkpoints are what its key signed, and of what there is."""
    found = []
    known = _known(tx)  # since the walk began the chain may have moved and been signed
    head = known.head
    for own in statements.newest(tx, _SIGNATURES):
        try:
            if known.public_key is None or known.log is None:
                raise CheckpointError("the key or the log's name is gone")
            checkpoints.check(checkpoints.shown(own, known.log), known.public_key)
        except CheckpointError as error:
            found.append(Fault(own.sequence, "changed", f"the checkpoint kept of this event: {error}"))
        if own.sequence > head.sequence and not found:
            detail = f"a checkpoint is kept of event {own.sequence}, but the log ends at {head.sequence}"
            found.append(Fault(head.sequence + 1, "truncated", detail))
    return found[:1]


def _explain(tx: Tx, faults: list[Fault]) -> list[Fault]:
    """Say of what the log should hold and does not that a backup was restored, where it says so itself."""
    restored = events.newest_of(tx, "store.restored")
    if restored is None:
        return faults
    note = f" (the database was restored from a backup: event {restored})"
    return [
        msgspec.structs.replace(fault, detail=fault.detail + note) if fault.event_id is None else fault
        for fault in faults
    ]


def verify_export(lines: Iterable[bytes], public_key: Ed25519PublicKey | None = None) -> Verdict:
    """Check an exported file on its own, without a database.

    With ``public_key`` the checkpoint at its end must be signed with that key; without, only that chain and
    checkpoint agree. Raises ``CheckpointError`` where a line cannot be read or a signature is wrong.
    """
    walk: Walk | None = None
    start: StartLine | None = None
    end: EndLine | None = None
    rows: list[Row] = []
    for number, text in enumerate(lines, 1):
        line = read_line(text, number)
        if isinstance(line, StartLine) and walk is None:
            start, walk = line, Walk(Mark(line.sequence, line.hash))
        elif walk is None:
            raise CheckpointError("an export begins with a line of type start")
        elif end is not None:
            raise CheckpointError(f"line {number}: an export ends with its checkpoint")
        elif isinstance(line, EventLine):
            rows.append(row_of(line))
            if len(rows) == _CHUNK:
                walk.feed(rows)
                rows = []
        elif isinstance(line, EndLine):
            end = line
        else:
            raise CheckpointError(f"line {number}: a second beginning")
    if walk is None or start is None:
        raise CheckpointError("the file is empty")
    walk.feed(rows)
    faults = walk.finish()
    if end is None:
        faults.append(Fault(walk.number + 1, "truncated", "the checkpoint that ends an export is not there"))
        head = Mark(walk.number, walk.hash.hex())
    else:
        checkpoint = end.checkpoint()
        if public_key is not None:
            checkpoints.check(checkpoint, public_key)
        head = Mark(checkpoint.sequence, checkpoint.hash)
        faults += _end_of_export(walk, start, checkpoint, faults)
    return Verdict(
        checked=walk.checked,
        head=head,
        faults=tuple(faults[:FAULTS]),
        base=start.sequence,
        checkpoint=None if end is None else end.sequence,
    )


def _end_of_export(walk: Walk, start: StartLine, end: Checkpoint, faults: list[Fault]) -> list[Fault]:
    if start.log != end.log:
        return [Fault(end.sequence, "changed", "the beginning and the checkpoint are of different logs")]
    if walk.number < end.sequence:
        first = walk.number + 1
        return [Fault(first, "truncated", f"events {first} to {end.sequence} are gone")]
    if walk.number > end.sequence:
        return [Fault(end.sequence + 1, "inserted", f"the checkpoint is of event {end.sequence}")]
    if walk.hash.hex() != end.hash and not faults:
        return [Fault(end.sequence, "changed", "what was signed has another hash than the last event")]
    return []
