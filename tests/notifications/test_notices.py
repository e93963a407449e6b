"""Who is told what: approvals by email and webhook, the rest by webhook. On both databases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from certloom.audit import SYSTEM
from certloom.clock import ManualClock
from certloom.settings.schema import Mail
from certloom.store import Store
from certloom.store.base import Tx
from tests.conftest import run
from tests.core import Core
from tests.enrollment.people import profile
from tests.enrollment.test_approvals import REST, rest
from tests.enrollment.test_pipeline import ask
from tests.identity import making
from tests.identity.making import grant
from tests.notifications.receivers import Mailbox, receiving, smtp
from tests.notifications.telling import telling


def mail(box: Mailbox) -> Mail:
    return Mail(host="127.0.0.1", port=box.port, security="none", sender="pki@example.com")


async def approver(c: Core, name: str, *grants: Any, teams: tuple[str, ...] = ()) -> Any:
    found = await making.person(c.store, c.clock, name, *(grants or (grant("approver"),)), teams=teams)
    return found, await making.acting_as(c.store, found)


async def decide(
    c: Core, request: Any, who: Any, verb: Any = "approve", why: str = "", **change: Any
) -> None:
    from certloom.enrollment.approvals import Changes
    from tests.enrollment.people import origin

    changes = Changes(**change) if change else None
    await c.approvals.decide(request.approval_id, who, origin(who), verb, why, changes)


def test_everyone_who_can_decide_is_told_once_and_who_joins_tells_nobody_again(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with telling(store, clock, mail(box)) as t:
            await t.core.put_profile(profile({"approvers": 1}), 2)
            for name in ("bob", "carol"):
                await approver(t.core, name)
            await approver(t.core, "elsewhere", grant("approver", teams=("db",)))
            await approver(t.core, "here", grant("approver", teams=("web",), names=("**.example.com",)))
            await approver(t.core, "reader", grant("auditor"))
            first = await t.core.enrollment.submit(rest())
            second = await t.core.enrollment.submit(rest())
            assert first.approval_id == second.approval_id
            await t.settled("mail")

    with smtp() as box:
        run(scenario())
    assert sorted(box.recipients) == ["bob@example.com", "carol@example.com", "here@example.com"]
    text = box.letters[0].get_body(("plain",))
    assert text is not None
    shown = text.get_content()
    assert "www.example.com" in shown
    assert "https://pki.test/console/approvals/" in shown


def test_the_owner_is_never_asked_but_told_of_the_outcome(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, mail(box)) as t:
            await t.core.put_profile(profile({"approvers": 1}), 2)
            alice, _ = await approver(t.core, "alice")
            _, bob = await approver(t.core, "bob")
            requester = type(REST)("person", alice.id, alice.id, "web")
            waiting = await t.core.enrollment.submit(rest(requester=requester))
            await t.settled("mail")
            assert box.recipients == ["bob@example.com"]
            await decide(t.core, waiting, bob, "deny", "not this year")
            await t.settled("mail")

    with smtp() as box:
        run(scenario())
    assert box.recipients == ["bob@example.com", "alice@example.com"]
    assert "denied" in box.letters[1]["Subject"]
    text = box.letters[1].get_body(("plain",))
    assert text is not None
    assert "not this year" in text.get_content()


def test_each_stage_tells_its_own_people_and_a_change_asks_anew(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, mail(box)) as t:
            stages = [{"role": "approver", "approvers": 1}, {"role": "security", "approvers": 1}]
            await t.core.put_profile(profile({"stages": stages, "may_change": ["validity"]}), 2)
            await making.role(store, clock, "security", "approval.read", "approval.decide")
            _, bob = await approver(t.core, "bob")
            _, carol = await approver(t.core, "carol", grant("approver"), grant("security"))
            _, sam = await approver(t.core, "sam", grant("security"))
            waiting = await t.core.enrollment.submit(rest())
            await t.settled("mail")
            assert sorted(box.recipients) == ["bob@example.com", "carol@example.com"]
            box.recipients.clear()
            await decide(t.core, waiting, carol)
            await t.settled("mail")
            # Carol has agreed in the first stage; one person counts once.
            assert box.recipients == ["sam@example.com"]
            box.recipients.clear()
            await decide(t.core, waiting, sam, lifetime=86_400)
            await t.settled("mail")
            assert sorted(box.recipients) == ["bob@example.com", "carol@example.com"]
            assert bob.may("approval.decide")

    with smtp() as box:
        run(scenario())


def test_what_was_rolled_back_is_told_to_nobody(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, mail(box)) as t:
            await t.core.put_profile(profile({"approvers": 1}), 2)
            await approver(t.core, "bob")
            await t.webhook(hook.url)

            def fail(tx: Tx, request: Any) -> None:
                raise RuntimeError("no")

            with pytest.raises(RuntimeError):
                await t.core.enrollment.submit(rest(), fail)
            assert await t.settled("mail") == []
            assert await t.settled() == []

    with smtp() as box, receiving() as hook:
        run(scenario())
    assert (box.letters, hook.posted) == ([], [])


def test_a_mail_server_that_is_down_gets_it_later_unless_it_was_decided_meanwhile(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with telling(store, clock, mail(box)) as t:
            await t.core.put_profile(profile({"approvers": 1}), 2)
            _, bob = await approver(t.core, "bob")
            box.answers = ["451 not now"] * 2
            await t.core.enrollment.submit(rest())
            assert await t.settled("mail") == [("approval.waiting", "waiting")]
            other = await t.core.enrollment.submit(rest("other.example.com"))
            await t.settled("mail")
            await decide(t.core, other, bob)
            clock.advance(10)
            found = await t.settled("mail")
            assert sorted(found) == [("approval.waiting", "delivered"), ("approval.waiting", "dropped")]

    with smtp() as box:
        run(scenario())
    assert len(box.letters) == 1


def test_strangers_texts_stay_text(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock, mail(box)) as t:
            await t.core.put_profile(profile({"approvers": 1}), 2)
            await approver(t.core, "bob")
            await t.core.enrollment.submit(rest(comment="<b>urgent</b>\nWaits until: never\r\nBcc: x@y"))
            await t.settled("mail")

    with smtp() as box:
        run(scenario())
    (letter,) = box.letters
    html, text = letter.get_body(("html",)), letter.get_body(("plain",))
    assert html is not None
    assert text is not None
    assert "<b>" not in html.get_content()
    assert "&lt;b&gt;urgent" in html.get_content()
    assert "\nWaits until: never" not in text.get_content().replace("\r\n", "\n")
    assert "Bcc" not in letter


def test_webhooks_are_told_of_what_they_asked_for_and_no_more(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock) as t:
            await t.core.enrollment.submit(ask(idempotency_key="before"))
            await t.follow()
            await t.webhook(hook.url, events=("certificate.issued", "request.issued", "certificate.revoked"))
            await t.webhook(hook.url, "web", events=("certificate.issued",), teams=("web",))
            await t.webhook(hook.url, "mail", events=("certificate.issued",), profiles=("mail",))
            clock.advance(5)
            issued = await t.core.enrollment.submit(ask())
            assert issued.certificate_id is not None
            await t.follow()
            await t.core.revoker.revoke(issued.certificate_id, 4, SYSTEM)
            await t.follow()
            assert await t.follow() == 0
            told = await t.settled()
            assert sorted(told) == [
                ("certificate.issued", "delivered"),
                ("certificate.revoked", "delivered"),
                ("request.issued", "delivered"),
            ]
            assert await t.settled("webhook/web") == []
            assert await t.settled("webhook/mail") == []
            messages = {m["type"]: m["data"] for m in (json.loads(p.body) for p in hook.posted)}
            assert messages["certificate.issued"]["id"] == issued.certificate_id
            assert messages["certificate.issued"]["names"] == ["dns:www.example.com"]
            assert messages["certificate.revoked"]["reason"] == 4
            assert messages["request.issued"]["id"] == issued.id

    with receiving() as hook:
        run(scenario())


def test_an_approval_is_told_to_webhooks_when_it_waits_and_when_it_is_decided(
    store: Store, clock: ManualClock
) -> None:
    async def scenario() -> None:
        async with telling(store, clock) as t:
            await t.core.put_profile(profile({"approvers": 1}), 2)
            await t.webhook(hook.url, events=("approval.waiting", "approval.decided", "request.denied"))
            _, bob = await approver(t.core, "bob")
            waiting = await t.core.enrollment.submit(rest())
            await t.core.enrollment.submit(rest())
            await t.settled()
            await decide(t.core, waiting, bob, "deny", "no")
            await t.follow()
            told = await t.settled()
            assert sorted(told) == [
                ("approval.decided", "delivered"),
                ("approval.waiting", "delivered"),
                ("request.denied", "delivered"),
                ("request.denied", "delivered"),
            ]
            waits = json.loads(hook.posted[0].body)["data"]
            assert (waits["state"], waits["team"]) == ("waiting", "web")
            assert waits["url"].startswith("https://pki.test/console/approvals/")

    with receiving() as hook:
        run(scenario())


def test_where_nobody_wants_to_know_issuing_leaves_no_trace_here(store: Store, clock: ManualClock) -> None:
    async def scenario() -> None:
        async with telling(store, clock) as t:
            await t.webhook("http://127.0.0.1:1/", events=("approval.waiting",))
            await t.core.enrollment.submit(ask())
            assert await t.follow() == 0

            def look(tx: Tx) -> list[Any]:
                return [
                    tx.all("SELECT 1 FROM notices"),
                    tx.all("SELECT 1 FROM jobs WHERE kind LIKE 'notifications.%'"),
                    tx.all("SELECT 1 FROM facts WHERE key = 'notices.place'"),
                ]

            assert await store.read(look) == [[], [], []]

    run(scenario())
