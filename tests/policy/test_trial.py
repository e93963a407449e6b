"""The process in which conditions are tried out: each way in which it can fail, with real processes.

What may be saved is judged before it is evaluated, so nothing that passes could take long. So here the very
worker, its limits and whoever reads its answers meet a ``find`` that evaluates whatever it is told.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import uvloop

from certloom.policy.expressions.trial import WORKER, Limits, TrialError, TrialUnavailable, try_out

UNJUDGED = """
import cel
from certloom.policy.expressions import trial_worker

def find(source):
    cel.evaluate(source, {"items": list(range(100))})
    return trial_worker.Finding()

trial_worker.find = find
trial_worker.main()
"""
"""The worker, but that it evaluates without judging."""

LOOP = "items.map(a, items.map(b, items.map(c, items.map(d, a + b + c + d)))).size() > 0"
"""Holds a processor for minutes."""
GROW = f"items.map(a, items.map(b, {'0123456789' * 6000!r} + string(a * b))).size() > 0"
"""Wants 600 MB, soon."""
TOO_MUCH = "line 1, column 1: it takes too much time or memory"


def answering(code: str) -> tuple[str, ...]:
    """A worker that is ready, then runs this for each condition."""
    loop = "import os, sys, time\nprint('{}', flush=True)\nfor line in sys.stdin:\n"
    return (sys.executable, "-S", "-c", loop + f"    {code}\n")


def unjudged(note: Path) -> tuple[str, ...]:
    """The worker without judgement; it writes its process id to ``note``."""
    return (sys.executable, "-c", f"import os; open({str(note)!r}, 'w').write(str(os.getpid()))\n{UNJUDGED}")


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def tried(sources: Sequence[str], limits: Limits, worker: Sequence[str]) -> tuple[str, float]:
    """What a trial was refused for, and how many seconds it took while the event loop kept turning."""
    longest, last = 0.0, time.monotonic()

    async def turn() -> None:
        nonlocal longest, last
        while True:
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.monotonic() - last), time.monotonic()

    turning = asyncio.create_task(turn())
    try:
        with pytest.raises(TrialError) as refused:
            await try_out(sources, limits, worker)
    finally:
        turning.cancel()
    assert refused.value.index == len(sources) - 1
    return str(refused.value), longest


@pytest.fixture(params=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest) -> Callable[[Awaitable[tuple[str, float]]], tuple[str, float]]:
    """Runs a coroutine on either event loop; the server's is uvloop's."""
    made = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def run(coroutine: Awaitable[tuple[str, float]]) -> tuple[str, float]:
        loop = made()
        try:
            return loop.run_until_complete(coroutine)
        finally:
            loop.close()

    return run


def test_what_runs_too_long_is_killed(
    on_loop: Callable[[Awaitable[tuple[str, float]]], tuple[str, float]], tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    limits = Limits(answer=1.5, cpu_seconds=600)
    began = time.monotonic()
    said, longest = on_loop(tried(["true", LOOP], limits, unjudged(note)))
    assert said == TOO_MUCH
    # It was the time that ended it, and nothing else did.
    assert 1.5 < time.monotonic() - began < 1.5 + 20
    assert longest < 1
    assert is_gone(int(note.read_text()))


def test_what_takes_too_much_cpu_is_ended_by_the_system(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    said, _ = asyncio.run(tried(["true", LOOP], Limits(answer=120, cpu_seconds=1), unjudged(note)))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert said == TOO_MUCH
    assert time.monotonic() - began < 60
    assert after.ru_utime - before.ru_utime < 10
    assert is_gone(int(note.read_text()))


def test_each_condition_has_its_own_cpu(tmp_path: Path) -> None:
    """A declaration brings up to 200."""
    some = "items.map(a, items.map(b, [1, 2, 3, 4, 5].map(c, a))).size() > 0"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    asyncio.run(try_out([some] * 8, Limits(answer=60, cpu_seconds=1), unjudged(tmp_path / "pid")))
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before > 2.5


def test_what_takes_too_much_memory_is_refused(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    limits = Limits(answer=120, cpu_seconds=600, memory=256 << 20)
    said, _ = asyncio.run(tried(["true", GROW], limits, unjudged(note)))
    assert said == TOO_MUCH
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10 <= max(before << 10, 300 << 20)
    assert is_gone(int(note.read_text()))


@pytest.mark.parametrize(
    "code",
    [
        "os.kill(os.getpid(), 9)",
        "os._exit(0)",
        "print('{', end='', flush=True); os._exit(0)",
        "time.sleep(99)",
    ],
)
def test_a_worker_that_dies_or_says_nothing_refuses(code: str) -> None:
    said, _ = asyncio.run(tried(["false"], Limits(answer=2), answering(code)))
    assert said == TOO_MUCH


@pytest.mark.parametrize(
    "code",
    [
        "print('certainly', flush=True)",
        "print('[1, 2]', flush=True)",
        "print('{\"message\": 7}', flush=True)",
        "sys.stdout.buffer.write(bytes(range(128, 256)) + b'\\n'); sys.stdout.flush()",
        "print('{\"message\": \"' + 'x' * 100000 + '\"}', flush=True)",
        "[sys.stdout.write('x' * 65536) for _ in iter(int, 1)]",
    ],
)
def test_what_is_no_answer_saves_nothing(code: str) -> None:
    async def story() -> None:
        with pytest.raises(TrialUnavailable, match="no answer"):
            await try_out(["true"], Limits(answer=20), answering(code))

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    asyncio.run(story())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize(
    "worker",
    [
        (sys.executable, "-S", "-c", "import os; os._exit(1)"),
        (sys.executable, "-S", "-c", "import time; time.sleep(99)"),
        (sys.executable, "-S", "-c", 'print(\'{"message": "not ready"}\', flush=True)'),
        ("/nonexistent/python",),
    ],
)
def test_a_worker_that_does_not_come_up_blames_no_condition(worker: Sequence[str]) -> None:
    async def story() -> None:
        with pytest.raises(TrialUnavailable):
            await try_out(["true"], Limits(start=1), worker)

    asyncio.run(story())


def test_who_gives_up_leaves_no_process_behind(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    async def story() -> None:
        trial = asyncio.create_task(try_out([LOOP], Limits(answer=600, cpu_seconds=600), unjudged(note)))
        while not note.exists() or not note.read_text():
            await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)
        trial.cancel()
        with pytest.raises(asyncio.CancelledError):
            await trial
        assert is_gone(int(note.read_text()))

    asyncio.run(story())


@pytest.mark.parametrize(
    ("source", "passes"),
    [
        ("request.channel.matches('^[a-z]{1,30}$')", True),
        (r"request.channel.matches('(\\w{1,10}){1,10}')", False),
        ("request.dns.exists(n, n.matches('^web[0-9]+[.]'))", True),
    ],
)
def test_a_regular_expression_that_takes_far_more_than_it_counts_for_is_refused(
    source: str, passes: bool
) -> None:
    if passes:
        asyncio.run(try_out([source]))
    else:
        said, _ = asyncio.run(tried([source], Limits(), WORKER))
        assert "µs each time, of at most 1250" in said or "not a regular expression" in said
