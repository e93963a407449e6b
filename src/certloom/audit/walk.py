"""Following the chain through a table or an export, and saying what is wrong where. Pure.

Theory of operation. A walk holds a place (a sequence number and the hash of the event there) and takes rows
in the order of their numbers. A row *links* when its hash is the one that its contents give in the next
place. When one does not, the walk looks a little ahead for the place where the rows link again, and with
which numbers: with the same ones, rows between were changed; with higher ones, something was put in and what
follows was renumbered; with lower ones, something was taken out. Rows that did not link are remembered, and
in the end they are tried in each other's places: what fits elsewhere was moved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import msgspec

from certloom.audit.chain import chained, contents
from certloom.store.events import Mark

FAULTS = 100
"""Where a walk stops looking."""
_AHEAD = 16
"""Rows looked ahead, and by how much numbers are tried to have been moved."""
_TRIED = 40
"""Rows that did not link, at most, for which other places are tried."""

Row = Sequence[Any]
"""The columns that are hashed, then sequence and hash."""


class Fault(msgspec.Struct, frozen=True):
    """One place where the log is not what was written."""

    sequence: int
    """Where in the chain, by the numbers that were given when it was linked."""
    problem: str
    """``changed``, ``missing``, ``reordered``, ``inserted``, or ``truncated`` (the end is missing)."""
    detail: str
    event_id: int | None = None


class _Suspect(msgspec.Struct):
    row: Row
    content: bytes
    number: int
    """The place it has, less what numbers were moved by before it."""
    previous: bytes
    problem: str


class _Gap(msgspec.Struct):
    first: int
    last: int
    previous: bytes

    def numbers(self) -> range:
        """Its places, the first hundred."""
        return range(self.first, min(self.last + 1, self.first + FAULTS))


class Walk:
    """One way through the chain, from ``place`` on. ``feed`` it rows, ``finish`` it, and read ``faults``."""

    def __init__(self, place: Mark) -> None:
        self.checked = 0
        """Rows looked at."""
        self.number = place.sequence
        """The last place reached, by the original numbers."""
        self.hash = bytes.fromhex(place.hash)
        """The hash that stands there."""
        self.last = 2**63 - 1
        """Where the chain ends: rows beyond are not looked at."""
        self._shift = 0
        """How much higher numbers in the table are than they were."""
        self._rows: list[Row] = []
        self._suspects: list[_Suspect] = []
        self._gaps: list[_Gap] = []
        self._others: list[Fault] = []
        self._wanted: dict[int, bytes | None] = {}

    def watch(self, number: int) -> None:
        """Remember the hash that stands at this place, for ``seen``."""
        self._wanted.setdefault(number, self.hash if number == self.number else None)

    def seen(self, number: int) -> bytes | None:
        """The hash at a place that was watched; None if the walk did not come there."""
        return self._wanted.get(number)

    @property
    def full(self) -> bool:
        """Whether there are so many faults that going on tells nothing new."""
        return len(self._suspects) + len(self._gaps) + len(self._others) >= FAULTS

    def restart(self, place: Mark) -> None:
        """Go on from a later place: what was before it is gone for a good reason."""
        self.number, self.hash, self._shift = place.sequence, bytes.fromhex(place.hash), 0
        self._rows = []
        if self.number in self._wanted:
            self._wanted[self.number] = self.hash

    def feed(self, rows: Sequence[Row]) -> None:
        """Take the next rows."""
        self._follow([*self._rows, *rows] if self._rows else rows, final=False)

    def finish(self) -> list[Fault]:
        """No more rows come: what was wrong, at most the first hundred, in the order of places."""
        self._follow(self._rows, final=True)
        self._rows = []
        faults = [*self._others, *self._settle()]
        return sorted(faults, key=lambda fault: fault.sequence)[:FAULTS]

    # -- following ---------------------------------------------------------------------------------------

    def _follow(self, rows: Sequence[Row], *, final: bool) -> None:
        at, end = 0, len(rows)
        number, previous, wanted = self.number, self.hash, self._wanted
        while at < end and number < self.last:
            row = rows[at]
            if row[8] == number + 1 + self._shift and _links(previous, number + 1, row):
                number, previous = number + 1, row[9]
                at += 1
                self.checked += 1
                if number in wanted:
                    wanted[number] = previous
                continue
            if not final and end - at <= 2 * _AHEAD:
                break
            self.number, self.hash = number, previous
            if self.full:
                at = end
            else:
                taken = self._stumble(rows[at : at + 2 * _AHEAD + 1])
                at += taken
                self.checked += taken
            number, previous = self.number, self.hash
        self.number, self.hash = number, previous
        self._rows = list(rows[at:])

    def _stumble(self, rows: Sequence[Row]) -> int:
        """The first row does not link. Note why, and answer how many rows that explains."""
        row = rows[0]
        place = row[8] - self._shift
        if place <= self.number:
            self._suspect(row, place, "reordered")
            return 1
        if place > self.number + 1:
            return self._leap(row, place - self.number - 1)
        return self._insertion(rows) or self._break(rows)

    def _leap(self, row: Row, gap: int) -> int:
        """Numbers are not there: events were taken out, or only the numbers were moved."""
        if chained(self.hash, self.number + 1, contents(row[:8])) == row[9]:
            self._others.append(
                Fault(self.number + 1, "changed", f"numbers were raised by {gap} from here on", row[0])
            )
            self._shift += gap
        else:
            self._gaps.append(_Gap(self.number + 1, self.number + gap, self.hash))
            self.number += gap
        self._accept(row)
        return 1

    def _accept(self, row: Row) -> None:
        self.number += 1
        self.hash = row[9] or b""
        if self.number in self._wanted:
            self._wanted[self.number] = self.hash

    def _insertion(self, rows: Sequence[Row]) -> int:
        """Whether a row soon to come links to the last good one: then those before it were put in."""
        for extra in range(1, min(_AHEAD + 1, len(rows))):
            row, number = rows[extra], self.number + 1
            if row[8] != number + self._shift + extra or not _links(self.hash, number, row):
                continue
            following = rows[extra + 1] if extra + 1 < len(rows) else None
            if following is not None and not _links(row[9], number + 1, following):
                continue
            for other in rows[:extra]:
                self._suspect(other, number, "inserted")
            self._shift += extra
            return extra
        return 0

    def _break(self, rows: Sequence[Row]) -> int:
        """Find where rows link again, and with which numbers."""
        for count, moved in product(range(1, min(_AHEAD, len(rows) - 1) + 1), _MOVES):
            row, before = rows[count], rows[count - 1]
            number = self.number + 1 + count - moved
            if number <= self.number or row[8] - before[8] != 1 or not _links(before[9] or b"", number, row):
                continue
            return self._bridge(rows[:count], moved)
        self._suspect(rows[0], self.number + 1, "changed")
        self._accept(rows[0])
        return 1

    def _bridge(self, rows: Sequence[Row], moved: int) -> int:
        """These rows lie between two stretches that link; numbers behind them are higher by ``moved``."""
        if moved < 0:
            # What was taken out cannot say what came before the first of them; that one is taken on trust.
            self._gaps.append(_Gap(self.number + 1, self.number - moved, self.hash))
            self.number -= moved
            self._accept(rows[0])
            rows = rows[1:]
        for row in rows[: max(moved, 0)]:
            self._suspect(row, self.number + 1, "inserted")
            self.hash = row[9] or b""
        for row in rows[max(moved, 0) :]:
            self._suspect(row, self.number + 1, "changed")
            self._accept(row)
        self._shift += moved
        return len(rows) + (1 if moved < 0 else 0)

    def _suspect(self, row: Row, number: int, problem: str) -> None:
        self._suspects.append(_Suspect(row, contents(row[:8]), number, self.hash, problem))

    # -- where it belongs --------------------------------------------------------------------------------

    def _settle(self) -> Iterator[Fault]:
        """Try rows that did not link in other places, then say what became of each."""
        found: set[int] = set()
        homes = self._homes() if len(self._suspects) <= _TRIED else {}
        for index, suspect in enumerate(self._suspects):
            home = homes.get(index)
            if home is not None:
                found.add(home)
            if home == suspect.number and suspect.problem == "changed":
                continue  # it is as it was, only the one before it is not
            yield _fault(suspect, home)
        for gap in self._gaps:
            if gap.last - gap.first < FAULTS and found.issuperset(gap.numbers()):
                continue
            yield Fault(gap.first, "missing", _gone(gap.first, gap.last))

    def _homes(self) -> dict[int, int]:
        """For each suspect (by its index) the place where its contents fit, if there is one."""
        gaps = (gap.numbers() for gap in self._gaps)
        places = sorted({suspect.number for suspect in self._suspects}.union(*gaps))[: 3 * _TRIED]
        hashes = {bytes(suspect.row[9] or b"") for suspect in self._suspects}
        befores = hashes | {s.previous for s in self._suspects} | {gap.previous for gap in self._gaps}
        homes = {}
        for index, suspect in enumerate(self._suspects):
            for number, before in product([suspect.number, *places], befores):
                if chained(before, number, suspect.content) in hashes:
                    homes[index] = number
                    break
        return homes


_MOVES = [0, *(sign * by for by in range(1, _AHEAD + 1) for sign in (-1, 1))]


def _links(previous: bytes, number: int, row: Row) -> bool:
    return bool(chained(previous, number, contents(row[:8])) == row[9])


def _fault(suspect: _Suspect, home: int | None) -> Fault:
    id = suspect.row[0]
    if home is not None and home != suspect.number:
        return Fault(suspect.number, "reordered", f"the event found here was linked as number {home}", id)
    if home is not None or suspect.problem == "reordered":
        return Fault(suspect.number, "reordered", "the event is not where it was linked", id)
    if suspect.problem == "inserted":
        return Fault(suspect.number, "inserted", "the event was never linked into this chain", id)
    detail = "its contents or its hash, or the hash of the one before it, are not those that were linked"
    return Fault(suspect.number, "changed", detail, id)


def _gone(first: int, last: int) -> str:
    return "the event is gone" if first == last else f"events {first} to {last} are gone"
