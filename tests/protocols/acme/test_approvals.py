"""Orders that wait for people (RFC 8555 section 7.4): later orders join, or are issued at once."""

from __future__ import annotations

import asyncio

from certloom.policy.channels import ACMEChannel
from certloom.store import approvals
from certloom.store import requests as request_statements
from tests.protocols.acme.lab import Answer, Client, Lab, Labs, make_csr


async def asked(client: Client, name: str) -> tuple[Answer, Answer]:
    """A new order, proved and finalized with a new key."""
    order = await client.order(name)
    await client.prove(order)
    return order, await client.finalize(order, make_csr([name]))


async def the_requests(lab: Lab) -> list[str]:
    return await lab.store.read(
        lambda tx: [row[0] for row in tx.all("SELECT id FROM enrolment_requests ORDER BY id")]
    )


async def valid(client: Client, order: Answer) -> Answer:
    for _ in range(300):
        shown = await client.post(order.location)
        if shown.json["status"] != "processing":
            return shown
        await asyncio.sleep(0.01)
    raise AssertionError("never issued")


def test_a_second_order_joins_both_become_valid_and_a_third_is_issued_at_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client("slow").registered()
        first, waiting = await asked(client, "a.example.com")
        lab.clock.advance(3600)
        second, joined = await asked(client, "a.example.com")
        for answer in (waiting, joined):
            assert answer.json["status"] == "processing"
            assert int(answer.header("retry-after") or 0) > 0
        assert await lab.count("approvals") == 1
        await lab.decide((await the_requests(lab))[0], "approve")
        for order in (first, second):
            assert (await valid(client, order)).json["status"] == "valid"
        _, at_once = await asked(client, "a.example.com")
        assert (at_once.json["status"], at_once.header("retry-after")) == ("valid", None)
        assert await lab.count("approvals") == 1
        # Another account is another requester.
        _, other = await asked(await lab.client("slow").registered(), "a.example.com")
        assert other.json["status"] == "processing"

    labs.run(scenario)


def test_a_renewal_for_thirty_days_from_now_is_the_same_question_each_time(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client("slow").registered()

        def end() -> str:
            from certloom.protocols.acme.messages import format_time

            return format_time(lab.clock.now() + 30 * 86400)

        for _ in range(2):
            order = await client.order("a.example.com", notAfter=end())
            await client.prove(order)
            waiting = await client.finalize(order, make_csr(["a.example.com"]))
            assert waiting.json["status"] == "processing"
            lab.clock.advance(3601)
        assert await lab.count("approvals") == 1

    labs.run(scenario)


def test_an_account_acts_for_the_owner_and_the_team_of_its_credential(labs: Labs) -> None:
    channel = ACMEChannel(name="web", profiles=("asked",))

    async def scenario(lab: Lab) -> None:
        credential = await lab.eab(owner="service:shop", team="web")
        client = await lab.client().registered_by_eab(credential)
        order, waiting = await asked(client, "a.example.com")
        assert waiting.json["status"] == "processing"
        (id,) = await the_requests(lab)
        request = await lab.store.read(lambda tx: request_statements.get(tx, id))
        assert request is not None
        assert (request.owner, request.team) == ("service:shop", "web")
        approval = await lab.store.read(lambda tx: approvals.get(tx, request.approval_id or ""))
        assert approval is not None
        assert (approval.owner, approval.team) == ("service:shop", "web")
        await lab.decide(id, "approve")
        assert (await valid(client, order)).json["status"] == "valid"
        row = await lab.store.read(lambda tx: tx.one("SELECT owner, team FROM certificates"))
        assert row == ("service:shop", "web")

    labs.run(scenario, web=channel)
