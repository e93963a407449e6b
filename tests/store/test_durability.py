"""A write that has returned is on disk, which no kill of a process could show: the system calls do.

A program writes a marker to its output after each ``await store.write``; strace tells what reached the kernel
before that. A log page written but not synced, when the marker leaves, would be lost with the power.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, os, sys
from certloom.clock import SystemClock
from certloom.store import open_store

def put(key, size=3000):
    return lambda tx: tx.run("INSERT INTO facts (key, value) VALUES (?, ?)", (key, "x" * size))

async def main(path):
    store = await open_store(f"sqlite:///{path}", clock=SystemClock())
    os.write(1, b"BEGIN-MARK\\n")
    for n in range(10):
        await store.write(put(f"single-{n}"))
        os.write(1, b"MARK\\n")
    for n in range(5):
        async def one(m):
            await store.write(put(f"many-{n}-{m}"))
            os.write(1, b"MARK\\n")
        await asyncio.gather(*(one(m) for m in range(8)))
    # Enough to make SQLite fold its log into the database in between.
    for n in range(400):
        await store.write(lambda tx: [put(f"bulk-{n}-{m}", 50)(tx) for m in range(25)])
        os.write(1, b"MARK\\n")
    os.write(1, b"END-MARK\\n")
    await store.close()

asyncio.run(main(sys.argv[1]))
"""

_CALL = re.compile(r"^(\d+)\s+(\w+)\((\d+)<([^>]*)>(.*)$")
_AT_START = re.compile(r", 32, 0(\)| <unfinished)")
_RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$")


def _trace(tmp_path: Path) -> list[tuple[str, str]]:
    """What happened, in order: ``(call, file)`` as each call returned, and ``("mark", "")`` as each began."""
    strace = shutil.which("strace")
    assert strace, "strace is missing: run the script that installs what tests need"
    log = tmp_path / "strace"
    command = [strace, "-f", "-y", "-s", "16", "-o", str(log)]
    command += ["-e", "trace=fdatasync,fsync,pwrite64,write,ftruncate"]
    command += [sys.executable, "-c", PROGRAM, str(tmp_path / "db")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    happened: list[tuple[str, str]] = []
    pending: dict[str, tuple[str, str]] = {}
    started = False
    for line in log.read_text().splitlines():
        call, resumed = _CALL.match(line), _RESUMED.match(line)
        if call:
            thread, name, fd, file, rest = call.groups()
            if name == "write" and fd == "1":
                if '"BEGIN-MARK' in rest:
                    started = True
                elif '"END-MARK' in rest:
                    break
                elif '"MARK' in rest:
                    happened.append(("mark", ""))
                continue
            entry = (name, file.rsplit("/", 1)[-1])
            if entry == ("pwrite64", "db-wal") and _AT_START.search(rest):
                entry = ("restart", "db-wal")
            if rest.endswith("<unfinished ...>"):
                pending[thread] = entry
                if name == "pwrite64" and started:
                    happened.append(entry)  # it may be in the file from now on
            elif started and " = -1 " not in rest:
                happened.append(entry)
        elif resumed and resumed[1] in pending:
            entry = pending.pop(resumed[1])
            if started and entry[0] not in ("pwrite64", "restart") and " = -1 " not in resumed[3]:
                happened.append(entry)
    return happened


def test_the_log_is_synced_after_its_last_write_and_before_a_write_returns(tmp_path: Path) -> None:
    happened = _trace(tmp_path)
    marks = 0
    written_since_mark = unsynced = False
    for call, file in happened:
        if file == "db-wal" and call in ("pwrite64", "restart"):
            written_since_mark = unsynced = True
        elif file == "db-wal" and call in ("fdatasync", "fsync"):
            unsynced = False
        elif call == "mark":
            marks += 1
            assert not unsynced, f"mark {marks} left while the log was not on disk"
            if marks <= 10 or marks > 50:  # the singles and the bulk: each has a commit of its own
                assert written_since_mark, f"mark {marks} left before anything was written"
                written_since_mark = False
    assert marks == 10 + 40 + 400


def test_units_that_wait_together_share_one_sync(tmp_path: Path) -> None:
    happened = _trace(tmp_path)
    marks = [place for place, (call, _) in enumerate(happened) if call == "mark"]
    grouped = happened[marks[9] : marks[49]]
    syncs = sum(1 for entry in grouped if entry == ("fdatasync", "db-wal"))
    assert 5 <= syncs <= 15  # of 40 units, in 5 groups; the first of a group may go alone


def test_the_log_starts_again_only_when_the_database_holds_all_of_it_on_disk(tmp_path: Path) -> None:
    happened = _trace(tmp_path)
    unsynced = False
    folds = restarts = 0
    for call, file in happened:
        if file == "db" and call == "pwrite64":
            unsynced = True
            folds += 1
        elif file == "db" and call in ("fdatasync", "fsync"):
            unsynced = False
        elif call == "restart":
            restarts += 1
            assert not unsynced, "the log was written over while the database was not on disk"
    assert folds
    assert restarts
