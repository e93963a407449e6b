"""What a scope keeps somebody from: the installation as a whole, and what others have, by whatever way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from certloom.clock import ManualClock
from certloom.identity.principals import PERMISSIONS, Grant, Principal, Role, Scope, holding, local
from tests.api.asking import Reply
from tests.api.test_requests_and_approvals import ALICE, pem, serving
from tests.conftest import run
from tests.enrollment.people import BOB, person

ROOT = local("root")
RULE = {"when": "false", "effect": "warn", "message": "never"}
CA = {"name": "mine", "subject": "CN=Mine"}


def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'certloom.db'}"


def holder(*permissions: str, own: bool = False, scope: Scope | None = None, name: str = "olga") -> Principal:
    role = Role(name="some", permissions=frozenset(permissions), own=own)
    held = holding([Grant(role="some", scope=scope or Scope())], {"some": role})
    return Principal(kind="person", id=name, name=name, owner=name, held=held)


def shown(reply: Reply, status: int = 200) -> Any:
    assert reply.status == status, reply.body
    return json.loads(reply.body) if reply.body else None


@pytest.mark.parametrize(
    "scope",
    [
        Scope(teams=("web",)),
        Scope(profiles=("free",)),
        Scope(channels=("acme/default",)),
        Scope(names=("**.example.com",)),
        None,
    ],
    ids=["team", "profile", "channel", "names", "own"],
)
def test_what_concerns_everybody_takes_a_grant_without_a_scope(
    tmp_path: Path, clock: ManualClock, scope: Scope | None
) -> None:
    """Somebody's operator of one team must not have the data key, nor change what all teams live by."""
    admin = holder(*PERMISSIONS, own=scope is None, scope=scope)

    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            before = await client.count("events")
            profile = json.loads((await client(ROOT, "GET", "/profiles/asked")).body)["profile"]
            profile["approval"] = {}
            channel = json.loads((await client(ROOT, "GET", "/channels/acme/default")).body)["channel"]
            rule = {"name": "mine", **RULE}
            asked: list[tuple[str, str, Any]] = [
                ("POST", "/backups", {"path": "mine"}),
                ("GET", "/audit/events", None),
                ("GET", "/audit/key", None),
                ("PUT", "/rules/mine", RULE),
                ("POST", "/authorities", CA),
                ("POST", "/plans", {}),
                ("POST", "/blocked-keys", {"spki_sha256": "00" * 32, "why": "because"}),
                ("PUT", "/profiles/asked", profile),
                ("POST", "/declarations", {"document": {"rules": [rule]}}),
                ("POST", "/declarations", {"document": {"authorities": [CA]}}),
                ("POST", "/declarations", {"document": {"profiles": [profile]}}),
            ]
            if scope is None or not scope.channels:
                asked.append(("PUT", "/channels/acme/default", {**channel, "profiles": ["asked"]}))
            for method, path, body in asked:
                reply = await client(admin, method, path, body, if_match="*")
                assert reply.status == 403, (method, path, reply)
            assert await client.count("events") == before

    run(main())


def test_who_keeps_one_profile_or_channel_keeps_that(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            keeper = holder("profile.read", "profile.write", scope=Scope(profiles=("free",)))
            profile = json.loads((await client(ROOT, "GET", "/profiles/free")).body)["profile"]
            profile["description"] = "kept"
            shown(await client(keeper, "PUT", "/profiles/free", profile, if_match="*"))
            keeper = holder("channel.read", "channel.write", scope=Scope(channels=("acme/default",)))
            channel = json.loads((await client(ROOT, "GET", "/channels/acme/default")).body)["channel"]
            shown(await client(keeper, "PUT", "/channels/acme/default", channel, if_match="*"))

    run(main())


def test_a_declared_credential_takes_what_making_it_takes(tmp_path: Path, clock: ManualClock) -> None:
    def declares(**more: Any) -> Any:
        credential = {"id": "robot", "channel": "default", **more}
        return {"document": {"credentials": [credential]}}

    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            scope = Scope(names=("**.a.example",))
            narrow = holder("credential.read", "credential.write", scope=scope)
            for names in (["**"], []):
                body = declares(names=names, preauthorized=bool(names))
                assert (await client(narrow, "POST", "/declarations", body)).status == 403, names
            shown(await client(narrow, "POST", "/declarations", declares(names=["**.a.example"])))
            # Nor is one widened that is there already.
            body = declares(names=["**"], preauthorized=True)
            assert (await client(narrow, "POST", "/declarations", body)).status == 403
            made = shown(await client(ROOT, "GET", "/credentials/robot"))
            assert (made["owner"], made["names"]) == ("olga", ["**.a.example"])

    run(main())


def test_who_decides_on_approvals_gets_no_key_that_is_nobodys(tmp_path: Path, clock: ManualClock) -> None:
    """With an account that belongs to nobody they could agree to what they ask for themselves."""

    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            both = person("both", "operator", "approver")
            declared = {"document": {"credentials": [{"id": "shared", "channel": "default"}]}}
            shown(await client(ROOT, "POST", "/declarations", declared))
            rotated = await client(both, "POST", "/credentials/shared/rotate", {})
            assert rotated.status == 403, rotated
            declared["document"]["credentials"][0]["id"] = "mine"
            shown(await client(both, "POST", "/declarations", declared))
            assert shown(await client(both, "GET", "/credentials/mine"))["owner"] == "both"

    run(main())


def test_what_names_nothing_is_outside_of_name_spaces(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            asked = {"profile": "free", "csr": pem(), "names": []}
            refused = await client(ALICE, "POST", "/requests", asked)
            assert (refused.status, json.loads(refused.body)["code"]) == (403, "names-not-allowed")

    run(main())


def test_an_approval_shows_only_certificates_that_one_may_see(tmp_path: Path, clock: ManualClock) -> None:
    """Or whoever asks for a name would be told who has certificates for it."""

    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            shown(await client(ALICE, "POST", "/requests", {"profile": "free", "csr": pem()}), 201)
            curious = person("curious", "requester")
            asked = await client(curious, "POST", "/requests", {"profile": "asked", "csr": pem()})
            path = f"/approvals/{shown(asked, 202)['approval']}"
            mine = shown(await client(curious, "GET", path))
            assert (mine["earlier"], mine["own"]) == ([], True)
            assert "alice" not in json.dumps(mine)
            theirs = shown(await client(BOB, "GET", path))
            assert [c["requester"] for c in theirs["earlier"]] == ["person:alice"]
            assert "alice" in json.dumps(theirs["differences"])

    run(main())


def test_a_successor_is_named_only_to_what_is_within_reach(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            asked = {"profile": "free", "csr": pem()}
            old = shown(await client(ALICE, "POST", "/requests", asked), 201)["certificate"]
            may = ("request.create", "request.read")
            everywhere = holding(
                [Grant(role="ask"), Grant(role="replace", scope=Scope(channels=("acme/default",)))],
                {
                    "ask": Role(name="ask", permissions=frozenset(may)),
                    "replace": Role(name="replace", permissions=frozenset({"certificate.replace"})),
                },
            )
            other = Principal(kind="person", id="other", name="Other", owner="other", held=everywhere)
            reply = await client(other, "POST", "/requests", {**asked, "csr": pem(), "replaces": old})
            assert reply.status == 422, reply

    run(main())


@pytest.mark.parametrize("path", ["/requests/{id}", "/approvals/{id}"])
def test_what_is_not_theirs_looks_like_what_is_not_there(
    tmp_path: Path, clock: ManualClock, path: str
) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            made = shown(await client(ALICE, "POST", "/requests", {"profile": "asked", "csr": pem()}), 202)
            there = made["id"] if "requests" in path else made["approval"]
            mallory = person("mallory", "requester")
            answers = []
            for id in (there, "0" * 26):
                reply = await client(mallory, "GET", path.format(id=id))
                answers.append((reply.status, json.loads(reply.body)["detail"]))
            assert answers[0] == answers[1]

    run(main())


def test_an_explanation_is_given_of_requests_within_reach(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            made = shown(await client(ALICE, "POST", "/requests", {"profile": "free", "csr": pem()}), 201)
            scope = Scope(names=("**.other.example",))
            other = holder("rule.read", "request.read", scope=scope)
            reply = await client(other, "POST", "/explanations", {"request": made["id"]})
            assert reply.status == 404, reply

    run(main())


def test_an_explanation_takes_a_request_as_people_have_it(tmp_path: Path, clock: ManualClock) -> None:
    async def main() -> None:
        async with serving(sqlite(tmp_path), tmp_path, clock) as client:
            asked = {"profile": "free", "csr": pem()}
            assert shown(await client(ROOT, "POST", "/explanations", asked))["outcome"] == "issue"
            reply = await client(ROOT, "POST", "/explanations", {**asked, "csr": "nonsense"})
            assert (reply.status, json.loads(reply.body)["code"]) == (422, "bad-csr")

    run(main())
