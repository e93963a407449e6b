"""Accounts (RFC 8555 sections 6.2, 7.1.2 and 7.3)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from certloom.settings.schema import ACME, Settings
from tests.protocols.acme.lab import Lab, Labs
from tests.protocols.acme.signing import new_key

TERMS = "https://ca.example/terms/1"


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "rsa", "ed25519", "ed448"])
def test_an_account_is_made_with_a_key_of_any_kind(labs: Labs, kind: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client(key=new_key(kind))
        made = await client.register({"contact": ["mailto:a@example.com"]})
        assert made.status == 201
        assert made.json == {
            "status": "valid",
            "orders": client.account.replace("/account/", "/orders/"),
            "contact": ["mailto:a@example.com"],
        }
        assert (await client.post(client.account)).json == made.json
        assert await lab.events() == ["acme-account.created"]

    labs.run(scenario)


def test_an_account_needs_no_contact(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        payloads: tuple[dict[str, Any], ...] = ({}, {"contact": []}, {"contact": None})
        for payload in payloads:
            made = await lab.client().register(payload)
            assert made.status == 201
            assert "contact" not in made.json

    labs.run(scenario)


def test_unknown_members_orders_and_nulls_are_ignored(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        made = await lab.client().register(
            {
                "orders": "https://evil.example/orders",
                "status": "deactivated",
                "createdAt": "2020-01-01T00:00:00Z",
                "key": {"kty": "EC"},
                "onlyReturnExisting": None,
                "externalAccountBinding": None,
                "deep": {"a": [{"b": [1, 2, {"c": None}]}]},
            }
        )
        assert made.status == 201
        assert set(made.json) == {"status", "orders"}
        assert made.json["status"] == "valid"

    labs.run(scenario)


def test_the_same_key_gets_its_account_and_the_payload_is_ignored(labs: Labs) -> None:
    # RFC 8555 section 7.3.1
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        first = client.account
        again = await client.register({"contact": ["tel:+1"], "termsOfServiceAgreed": False})
        assert (again.status, again.location) == (200, first)
        assert "contact" not in again.json
        only = await client.register({"onlyReturnExisting": True})
        assert (only.status, only.location) == (200, first)
        assert "onlyReturnExisting" not in only.json
        assert await lab.count("acme_accounts") == 1

    labs.run(scenario)


def test_only_return_existing_makes_nothing(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        answer = await lab.client().register({"onlyReturnExisting": True})
        assert (answer.status, answer.type) == (400, "accountDoesNotExist")
        assert await lab.count("acme_accounts") == await lab.count("events") == 0

    labs.run(scenario)


def test_one_key_has_an_account_on_each_channel(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        web = await lab.client().registered()
        other = await lab.client("other", key=web.key).registered()
        assert web.account != other.account
        stranger = lab.client("other", key=web.key)
        stranger.account = web.account
        answer = await stranger.order("a.example.com")
        assert (answer.status, answer.type) == (400, "accountDoesNotExist")
        stranger.account = web.account.replace("/web/", "/other/")
        assert (await stranger.order("a.example.com")).type == "accountDoesNotExist"

    labs.run(scenario)


def test_the_same_key_at_the_same_time_makes_one_account(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        key = new_key()
        clients = [lab.client(key=key) for _ in range(8)]
        answers = await asyncio.gather(*[c.register() for c in clients])
        assert {a.status for a in answers} <= {200, 201}
        assert len({a.location for a in answers}) == 1
        assert await lab.count("acme_accounts") == 1

    labs.run(scenario)


@pytest.mark.parametrize(
    ("contact", "type"),
    [
        ("tel:+15551234", "unsupportedContact"),
        ("https://example.com", "unsupportedContact"),
        ("mailto:a@example.com?subject=x", "invalidContact"),
        ("mailto:a@example.com,b@example.com", "invalidContact"),
        ("mailto:", "invalidContact"),
        ("mailto:nobody", "invalidContact"),
        ("mailto:a@b@c", "invalidContact"),
        ("mailto:a b@example.com", "invalidContact"),
        ("mailto:<a@example.com>", "invalidContact"),
        ("mailto:a@example.com\n", "invalidContact"),
        ("mailto:é@example.com", "invalidContact"),
        ("a@example.com", "invalidContact"),
        ("", "invalidContact"),
    ],
)
def test_contacts_that_cannot_be_used(labs: Labs, contact: str, type: str) -> None:
    async def scenario(lab: Lab) -> None:
        answer = await lab.client().register({"contact": ["mailto:good@example.com", contact]})
        assert (answer.status, answer.type) == (400, type)
        assert await lab.count("acme_accounts") == 0

    labs.run(scenario)


def test_too_many_contacts_are_invalid(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        many = [f"mailto:a{n}@example.com" for n in range(11)]
        assert (await lab.client().register({"contact": many})).type == "invalidContact"

    labs.run(scenario)


def test_contacts_can_be_changed_and_removed(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        changed = await client.post(client.account, {"contact": ["mailto:b@example.com"]})
        assert (changed.status, changed.json["contact"]) == (200, ["mailto:b@example.com"])
        # certbot's acme library posts the whole resource back.
        again = await client.post(client.account, {**changed.json, "externalAccountBinding": {"a": 1}})
        assert again.json == changed.json
        assert (await client.post(client.account, {})).json == changed.json
        bad = await client.post(client.account, {"contact": ["tel:1"]})
        assert bad.type == "unsupportedContact"
        assert "contact" not in (await client.post(client.account, {"contact": []})).json
        assert await lab.events() == ["acme-account.created", "acme-account.updated", "acme-account.updated"]

    labs.run(scenario)


def test_a_deactivated_account_can_do_nothing_and_its_key_makes_no_new_one(labs: Labs) -> None:
    # RFC 8555 section 7.3.6
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        gone = await client.post(client.account, {"status": "deactivated"})
        assert (gone.status, gone.json["status"]) == (200, "deactivated")
        for url, payload in (
            (client.url("new-order"), {"identifiers": []}),
            (order.location, None),
            (client.account, {"status": "valid"}),
            (client.account, None),
        ):
            answer = await client.post(url, payload)
            assert (answer.status, answer.type) == (401, "unauthorized")
        for again in ({}, {"onlyReturnExisting": True}):
            answer = await client.register(again)
            assert (answer.status, answer.type) == (401, "unauthorized")
        assert await lab.count("acme_accounts") == 1
        assert (await lab.events())[-1] == "acme-account.deactivated"

    labs.run(scenario)


def test_other_statuses_cannot_be_set(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        for status in ("revoked", "nonsense", ""):
            answer = await client.post(client.account, {"status": status})
            assert (answer.status, answer.type) == (400, "malformed")
        assert (await client.post(client.account, {"status": "valid"})).status == 200

    labs.run(scenario)


def test_one_account_cannot_see_or_change_another(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        mine, other = await lab.client().registered(), await lab.client().registered()
        for payload in (None, {"status": "deactivated"}):
            answer = await mine.post(other.account, payload)
            assert (answer.status, answer.type) == (403, "unauthorized")
        orders = other.account.replace("/account/", "/orders/")
        assert (await mine.post(orders)).type == "unauthorized"

    labs.run(scenario)


def test_new_account_must_be_signed_with_jwk_and_everything_else_with_kid(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await client.post(client.url("new-account"), {})
        assert (answer.status, answer.type) == (400, "malformed")
        answer = await client.post(client.url("new-order"), {"identifiers": []}, by_key=True)
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


@pytest.mark.parametrize("kid", ["", "x", "https://evil.example/acme/web/account/1", "account/1"])
def test_a_kid_that_is_no_account_of_the_channel_does_not_exist(labs: Labs, kid: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        for value in (kid, client.account + "0", client.account[:-1], client.account + "/"):
            answer = await client.post(client.url("new-order"), {"identifiers": []}, kid=value)
            assert (answer.status, answer.type) == (400, "accountDoesNotExist")

    labs.run(scenario)


def test_terms_must_be_agreed_to(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        for agreed in (False, None):
            answer = await client.register({"termsOfServiceAgreed": agreed})
            assert (answer.status, answer.type) == (403, "userActionRequired")
            assert answer.link("terms-of-service") == TERMS
        made = await client.register()
        assert (made.status, made.json["termsOfServiceAgreed"]) == (201, True)
        assert (await client.order("a.example.com")).status == 201

    labs.run(scenario, settings=Settings(acme=ACME(terms_of_service=TERMS)))


def test_terms_that_change_must_be_agreed_to_again(labs: Labs) -> None:
    # RFC 8555 section 7.3.3
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        changed = "https://ca.example/terms/2"
        lab.service.settings = Settings(acme=ACME(terms_of_service=changed))
        identifier = {"type": "dns", "value": "a.example.com"}
        for answer in (
            await client.order("a.example.com"),
            await client.post(client.url("new-authz"), {"identifier": identifier}),
        ):
            assert (answer.status, answer.type) == (403, "userActionRequired")
            assert answer.link("terms-of-service") == answer.json["instance"] == changed
        assert (await client.post(client.account)).json["termsOfServiceAgreed"] is False
        agreed = await client.post(client.account, {"termsOfServiceAgreed": True})
        assert agreed.json["termsOfServiceAgreed"] is True
        assert (await client.order("a.example.com")).status == 201

    labs.run(scenario, settings=Settings(acme=ACME(terms_of_service=TERMS)))


def test_orders_are_listed_in_pages_newest_first_without_invalid_ones(labs: Labs) -> None:
    # RFC 8555 section 7.1.2.1
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        url = (await client.post(client.account)).json["orders"]
        assert (await client.post(url)).json == {"orders": []}
        made = []
        for n in range(205):
            made.append(await client.order(f"a{n}.example.com"))
            lab.clock.advance(0.01)
        dead = await client.post(made[100].json["authorizations"][0], {"status": "deactivated"})
        assert dead.status == 200
        seen: list[str] = []
        next_url: str | None = url
        pages = 0
        while next_url:
            page = await client.post(next_url)
            seen += page.json["orders"]
            next_url = page.link("next")
            pages += 1
        expected = [o.location for n, o in reversed(list(enumerate(made))) if n != 100]
        assert (pages, seen) == (3, expected)

    labs.run(scenario)


@pytest.mark.parametrize("cursor", ["cursor=x", "x", "cursor=", "cursor=" + "g" * 32, "cursor=%00"])
def test_a_cursor_that_was_not_given_out_is_malformed(labs: Labs, cursor: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        url = client.account.replace("/account/", "/orders/")
        answer = await client.post(f"{url}?{cursor}")
        assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)
