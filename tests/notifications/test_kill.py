"""What was to be told survives kill -9 between the change and the telling."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from certloom.clock import ManualClock
from certloom.settings.schema import Mail
from certloom.store import open_store
from tests.conftest import run
from tests.notifications.receivers import receiving, smtp
from tests.notifications.telling import telling

_DYING = """
import asyncio, os, signal, sys
from certloom.clock import ManualClock
from certloom.settings.schema import Mail
from certloom.store import open_store
from tests.enrollment.people import profile
from tests.enrollment.test_approvals import rest
from tests.identity import making
from tests.identity.making import grant
from tests.notifications.telling import telling

async def main(url, mail_port, hook, wait):
    clock = ManualClock()
    store = await open_store(url, clock=clock)
    mail = Mail(host="127.0.0.1", port=mail_port, security="none", sender="pki@example.com")
    async with telling(store, clock, mail, run_jobs=wait) as t:
        await t.core.put_profile(profile({"approvers": 1}), 2)
        await making.person(store, clock, "bob", grant("approver"))
        await t.webhook(hook, events=("approval.waiting",))
        await t.core.enrollment.submit(rest())
        if wait:
            await asyncio.sleep(60)  # its receivers kill it
        os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4] == "wait"))
"""


def dying(url: str, mail_port: int, hook: str, wait: str) -> subprocess.Popen[bytes]:
    top = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-c", _DYING, url, str(mail_port), hook, wait], cwd=top, env=os.environ
    )


def tell_the_rest(url: str, mail_port: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What the next process makes of it."""

    async def scenario() -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
        # Past the leases of the dead, and the first retry.
        clock = ManualClock(1_800_000_000 + 120)
        store = await open_store(url, clock=clock)
        mail = Mail(host="127.0.0.1", port=mail_port, security="none", sender="pki@example.com")
        try:
            async with telling(store, clock, mail) as t:
                await t.settled("mail")
                return await t.settled("mail"), await t.settled()
        finally:
            await store.close()

    return run(scenario())


def test_killed_between_the_change_and_the_sending(database_url: str) -> None:
    with smtp() as box, receiving() as hook:
        process = dying(database_url, box.port, hook.url, "now")
        assert process.wait(60) == -signal.SIGKILL
        assert (box.letters, hook.posted) == ([], [])
        mails, posts = tell_the_rest(database_url, box.port)
    assert mails == [("approval.waiting", "delivered")]
    assert posts == [("approval.waiting", "delivered")]
    assert box.recipients == ["bob@example.com"]
    assert len(hook.posted) == 1


def test_killed_between_the_sending_and_the_note_of_it_repeats_under_the_same_id(
    database_url: str,
) -> None:
    """The receiver kills the sender before it answers: the sender cannot know that the message arrived."""
    with smtp() as box, receiving() as hook:
        process = dying(database_url, box.port, hook.url, "wait")

        def kill() -> None:
            process.kill()
            process.wait(10)

        hook.before_answer = kill
        assert process.wait(60) == -signal.SIGKILL
        hook.before_answer = lambda: None
        _, posts = tell_the_rest(database_url, box.port)
    assert posts == [("approval.waiting", "delivered")]
    assert len(hook.posted) == 2
    assert hook.posted[0].id == hook.posted[1].id
    assert hook.posted[0].body == hook.posted[1].body
