"""Policy rules over REST: saved, versioned, put into force, explained, planned; on both databases."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from certloom.clock import ManualClock
from certloom.identity.principals import local
from certloom.policy.expressions import compile_condition
from certloom.policy.expressions.trial import Limits, try_out
from certloom.policy.rules import MOST_STEPS_TOGETHER, encode_rule, parse_rule
from certloom.store import rules as statements
from certloom.store.base import Tx
from certloom.store.rules import StoredRule
from tests.api.test_requests_and_approvals import pem, serving
from tests.conftest import run
from tests.enrollment.people import person
from tests.policy.test_rules import NO_SHORT_RSA, OTHER_TEAM

ROOT = local("root")
AUDITOR = person("audrey", "auditor")
RULE = {key: value for key, value in NO_SHORT_RSA.items() if key != "name"}


def shown(reply: Any, status: int = 200) -> Any:
    assert reply.status == status, reply.body
    return json.loads(reply.body) if reply.body else None


def etag_of(reply: Any) -> str:
    found: str = reply.headers["etag"]
    return found


def test_a_rule_is_versioned_and_its_changes_are_events(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            made = await client(ROOT, "PUT", "/rules/no-short-rsa", RULE)
            assert shown(made, 201)["version"] == 1
            tag = etag_of(made)
            assert (await client(ROOT, "PUT", "/rules/no-short-rsa", RULE)).status == 428
            assert (await client(ROOT, "PUT", "/rules/no-short-rsa", RULE, if_match='"x"')).status == 412
            same = await client(ROOT, "PUT", "/rules/no-short-rsa", RULE, if_match=tag)
            assert shown(same)["version"] == 1
            softer = RULE | {"effect": "warn"}
            changed = shown(await client(ROOT, "PUT", "/rules/no-short-rsa", softer, if_match=tag))
            assert (changed["version"], changed["rule"]["effect"]) == (2, "warn")
            assert changed["author"] == ROOT.actor
            newest = await client(AUDITOR, "GET", "/rules/no-short-rsa")
            gone = await client(ROOT, "DELETE", "/rules/no-short-rsa", if_match=etag_of(newest))
            assert gone.status == 204
            assert (await client(ROOT, "GET", "/rules/no-short-rsa")).status == 404
            assert shown(await client(ROOT, "GET", "/rules"))["items"] == []
            versions = shown(await client(ROOT, "GET", "/rules/no-short-rsa/versions?limit=2"))
            assert [v["version"] for v in versions["items"]] == [3, 2]
            rest = await client(
                ROOT, "GET", f"/rules/no-short-rsa/versions?limit=2&cursor={versions['next']}"
            )
            assert [v["version"] for v in shown(rest)["items"]] == [1]
            first = shown(await client(ROOT, "GET", "/rules/no-short-rsa/versions/1"))
            assert first["rule"]["effect"] == "refuse"
            again = shown(await client(ROOT, "PUT", "/rules/no-short-rsa", RULE), 201)
            assert again["version"] == 4
            kinds = await client.rooms.store.read(
                lambda tx: tx.all("SELECT kind, data FROM events WHERE kind LIKE 'rule.%' ORDER BY id")
            )
            assert [k for k, _ in kinds] == ["rule.created", "rule.changed", "rule.removed", "rule.created"]
            seen = json.loads(kinds[1][1])
            assert (seen["before"]["effect"], seen["after"]["effect"]) == ("refuse", "warn")

    run(story())


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("request.dns.exists(n, request.dns.exists(m, m == n))", "steps"),
        ("request.dns.map(a, request.dns.map(b, [1].map(c, [1].map(d, d))))", "nested 2 deep"),
        ('request.dns.exists(n, n.matches("(a{1,1000}){1,1000}"))', "regular expression"),
        ("false && request.names.map(n, n).exists(n, n.value == '')", "it takes"),
        ("while(true)", "has no meaning here"),
    ],
)
def test_a_condition_that_would_loop_or_allocate_is_refused_when_it_is_saved(
    when: str, said: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(f"sqlite:///{tmp_path}/certloom.db", tmp_path, clock) as client:
            refused = await client(ROOT, "PUT", "/rules/bad", RULE | {"when": when})
            problem = shown(refused, 422)
            assert said in problem["detail"]
            assert "`$.when`" in problem["detail"]
            assert await client.rooms.store.read(statements.current) == []
            assert (await client(AUDITOR, "PUT", "/rules/ok", RULE)).status == 403

    run(story())


def test_a_rule_decides_requests_and_is_explained(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            supposed = {
                "profile": "free",
                "names": ["dns:a.prod.example.com"],
                "key_type": "rsa-2048",
                "team": "web",
            }
            before = shown(await client(AUDITOR, "POST", "/explanations", supposed))
            assert (before["outcome"], before["decided_by"]) == ("issue", ["profile free@1"])
            shown(await client(ROOT, "PUT", "/rules/no-short-rsa", RULE), 201)
            after = shown(await client(AUDITOR, "POST", "/explanations", supposed))
            assert (after["outcome"], after["decided_by"]) == ("refuse", ["rule no-short-rsa@1"])
            assert after["rules"][0]["matched"] is True
            better = supposed | {"key_type": "rsa-3072"}
            assert shown(await client(AUDITOR, "POST", "/explanations", better))["outcome"] == "issue"
            for wrong in (
                supposed | {"key_type": "rsa-x"},
                supposed | {"names": ["a.b"]},
                supposed | {"profile": "none"},
                supposed | {"csr": "nonsense"},
                {"profile": "free"},
            ):
                assert (await client(AUDITOR, "POST", "/explanations", wrong)).status == 422
            unknown = await client(AUDITOR, "POST", "/explanations", {"request": "none"})
            assert unknown.status == 404

    run(story())


def test_a_kept_request_is_explained(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            terms = {key: value for key, value in OTHER_TEAM.items() if key != "name"}
            shown(await client(ROOT, "PUT", "/rules/other-team", terms), 201)
            ask = {"profile": "free", "csr": pem("www.example.com")}
            made = await client(ROOT, "POST", "/requests", ask)
            assert made.status in (201, 202), made.body
            id = json.loads(made.body)["id"]
            told = shown(await client(ROOT, "POST", "/explanations", {"request": id}))
            assert told["outcome"] == "issue"
            assert [rule["rule"] for rule in told["rules"]] == ["other-team@1"]

    run(story())


def test_rules_are_declared_beside_profiles(database_url: str, tmp_path: Path, clock: ManualClock) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            for expected in ("created", "unchanged"):
                applied = shown(
                    await client(ROOT, "POST", "/declarations", {"document": {"rules": [NO_SHORT_RSA]}})
                )
                assert [(c["kind"], c["change"]) for c in applied["changes"]] == [("rule", expected)]
            bad = {"document": {"rules": [NO_SHORT_RSA, OTHER_TEAM | {"when": "request.nope"}]}}
            problem = shown(await client(ROOT, "POST", "/declarations", bad), 422)
            assert "`$.rules[1].when`" in problem["detail"]
            assert client.rooms.books.rules

    run(story())


HEAVY = "request.dns.exists(n, " + " || ".join(f"under(n, 'd{i}.example.com')" for i in range(12)) + ")"


def heavy(i: int, **more: Any) -> dict[str, Any]:
    """A rule that takes nearly as much as one may."""
    return {"when": f"{HEAVY} && now != {i}", "effect": "warn", "message": "heavy", **more}


def test_what_all_rules_take_together_is_bounded(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            steps = compile_condition(heavy(0)["when"]).checked.steps
            fit = MOST_STEPS_TOGETHER // steps
            assert fit < 10

            async def put(name: str, rule: dict[str, Any], **headers: str) -> Any:
                return await client(ROOT, "PUT", f"/rules/{name}", rule, **headers)

            # At the same instant as one after the other.
            replies = await asyncio.gather(*(put(f"h{i}", heavy(i)) for i in range(fit + 2)))
            assert sorted(reply.status for reply in replies) == [201] * fit + [409] * 2
            problem = shown(await put("more", heavy(99)), 409)
            assert f"would take {steps * (fit + 1)} steps, of at most 1000000" in problem["detail"]
            assert f"h0 ({steps})" in problem["detail"] or f"h2 ({steps})" in problem["detail"]
            # What is not asked takes nothing, until it is.
            off = await put("more", heavy(99, enabled=False))
            assert shown(off, 201)
            on = await put("more", heavy(99), if_match=etag_of(off))
            assert on.status == 409
            # In a declaration too: all of it or nothing, judged as a whole.
            taken = [{"name": f"h{i}", **heavy(i)} for i, r in enumerate(replies) if r.status == 201]
            another = {"name": "another", **heavy(100)}

            async def declare(*rules: dict[str, Any]) -> Any:
                return await client(ROOT, "POST", "/declarations", {"document": {"rules": rules}})

            assert (await declare(RULE | {"name": "light"}, another)).status == 409
            assert (await client(ROOT, "GET", "/rules/light")).status == 404
            assert (await declare(another, taken[0] | {"enabled": False})).status == 200
            # Rules about different profiles are never asked together.
            split = [taken[0] | {"profiles": ["free"]}, *(r | {"profiles": ["asked"]} for r in taken[2:])]
            assert (await declare(*split)).status == 200
            last = {"name": "last", **heavy(300, profiles=["asked", "free"])}
            problem = shown(await declare(last), 409)
            assert "together for the profile 'asked' would" in problem["detail"]
            assert (await declare(last | {"profiles": ["free"]})).status == 200

    run(story())


def test_what_is_over_the_bounds_already_can_be_made_less(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    """An earlier version may have allowed more."""

    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            fit = MOST_STEPS_TOGETHER // compile_condition(heavy(0)["when"]).checked.steps

            def unit(tx: Tx) -> None:
                for i in range(fit + 3):
                    body = encode_rule(parse_rule({"name": f"h{i}", **heavy(i)}))
                    statements.add(tx, StoredRule(f"h{i}", 1, body, 0, "local:root"))

            await client.rooms.store.write(unit)
            off = heavy(0, enabled=False)
            assert (await client(ROOT, "PUT", "/rules/h0", off, if_match="*")).status == 200
            same = await client(ROOT, "PUT", "/rules/h1", heavy(1), if_match="*")
            assert shown(same)["version"] == 1
            assert (await client(ROOT, "PUT", "/rules/light", RULE)).status == 409
            assert (await client(ROOT, "DELETE", "/rules/h2", if_match="*")).status == 204

    run(story())


def test_there_are_only_so_many_rules(tmp_path: Path, clock: ManualClock) -> None:
    async def story() -> None:
        async with serving(f"sqlite:///{tmp_path}/certloom.db", tmp_path, clock) as client:
            light = {"when": "request.wildcard", "effect": "warn", "message": "no", "enabled": False}
            many = {"document": {"rules": [{"name": f"r{i}", **light} for i in range(200)]}}
            assert (await client(ROOT, "POST", "/declarations", many)).status == 200
            problem = shown(await client(ROOT, "PUT", "/rules/last", light), 409)
            assert problem["detail"] == "there would be 201 rules, of at most 200"

    run(story())


@pytest.mark.parametrize("worker", ["import os; os._exit(1)", "while True: pass", "print('hello')"])
def test_a_trial_that_cannot_be_held_saves_nothing_and_blames_no_rule(
    worker: str, tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(sources: Sequence[str]) -> None:
        await try_out(sources, Limits(start=0.5), (sys.executable, "-S", "-c", worker))

    async def story() -> None:
        async with serving(f"sqlite:///{tmp_path}/certloom.db", tmp_path, clock) as client:
            monkeypatch.setattr("certloom.api.rules.try_out", broken)
            reply = await client(ROOT, "PUT", "/rules/ok", RULE)
            problem = shown(reply, 503)
            assert "the process that tries conditions out" in problem["detail"]
            assert reply.headers["retry-after"] == "10"
            assert await client.rooms.store.read(statements.current) == []

    run(story())


def test_a_plan_tells_what_would_change_and_changes_nothing(
    database_url: str, tmp_path: Path, clock: ManualClock
) -> None:
    async def story() -> None:
        async with serving(database_url, tmp_path, clock) as client:
            for name in ("a.prod.example.com", "b.test.example.com"):
                ask = {"profile": "free", "csr": pem(name, key=rsa.generate_private_key(65537, 2048))}
                assert (await client(ROOT, "POST", "/requests", ask)).status == 201
            events = await client.count("events")
            plan = {"rules": [NO_SHORT_RSA]}
            told = shown(await client(AUDITOR, "POST", "/plans", plan))
            assert told["summary"]["in_use"] == 2
            assert told["summary"]["before"] == {"compliant": 2, "ask": 0, "refused": 0}
            assert told["summary"]["after"] == {"compliant": 1, "ask": 0, "refused": 1}
            assert told["summary"]["reasons"] == {"rule:no-short-rsa@1": 1}
            (certificate,) = told["certificates"]
            assert certificate["names"] == ["dns:a.prod.example.com"]
            assert certificate["endpoints"] == []
            assert (certificate["before"], certificate["after"]) == ("compliant", "refused")
            lines = await client(AUDITOR, "POST", "/plans", plan, accept="application/jsonl")
            seen = [json.loads(line) for line in lines.body.splitlines()]
            assert [next(iter(line)) for line in seen] == ["progress", "certificate", "progress", "summary"]
            assert seen[2]["progress"] == {"done": 4, "total": 4}, "with the CAs' own"
            asked = plan | {"rules": [OTHER_TEAM | {"when": "inventory.exists(h, h.valid > 0)"}]}
            assert shown(await client(AUDITOR, "POST", "/plans", asked))["summary"]["after"]["ask"] == 2
            gone = shown(await client(AUDITOR, "POST", "/plans", {"remove": {"profiles": ["free"]}}))
            assert gone["summary"]["reasons"] == {"profile-gone": 2}
            bad: tuple[dict[str, Any], ...] = (
                {"remove": {"rules": ["none"]}},
                {"profiles": [{"name": "x"}]},
                {"rules": [{"name": "x"}]},
                {"authorities": [{}]},
            )
            for wrong in bad:
                assert (await client(AUDITOR, "POST", "/plans", wrong)).status == 422
            assert await client.count("rules") == 0
            assert await client.count("events") == events

    run(story())
