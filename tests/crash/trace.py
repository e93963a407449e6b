"""Reading strace's record of a process: what was written where, what was synced, in which order."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.clients.lab import wait_for

CALLS = "write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync,recvfrom,read"

# PID SECONDS NAME(FD<PATH>, REST) = RESULT; calls that overlap another thread's are told in two lines.
_WHOLE = re.compile(r"^(\d+) +(\d+\.\d+) (\w+)\((\d+)<(.*?)>(.*)\) += (-?\d+)")
_BEGUN = re.compile(r"^(\d+) +(\d+\.\d+) (\w+)\((\d+)<(.*?)>(.*) <unfinished \.\.\.>$")
_ENDED = re.compile(r"^(\d+) +(\d+\.\d+) <\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")


@dataclass(frozen=True)
class Call:
    """One system call on a file or a socket."""

    pid: int
    begun: float
    """Seconds since the epoch, like ``ended``, which is later only where strace tells the two apart."""
    ended: float
    name: str
    path: str
    text: str
    result: int

    @property
    def writes(self) -> bool:
        return self.name in ("write", "writev", "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg")

    @property
    def syncs(self) -> bool:
        return self.name in ("fsync", "fdatasync") and self.result == 0


def read(record: Path) -> list[Call]:
    """The calls of a record, in the order in which they ended."""
    calls: list[Call] = []
    begun: dict[tuple[int, str], tuple[float, str, str]] = {}
    for line in record.read_text(errors="replace").splitlines():
        if whole := _WHOLE.match(line):
            pid, at, name, _, path, text, result = whole.groups()
            calls.append(Call(int(pid), float(at), float(at), name, path, text, int(result)))
        elif start := _BEGUN.match(line):
            pid, at, name, _, path, text = start.groups()
            begun[int(pid), name] = (float(at), path, text)
        elif end := _ENDED.match(line):
            pid, at, name, text, result = end.groups()
            if found := begun.pop((int(pid), name), None):
                since, path, first = found
                calls.append(Call(int(pid), since, float(at), name, path, first + text, int(result)))
    return calls


@contextmanager
def traced(pids: Sequence[int], record: Path) -> Iterator[None]:
    """Trace processes, with their threads and what they fork, until the end of the block."""
    command = ["strace", "-f", "-ttt", "-y", "-s", "4096", "-e", f"trace={CALLS}", "-o", str(record)]
    for pid in pids:
        command += ["-p", str(pid)]
    said = record.with_suffix(".log")
    with said.open("wb") as log:
        strace = subprocess.Popen(command, stderr=log)
    try:
        wait_for("strace", lambda: said.read_text().count("attached") >= len(pids))
        yield
    finally:
        strace.terminate()
        strace.wait(30)
