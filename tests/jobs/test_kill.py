"""A job survives the death of its process, and its effect is there exactly once, on either database."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from typing import Any

from certloom.clock import SystemClock
from certloom.jobs import Job, Runner, enqueue
from certloom.store import Store, Tx, open_store
from tests.conftest import run

# Runs jobs of two kinds: "step" commits its effect and the next step; "hang" says it runs, and never ends.
WORKER = """
import asyncio, sys
from certloom.clock import SystemClock
from certloom.jobs import Runner, enqueue
from certloom.store import open_store

async def main(url):
    clock = SystemClock()
    store = await open_store(url, clock=clock)
    runner = Runner(store, clock, "worker", lease_s=0.4, poll_s=0.05)

    async def step(job):
        n = job.payload["n"]
        print("step", n, flush=True)
        def effect(tx):
            tx.run("INSERT INTO facts (key, value) VALUES (?, 'x')", (f"step-{n:05}",))
            enqueue(tx, clock.now_ms(), "step", {"n": n + 1})
        return effect

    async def hang(job):
        print("running", job.attempt, flush=True)
        await asyncio.sleep(3600)

    runner.register("step", step)
    runner.register("hang", hang)
    await runner.start()
    await asyncio.sleep(3600)

asyncio.run(main(sys.argv[1]))
"""


def _start(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WORKER, url], stdout=subprocess.PIPE, text=True)


def _kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


async def _prepare(url: str, kind: str) -> None:
    clock = SystemClock()
    store = await open_store(url, clock=clock)
    await store.write(lambda tx: enqueue(tx, clock.now_ms(), kind, {"n": 0}))
    await store.close()


def test_a_job_killed_in_the_middle_runs_again_and_takes_effect_once(database_url: str) -> None:
    run(_prepare(database_url, "hang"))
    worker = _start(database_url)
    assert _line(worker) == "running 1"
    _kill(worker)

    async def go() -> list[Job]:
        clock = SystemClock()
        store = await open_store(database_url, clock=clock)
        runner = Runner(store, clock, "next", lease_s=5, poll_s=0.1)
        ran: list[Job] = []

        async def handler(job: Job) -> Any:
            ran.append(job)
            return lambda tx: tx.run(
                "INSERT INTO facts (key, value) VALUES ('effect', ?)", (str(job.attempt),)
            )

        runner.register("hang", handler)
        await runner.start()
        await _until_empty(store)
        await runner.stop()
        assert await store.read(lambda tx: tx.all("SELECT value FROM facts WHERE key = 'effect'")) == [("2",)]
        await store.close()
        return ran

    (job,) = run(go())
    assert (job.attempt, job.lost) == (2, 1)


async def _until_empty(store: Store) -> None:
    deadline = time.monotonic() + 15
    while await store.read(lambda tx: tx.one("SELECT id FROM jobs")):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def test_a_chain_of_jobs_killed_again_and_again_loses_and_repeats_nothing(database_url: str) -> None:
    run(_prepare(database_url, "step"))
    last = 0
    for _ in range(5):
        worker = _start(database_url)
        for _ in range(15):
            last = int(_line(worker).split()[1])
        _kill(worker)

    async def go() -> tuple[list[str], list[Any]]:
        store = await open_store(database_url, clock=SystemClock())

        def look(tx: Tx) -> tuple[list[str], list[Any]]:
            facts = [key for (key,) in tx.all("SELECT key FROM facts WHERE key LIKE 'step-%' ORDER BY key")]
            return facts, tx.all("SELECT kind, payload FROM jobs")

        found = await store.read(look)
        await store.close()
        return found

    facts, jobs = run(go())
    # Every step up to the last committed one, each once (the key is unique), and exactly the next one to do.
    assert facts == [f"step-{n:05}" for n in range(len(facts))]
    assert last <= len(facts) <= last + 1
    assert jobs == [("step", f'{{"n":{len(facts)}}}')]
