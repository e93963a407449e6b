"""Trying conditions out before they are saved, in a process that can be killed. See ``trial_worker``."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Sequence

import msgspec

from certloom.policy.expressions.syntax import ExpressionError
from certloom.policy.expressions.trial_worker import Finding

_START = 30.0
"""Seconds for the process to come up, on a machine that has much to do."""
_ANSWER = 5.0
"""Seconds for one answer; what may be saved takes a fraction of one."""

_finding = msgspec.json.Decoder(Finding).decode


class TrialError(ExpressionError):
    """A condition did not stand its trial. ``index`` says which of those that were given."""

    def __init__(self, index: int, finding: Finding) -> None:
        super().__init__(finding.message, finding.line, finding.column)
        self.index = index


async def try_out(sources: Sequence[str]) -> None:
    """Evaluate each condition over the largest request there can be. Raises ``TrialError``."""
    if not sources:
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "certloom.policy.expressions.trial_worker",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        await _line(process.stdout, _START)
        for index, source in enumerate(sources):
            process.stdin.write(msgspec.json.encode(source) + b"\n")
            finding = await _line(process.stdout, _ANSWER)
            if finding.message:
                raise TrialError(index, finding)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def _line(output: asyncio.StreamReader, seconds: float) -> Finding:
    try:
        line = await asyncio.wait_for(output.readline(), seconds)
    except TimeoutError:
        line = b""
    return _finding(line) if line.endswith(b"\n") else Finding("it takes too much time or memory")
