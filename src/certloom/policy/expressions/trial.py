"""Trying conditions out before they are saved, in a process that can be killed. See ``trial_worker``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import msgspec

from certloom.policy.expressions.syntax import ExpressionError
from certloom.policy.expressions.trial_worker import Finding

WORKER = (sys.executable, "-m", "certloom.policy.expressions.trial_worker")
"""The process that is started; what ``Limits`` says of it follows as arguments."""

_LONGEST_ANSWER = 16_384
"""Bytes of one answer."""
_TOO_MUCH = Finding("it takes too much time or memory")

_finding = msgspec.json.Decoder(Finding).decode


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial may take."""

    start: float = 30.0
    """Seconds for the process to come up, on a machine that has much to do."""
    answer: float = 5.0
    """Seconds for one answer; what may be saved takes a fraction of one."""
    memory: int = 512 << 20
    """Bytes of address space of the process."""
    cpu_seconds: int = 4
    """Seconds of CPU for one condition."""


LIMITS = Limits()


class TrialError(ExpressionError):
    """A condition did not stand its trial. ``index`` says which of those that were given."""

    def __init__(self, index: int, finding: Finding) -> None:
        super().__init__(finding.message, finding.line, finding.column)
        self.index = index


class TrialUnavailable(Exception):
    """The process did not come up, or does not speak: that says nothing about any condition."""


async def try_out(sources: Sequence[str], limits: Limits = LIMITS, worker: Sequence[str] = WORKER) -> None:
    """Evaluate each condition over the largest request there can be.

    Raises ``TrialError``, and ``TrialUnavailable`` where nothing could be tried. The process is gone when
    this returns, also when it is cancelled.
    """
    if not sources:
        return
    try:
        process = await asyncio.create_subprocess_exec(
            *worker,
            str(limits.memory),
            str(limits.cpu_seconds),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            limit=_LONGEST_ANSWER,
        )
    except OSError as error:
        raise TrialUnavailable(f"no process could be started to try it out: {error.strerror}") from error
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        if await _answer(process.stdout, limits.start) != Finding():
            raise TrialUnavailable("the process that tries conditions out did not come up")
        for index, source in enumerate(sources):
            process.stdin.write(msgspec.json.encode(source) + b"\n")
            finding = await _answer(process.stdout, limits.answer) or _TOO_MUCH
            if finding.message:
                raise TrialError(index, finding)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # Read to its end: while there is more than the reader takes, asyncio does not see that it is gone.
        while await process.stdout.read(_LONGEST_ANSWER):
            pass
        await process.wait()


async def _answer(output: asyncio.StreamReader, seconds: float) -> Finding | None:
    """The next line, or None where none comes in time. Raises ``TrialUnavailable`` for what is no answer."""
    try:
        line = await asyncio.wait_for(output.readline(), seconds)
        return _finding(line) if line.endswith(b"\n") else None
    except TimeoutError:
        return None
    except (ValueError, msgspec.DecodeError) as error:
        # Longer than ``_LONGEST_ANSWER``, or not a finding: what such a process says counts for nothing.
        raise TrialUnavailable("the process that tries conditions out answers what is no answer") from error
