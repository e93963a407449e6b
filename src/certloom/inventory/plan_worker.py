"""The process that judges certificates for a plan, so that the server goes on answering meanwhile.

Messages are a length (4 octets, big-endian) and so many octets of JSON. The first says what the terms are;
each further one is a chunk of certificates, answered with a ``Judged`` whose ``lines`` are ready to be sent:
one JSON text for each certificate that would be told something else. The end of input ends the process.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from typing import Any, BinaryIO

import msgspec

from certloom.pki.certificates import CertificateError, parse_certificate
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.pki.names import Name
from certloom.policy.decisions import NameHistory, Reason
from certloom.policy.plan import Held, Outcome, Planner, Terms, differ
from certloom.policy.profiles import Profile, parse_profile
from certloom.policy.rules import stored_rule
from certloom.store.history import MOST_COUNTED
from certloom.store.name_keys import key_of

MOST_OCTETS = 1 << 28


class WireTerms(msgspec.Struct, frozen=True):
    """``Terms``, as JSON texts."""

    profiles: list[tuple[str, int]]
    """(body, version)."""
    rules: list[tuple[str, int]]
    authorities: dict[str, int]


class Task(msgspec.Struct, frozen=True):
    """The first message."""

    before: WireTerms
    after: WireTerms
    versions: list[tuple[str, int]]
    now: int


class Answered(msgspec.Struct, frozen=True):
    """The answer to the first message: what chunks must have."""

    needs_history: bool
    needs_subject: bool
    needs_count: bool
    """Whether some rule may look at how many valid certificates there are for a name."""


class Chunk(msgspec.Struct, frozen=True):
    """Some certificates: rows as ``store.plans`` reads them."""

    certificates: msgspec.Raw
    histories: msgspec.Raw


class Judged(msgspec.Struct, frozen=True):
    """What became of a chunk."""

    before: dict[str, int]
    after: dict[str, int]
    """How many certificates of each outcome."""
    reasons: dict[str, int]
    """How many certificates would newly meet each reason: a code, or ``rule:name@version``."""
    changed: int
    lines: list[msgspec.Raw]


class Told(msgspec.Struct, frozen=True):
    """One certificate that would be told something else."""

    id: int
    names: tuple[str, ...]
    profile: str
    authority: str
    key_type: str
    not_after: int
    requester: str
    team: str
    before: Outcome
    after: Outcome
    reasons: tuple[Reason, ...]
    """Why, under the changed terms; of what would be compliant, why it is not today."""
    endpoints: tuple[str, ...] = ()
    """Where it is in use. Nothing looks for that yet, so nothing is known of it."""


_Row = tuple[int, str, str, int, tuple[str, ...], str, int, int, str, str, str, str, str]
_rows = msgspec.json.Decoder(list[_Row]).decode
_histories = msgspec.json.Decoder(
    list[tuple[str, int, str | None, str | None, str | None, str | None, int | None]]
).decode
_chunk = msgspec.json.Decoder(Chunk).decode
_encode = msgspec.json.Encoder().encode
_TYPES = {type.value: type for type in IdentifierType}


class Judge:
    """Judges chunks by one task."""

    def __init__(self, task: Task) -> None:
        versions = {
            (profile.name, version): profile
            for profile, version in ((parse_profile(body), version) for body, version in task.versions)
        }
        self._planner = Planner(_terms(task.before), _terms(task.after), versions, task.now)
        counted = any("valid" in body for terms in (task.before, task.after) for body, _ in terms.rules)
        self.answer = Answered(self._planner.needs_history, self._planner.needs_subject, counted)

    def judge(self, chunk: Chunk) -> Judged:
        """Compare each certificate's today and tomorrow."""
        planner = self._planner
        known: dict[str, tuple[Any, ...]] = {}
        if planner.needs_history:
            known = {
                key: (min(valid, MOST_COUNTED), *last) for key, valid, *last in _histories(chunk.histories)
            }
        before: Counter[str] = Counter()
        after: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        lines = []
        for row in _rows(chunk.certificates):
            names = tuple(map(_identifier, row[4]))
            held = Held(row[0], row[1], row[2], row[3], names, *row[5:12])
            history = (
                tuple(NameHistory(name, *known.get(key_of(name), (0,))) for name in names)
                if planner.needs_history
                else None
            )
            subject = _subject(row[12]) if planner.needs_subject else None
            today, tomorrow = planner.compare(held, history, subject)
            before[today.outcome] += 1
            after[tomorrow.outcome] += 1
            if not differ(today, tomorrow):
                continue
            reasons.update({_label(r) for r in tomorrow.reasons} - {_label(r) for r in today.reasons})
            told = Told(
                held.id,
                row[4],
                held.profile,
                held.authority,
                held.key_type,
                held.not_after,
                held.requester,
                held.team,
                today.outcome,
                tomorrow.outcome,
                tomorrow.reasons or today.reasons,
            )
            lines.append(msgspec.Raw(_encode(told)))
        return Judged(dict(before), dict(after), dict(reasons), len(lines), lines)


def _label(reason: Reason) -> str:
    return reason.code if reason.rule is None else f"rule:{reason.rule}"


def _identifier(text: str) -> Identifier:
    type, _, value = text.partition(":")
    return Identifier(_TYPES[type], value)


def _subject(der: str) -> Name:
    try:
        return parse_certificate(bytes.fromhex(der)).subject
    except CertificateError:
        return Name()


def _terms(wire: WireTerms) -> Terms:
    profiles: dict[str, tuple[Profile, int]] = {}
    for body, version in wire.profiles:
        profile = parse_profile(body)
        profiles[profile.name] = (profile, version)
    return Terms(
        profiles,
        tuple((stored_rule(body), version) for body, version in wire.rules),
        wire.authorities,
    )


def serve(messages: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more."""
    judge: Judge | None = None
    while len(header := messages.read(4)) == 4:
        message = messages.read(int.from_bytes(header, "big"))
        answer: Any
        if judge is None:
            judge = Judge(msgspec.json.decode(message, type=Task))
            answer = judge.answer
        else:
            answer = judge.judge(_chunk(message))
        data = _encode(answer)
        answers.write(len(data).to_bytes(4, "big") + data)
        answers.flush()


def main() -> None:
    """Run as a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.nice(10)  # The server comes first.
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
