"""Policy rules as ACME clients meet them."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from certloom.audit import SYSTEM
from certloom.enrollment import rulebook
from certloom.policy.rules import parse_rule
from tests.policy.test_rules import NO_SHORT_RSA, OTHER_TEAM
from tests.protocols.acme.lab import Lab, Labs, make_csr


async def put(lab: Lab, **table: Any) -> None:
    rule = parse_rule({"effect": "refuse", "message": "not here", **table})
    await lab.store.write(lambda tx: rulebook.put(tx, lab.clock, rule, SYSTEM))
    await lab.books.refresh()


def test_a_rule_over_names_refuses_an_order_at_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        await put(lab, name="no-lab", when='request.dns.exists(n, under(n, "lab.example.com"))')
        client = await lab.client().registered()
        refused = await client.order("a.lab.example.com")
        assert (refused.status, refused.type, refused.json["detail"]) == (403, "unauthorized", "not here")
        assert (await client.order("a.example.com")).status == 201
        assert await lab.count("acme_orders") == 1

    labs.run(scenario)


def test_a_rule_over_keys_refuses_when_the_order_is_finalized(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        await put(lab, **NO_SHORT_RSA)
        client = await lab.client().registered()
        order = await client.order("a.prod.example.com")
        await client.prove(order)
        short = make_csr(["a.prod.example.com"], key=rsa.generate_private_key(65537, 2048))
        refused = await client.finalize(order, short)
        assert (refused.status, refused.type) == (403, "unauthorized")
        assert refused.json["detail"] == NO_SHORT_RSA["message"]
        done = await client.finalize(order, make_csr(["a.prod.example.com"]))
        assert done.json["status"] == "valid"

    labs.run(scenario)


def test_several_refusals_are_subproblems(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        await put(lab, name="one", when="true")
        await put(lab, name="two", when="request.dns[5] == ''", message="nor this")
        client = await lab.client().registered()
        refused = await client.order("a.example.com")
        assert [sub["detail"] for sub in refused.json["subproblems"]] == ["not here", "nor this"]

    labs.run(scenario)


def test_a_rule_that_asks_leaves_the_order_processing(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        await put(lab, name="look", effect="ask", when="inventory.exists(h, h.valid == 0)")
        await put(lab, name="hint", effect="warn", when="true")
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        assert order.status == 201
        await client.prove(order)
        waiting = await client.finalize(order, make_csr(["a.example.com"]))
        assert waiting.json["status"] == "processing"
        assert waiting.header("retry-after")
        row = await lab.store.read(lambda tx: tx.one("SELECT reasons, ask FROM enrolment_requests"))
        assert row is not None
        assert "look@1" in row[0]
        assert "hint@1" in row[1]

    labs.run(scenario)


def test_without_another_team_nobody_is_asked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        await put(lab, **OTHER_TEAM)
        client = await lab.client().registered()
        done, _ = await client.certificate("a.example.com")
        assert done.json["status"] == "valid"

    labs.run(scenario)
