"""Webhooks, posted to a real HTTP server: signatures, repeats, retries, giving up."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from certloom.audit import SYSTEM
from certloom.clock import ManualClock
from certloom.notifications.dispatch import RETRIES
from certloom.notifications.webhooks import BadWebhook, WebhookTerms, check, terms
from certloom.store import Store, notices, webhooks
from tests.conftest import run
from tests.enrollment.people import kinds
from tests.notifications.receivers import Posted, receiving
from tests.notifications.telling import telling

PAGE = Path(__file__).parents[2] / "docs" / "notifications.md"
Verify = Callable[[str, dict[str, str], bytes, float], str]


@pytest.fixture(scope="module")
def verify() -> Verify:
    """The receiver's code, as the documentation prints it."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, object] = {}
    exec(code, names)
    return names["verify"]  # type: ignore[return-value]


def by_openssl(secret: str, posted: Posted) -> str:
    """The signature as an implementation computes it that shares nothing with ours."""
    key = base64.b64decode(secret.removeprefix("whsec_")).hex()
    signed = f"{posted.id}.{posted.headers['webhook-timestamp']}.".encode() + posted.body
    command = ["openssl", "dgst", "-sha256", "-mac", "HMAC", "-macopt", f"hexkey:{key}", "-binary"]
    digest = subprocess.run(command, input=signed, stdout=subprocess.PIPE, check=True).stdout
    return "v1," + base64.b64encode(digest).decode()


def test_a_message_is_signed_as_the_standard_says(store: Store, clock: ManualClock, verify: Verify) -> None:
    async def scenario() -> tuple[Posted, str]:
        async with telling(store, clock) as t:
            made, secret = await t.webhook(hook.url)
            await t.test(made)
            assert await t.settled() == [("webhook.test", "delivered")]
            row = await store.read(lambda tx: webhooks.get(tx, "hook"))
            assert row is not None
            assert row.last_success == clock.now()
            assert secret.encode() not in row.secret_sealed
            assert secret not in row.body
            return hook.posted[0], secret

    with receiving() as hook:
        posted, secret = run(scenario())
    assert posted.path == "/in"
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["webhook-signature"] == by_openssl(secret, posted)
    assert json.loads(posted.body) == {
        "type": "webhook.test",
        "timestamp": "2027-01-15T08:00:00Z",
        "data": {"webhook": "hook"},
    }
    assert verify(secret, posted.headers, posted.body, clock.now()) == posted.id


def test_the_published_receiver_refuses_what_was_forged_or_replayed(
    store: Store, clock: ManualClock, verify: Verify
) -> None:
    async def scenario() -> tuple[Posted, str, str]:
        async with telling(store, clock) as t:
            made, secret = await t.webhook(hook.url)
            _, other = await t.webhook(hook.url, "other")
            await t.test(made)
            await t.settled()
            return hook.posted[0], secret, other

    with receiving() as hook:
        posted, secret, other = run(scenario())
    now = clock.now()
    good = posted.headers

    def refuses(secret: str, headers: dict[str, str], body: bytes, at: float) -> None:
        with pytest.raises(ValueError, match=r"no signature fits|replay"):
            verify(secret, headers, body, at)

    refuses(other, good, posted.body, now)
    refuses(secret, good, posted.body + b" ", now)
    refuses(secret, good | {"webhook-id": "msg_2"}, posted.body, now)
    refuses(secret, good, posted.body, now + 301)
    refuses(secret, good, posted.body, now - 301)
    refuses(secret, good | {"webhook-timestamp": str(now + 400)}, posted.body, now + 400)
    for signature in ("", "v1,", "v1,AAAA", good["webhook-signature"].replace("v1,", "v2,")):
        refuses(secret, good | {"webhook-signature": signature}, posted.body, now)


def test_a_failed_attempt_is_repeated_later_under_the_same_id(
    store: Store, clock: ManualClock, verify: Verify
) -> None:
    async def scenario() -> str:
        async with telling(store, clock) as t:
            made, secret = await t.webhook(hook.url)
            await t.test(made)
            assert await t.settled() == [("webhook.test", "waiting")]
            assert len(hook.posted) == 1
            row = await store.read(lambda tx: webhooks.get(tx, "hook"))
            assert row is not None
            assert (row.last_failure, row.last_error) == (clock.now(), "the receiver answered 503")
            for after in RETRIES[:2]:
                clock.advance(after * 1.3)
                await t.settled()
            assert await t.settled() == [("webhook.test", "delivered")]
            return secret

    with receiving() as hook:
        hook.statuses = [503, 302]
        secret = run(scenario())
    assert len(hook.posted) == 3
    assert len({posted.id for posted in hook.posted}) == 1
    assert len({posted.body for posted in hook.posted}) == 1
    # Each attempt is signed anew, for its own time.
    assert len({posted.headers["webhook-timestamp"] for posted in hook.posted}) == 3
    assert verify(secret, hook.posted[2].headers, hook.posted[2].body, clock.now())


def test_a_receiver_that_never_answers_well_is_given_up_after_about_a_day(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with telling(store, clock) as t:
            made, _ = await t.webhook(hook.url)
            await t.test(made)
            begun = clock.now()
            for after in RETRIES:
                assert await t.settled() == [("webhook.test", "waiting")]
                clock.advance(after * 1.26)
            assert await t.settled() == [("webhook.test", "failed")]
            assert 20 * 3600 < clock.now() - begun < 36 * 3600

    with receiving() as hook:
        hook.always = 500
        run(scenario())
    assert len(hook.posted) == len(RETRIES) + 1


def test_410_disables_the_webhook_and_drops_what_waits(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, run_jobs=False) as t:
            made, _ = await t.webhook(hook.url)
            for _ in range(8):
                await t.test(made)
            await t.core.runner.start()
            found = await t.settled()
            await t.core.runner.stop(2)
            row = await store.read(lambda tx: webhooks.get(tx, "hook"))
            assert row is not None
            assert not terms(row).enabled
            assert {state for _, state in found} <= {"failed", "dropped"}
            assert "dropped" in {state for _, state in found}
            assert "webhook.disabled" in await kinds(t.core)

    with receiving() as hook:
        hook.always = 410
        run(scenario())
    assert len(hook.posted) <= 4  # those under way at the same instant


def test_after_a_rotation_both_secrets_sign_for_a_while(
    store: Store, clock: ManualClock, verify: Verify
) -> None:
    async def scenario() -> None:
        async with telling(store, clock) as t:
            made, old = await t.webhook(hook.url)
            _, new = await store.write(lambda tx: t.webhooks.rotate(tx, made, SYSTEM, 3600))
            assert new != old
            await t.test(made)
            await t.settled()
            clock.advance(3601)
            await t.test(made)
            await t.settled()
            first, second = hook.posted
            at = int(first.headers["webhook-timestamp"])
            assert verify(old, first.headers, first.body, at)
            assert verify(new, first.headers, first.body, at)
            assert verify(new, second.headers, second.body, clock.now())
            with pytest.raises(ValueError, match="no signature"):
                verify(old, second.headers, second.body, clock.now())

    with receiving() as hook:
        run(scenario())


def test_a_dead_receiver_takes_one_place_and_is_not_hammered(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, run_jobs=False) as t:
            dead, _ = await t.webhook(down.url, "dead")
            alive, _ = await t.webhook(up.url, "alive")
            for _ in range(40):
                await t.test(dead)
            await t.test(alive)
            await t.core.runner.start()
            await t.until(lambda: len(up.posted) == 1 and bool(down.posted))
            await t.core.runner.stop(2)
            rows = await store.read(lambda tx: tx.all("SELECT 1 FROM jobs WHERE key = 'webhook/dead'"))
            assert len(rows) <= 2

    with receiving() as down, receiving() as up:
        down.always = 500
        run(scenario())
        assert len(down.posted) <= 8


def test_what_waits_for_a_deleted_or_disabled_webhook_is_dropped(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, run_jobs=False) as t:
            made, _ = await t.webhook(hook.url)
            other, _ = await t.webhook(hook.url, "other")
            await t.test(made)
            await t.test(other)
            await store.write(lambda tx: t.webhooks.delete(tx, made, SYSTEM))
            off = msgspec.structs.replace(terms(other), enabled=False)
            await store.write(lambda tx: t.webhooks.change(tx, other, off, SYSTEM))
            await t.core.runner.start()
            assert await t.settled() == [("webhook.test", "dropped")]
            assert await t.settled("webhook/other") == [("webhook.test", "dropped")]
            await t.core.runner.stop(2)

    with receiving() as hook:
        run(scenario())
        assert hook.posted == []


def test_one_source_is_told_once(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, run_jobs=False) as t:
            await t.webhook("http://127.0.0.1:1/")
            for first in (True, False):
                told = await store.write(
                    lambda tx: t.webhooks.tell(tx, "hook", "event/1", "request.denied", {}, clock.now_ms())
                )
                assert (told is not None) is first
            assert len(await store.read(lambda tx: notices.due(tx, "webhook/hook", clock.now_ms(), 9))) == 1

    run(scenario())


def test_addresses_of_this_host_are_not_posted_to_unless_allowed(store: Store, clock: ManualClock) -> None:
    from certloom.notifications import Webhooks
    from certloom.outbound.guard import AddressGuard
    from certloom.outbound.http import HTTPClient
    from certloom.outbound.resolver import Resolver
    from tests.core import DATA_KEY

    async def scenario() -> None:
        client = HTTPClient(Resolver(), AddressGuard())
        made = Webhooks(store, clock, DATA_KEY, client)
        wanted = WebhookTerms(url=hook.url, events=("request.denied",))
        row, _ = await store.write(lambda tx: made.create(tx, "hook", wanted, SYSTEM))
        notice = await store.write(lambda tx: made.test(tx, row, SYSTEM))
        sent = await made.send(notice)
        assert sent.state == "waiting"
        assert "not contacted" in (sent.error or "")
        await client.close()

    with receiving() as hook:
        run(scenario())
        assert hook.posted == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://example.com/",
        "https://",
        "https://user:secret@example.com/",
        "https://example.com/#x",
        "https://example.com/ x",
        "https://example.com/\r\nX: y",
        "https://exa\\mple.com/",
        "https://example.com:99999/",
        "https://[::1/",
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://exämple.com/",
    ],
)
def test_a_bad_url_is_refused(url: str) -> None:
    with pytest.raises(BadWebhook):
        check(WebhookTerms(url=url, events=("request.denied",)))
