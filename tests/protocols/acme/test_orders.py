"""Orders (RFC 8555 sections 7.1.3 and 7.4; draft-ietf-acme-profiles; RFC 8738)."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from certloom.policy.channels import RateLimit
from certloom.settings.schema import ACME, Settings
from tests.protocols.acme.lab import WEB, Lab, Labs, make_csr


def test_an_order_shows_what_was_asked_for(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("A.Example.com", "*.example.com", "192.0.2.7", "2001:DB8:0:0::1")
        assert order.status == 201
        body = order.json
        assert body["status"] == "pending"
        assert body["identifiers"] == [
            {"type": "dns", "value": "a.example.com"},
            {"type": "dns", "value": "*.example.com"},
            {"type": "ip", "value": "192.0.2.7"},
            {"type": "ip", "value": "2001:db8::1"},
        ]
        assert len(body["authorizations"]) == 4
        assert body["expires"] == "2027-01-16T08:00:00Z"
        assert body["profile"] == "tls-server"
        assert not {"certificate", "error", "replaces", "notBefore", "notAfter"} & set(body)
        again = await client.post(order.location)
        assert again.json == body
        assert again.header("retry-after") == "1"
        assert await lab.events() == ["acme-account.created", "acme-order.created"]

    labs.run(scenario)


def test_junk_that_clients_send_is_ignored(labs: Labs) -> None:
    # What Caddy 2.11 sends, and nulls wherever something may be absent.
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order(
            "a.example.com",
            expires="0001-01-01T00:00:00Z",
            authorizations=None,
            finalize="",
            certificate="",
            status="valid",
            notBefore=None,
            notAfter="",
            profile=None,
            replaces=None,
        )
        assert (order.status, order.json["status"]) == (201, "pending")

    labs.run(scenario)


def test_a_name_sent_twice_is_one_name(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com", "A.EXAMPLE.COM", "b.example.com", "a.example.com")
        assert [i["value"] for i in order.json["identifiers"]] == ["a.example.com", "b.example.com"]
        assert len(order.json["authorizations"]) == 2

    labs.run(scenario)


@pytest.mark.parametrize(
    ("identifier", "type"),
    [
        ({"type": "email", "value": "a@example.com"}, "unsupportedIdentifier"),
        ({"type": "permanent-identifier", "value": "x"}, "unsupportedIdentifier"),
        ({"type": "DNS", "value": "a.example.com"}, "unsupportedIdentifier"),
        ({"type": "", "value": ""}, "unsupportedIdentifier"),
        ({"type": "dns", "value": ""}, "malformed"),
        ({"type": "dns", "value": "a..example.com"}, "malformed"),
        ({"type": "dns", "value": "a.example.com."}, "malformed"),
        ({"type": "dns", "value": "a_b.example.com"}, "malformed"),
        ({"type": "dns", "value": "-a.example.com"}, "malformed"),
        ({"type": "dns", "value": "*.*.example.com"}, "malformed"),
        ({"type": "dns", "value": "a.*.example.com"}, "malformed"),
        ({"type": "dns", "value": "*"}, "malformed"),
        ({"type": "dns", "value": "192.0.2.1"}, "malformed"),
        ({"type": "dns", "value": "müller.example"}, "malformed"),
        ({"type": "dns", "value": "xn--a.example"}, "malformed"),
        ({"type": "dns", "value": "a" * 64 + ".example"}, "malformed"),
        ({"type": "dns", "value": "a." * 5000 + "example"}, "malformed"),
        ({"type": "dns", "value": "a\u0000.example"}, "malformed"),
        ({"type": "dns", "value": "https://a.example/"}, "malformed"),
        ({"type": "ip", "value": "a.example.com"}, "malformed"),
        ({"type": "ip", "value": "192.0.2.256"}, "malformed"),
        ({"type": "ip", "value": "192.0.2.0/24"}, "malformed"),
        ({"type": "ip", "value": "fe80::1%eth0"}, "malformed"),
        ({"type": "dns", "value": "a.forbidden.example"}, "rejectedIdentifier"),
    ],
)
def test_identifiers_that_cannot_be_served(labs: Labs, identifier: dict[str, str], type: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        good = {"type": "dns", "value": "good.example.com"}
        answer = await client.post(client.url("new-order"), {"identifiers": [good, identifier]})
        assert (answer.status, answer.type) == (400, type)
        (cause,) = answer.json["subproblems"]
        assert cause["type"] == answer.json["type"]
        assert len(answer.body) < 2000
        if identifier["type"]:
            assert cause["identifier"]["type"] == identifier["type"]
        assert await lab.count("acme_orders") == await lab.count("acme_authorizations") == 0

    labs.run(scenario)


def test_several_bad_identifiers_of_several_kinds_are_a_compound(labs: Labs) -> None:
    # RFC 8555 section 6.7.1
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        identifiers = [
            {"type": "dns", "value": "good.example.com"},
            {"type": "dns", "value": "bad_name"},
            {"type": "email", "value": "a@b.example"},
        ]
        answer = await client.post(client.url("new-order"), {"identifiers": identifiers})
        assert (answer.status, answer.type) == (400, "compound")
        assert [
            (s["type"].rpartition(":")[2], s["identifier"]["value"]) for s in answer.json["subproblems"]
        ] == [
            ("malformed", "bad_name"),
            ("unsupportedIdentifier", "a@b.example"),
        ]

    labs.run(scenario)


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"identifiers": []},
        {"identifiers": None},
        {"identifiers": {}},
        {"identifiers": "a.example.com"},
        {"identifiers": ["a.example.com"]},
        {"identifiers": [None]},
        {"identifiers": [{"type": "dns"}]},
        {"identifiers": [{"value": "a.example.com"}]},
        {"identifiers": [{"type": 1, "value": "a"}]},
        {"identifiers": [{"type": "dns", "value": ["a.example.com"]}]},
        [],
        "x",
        None,
        b"{",
        b"\xff",
        b"[" * 60_000,
        b'{"identifiers":' * 5_000,
    ],
)
def test_payloads_that_are_no_order_are_malformed(labs: Labs, payload: Any) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await client.post(client.url("new-order"), payload)
        assert (answer.status, answer.type) == (400, "malformed")
        assert await lab.count("acme_orders") == 0

    labs.run(scenario)


def test_too_many_identifiers_are_malformed_and_cost_nothing(labs: Labs) -> None:
    settings = Settings()

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        assert (await client.order(*[f"h{n}.example.com" for n in range(100)])).status == 201
        for count in (101, 1_500):
            answer = await client.order(*[f"h{n}.example.com" for n in range(count)])
            assert (answer.status, answer.type) == (400, "malformed")
        answer = await client.order(*[f"h{n}.example.com" for n in range(10_000)])
        assert (answer.status, answer.type) == (413, "malformed")
        assert await lab.count("acme_orders") == 1

    labs.run(scenario, settings=settings)


def test_ten_thousand_identifiers_are_malformed_even_where_the_body_may_be_large(labs: Labs) -> None:
    from certloom.settings.schema import Limits

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await client.order(*[f"h{n}.example.com" for n in range(10_000)])
        assert (answer.status, answer.type) == (400, "malformed")
        assert await lab.count("acme_authorizations") == 0

    labs.run(scenario, settings=Settings(limits=Limits(body_bytes=10_000_000)))


def test_times_are_granted_exactly_or_refused(labs: Labs) -> None:
    # RFC 8555 section 7.4: MUST NOT issue other than what is asked for.
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        # The lab's clock stands at 2027-01-15T08:00:00Z.
        times = {"notBefore": "2027-01-15T08:00:00Z", "notAfter": "2027-02-01T10:30:00.5+02:00"}
        done, certificate = await client.certificate("a.example.com", **times)
        assert done.json["notBefore"] == "2027-01-15T08:00:00Z"
        assert done.json["notAfter"] == "2027-02-01T08:30:00Z"
        assert certificate.not_valid_before_utc.isoformat() == "2027-01-15T08:00:00+00:00"
        assert certificate.not_valid_after_utc.isoformat() == "2027-02-01T08:30:00+00:00"
        for bad in (
            {"notAfter": "2047-01-15T08:00:00Z"},
            {"notAfter": "2020-01-15T08:00:00Z"},
            {"notBefore": "2020-01-15T08:00:00Z"},
            {"notBefore": "2040-01-15T08:00:00Z"},
            {"notBefore": "2027-02-15T08:00:00Z", "notAfter": "2027-02-01T08:00:00Z"},
            {"notBefore": "0001-01-01T00:00:00Z"},
            {"notAfter": "tomorrow"},
            {"notAfter": "2027-02-01"},
            {"notAfter": "2027-02-01T08:00:00"},
            {"notAfter": "2027-13-01T08:00:00Z"},
            {"notAfter": "9999-12-31T23:59:59-23:59"},
            {"notAfter": 5},
            {"notAfter": "x" * 5000},
        ):
            answer = await client.order("b.example.com", **bad)
            assert (answer.status, answer.type) == (400, "malformed"), bad

    labs.run(scenario)


def test_an_order_of_another_account_is_not_shown(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client, other = await lab.client().registered(), await lab.client().registered()
        order = await client.order("a.example.com")
        csr = {"csr": "AAAA"}
        for url, payload in (
            (order.location, None),
            (order.json["finalize"], csr),
            (order.json["authorizations"][0], None),
            (order.location.replace("/order/", "/cert/"), None),
            (order.json["authorizations"][0].replace("/authz/", "/chall/") + "/http-01", {}),
        ):
            answer = await other.post(url, payload)
            assert (answer.status, answer.type) == (403, "unauthorized")

    labs.run(scenario)


def test_a_fetch_has_the_empty_payload_and_not_an_empty_object(labs: Labs) -> None:
    # RFC 8555 section 6.3
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        for url in (
            order.location,
            order.location.replace("/order/", "/cert/"),
            client.account.replace("/account/", "/orders/"),
            client.url("directory"),
            client.url("new-nonce"),
        ):
            answer = await client.post(url, {})
            assert (answer.status, answer.type) == (400, "malformed")

    labs.run(scenario)


def test_an_order_expires_and_then_is_invalid(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        lab.clock.advance(86_400)
        client.nonce = ""
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert (await client.post(order.json["authorizations"][0])).json["status"] == "expired"
        answer = await client.finalize(order, make_csr(["a.example.com"]))
        assert (answer.status, answer.type) == (403, "orderNotReady")

    labs.run(scenario)


def test_a_valid_order_stays_valid_when_its_time_is_up(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        done, _ = await client.certificate("a.example.com")
        lab.clock.advance(90 * 86_400)
        client.nonce = ""
        later = await client.post(done.location)
        assert later.json["status"] == "valid"
        assert (await client.post(later.json["certificate"])).status == 200

    labs.run(scenario)


def test_a_profile_is_used_and_shown(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        done, certificate = await client.certificate("a.example.com", profile="short")
        assert done.json["profile"] == "short"
        life = certificate.not_valid_after_utc - certificate.not_valid_before_utc
        assert life.days < 7
        answer = await client.order("a.example.com", profile="asked")
        assert (answer.status, answer.type) == (400, "invalidProfile")
        for bad in ("nothing", "x" * 5000):
            assert (await client.order("a.example.com", profile=bad)).type == "invalidProfile"

    labs.run(scenario)


def test_a_profile_that_is_not_for_these_identifiers_is_invalid(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await client.order("192.0.2.1", profile="names-only")
        assert (answer.status, answer.type) == (400, "invalidProfile")
        # Where the server chose the profile, the identifier is what does not fit.
        answer = await client.order("192.0.2.1")
        assert (answer.status, answer.type) == (400, "unsupportedIdentifier")

    labs.run(scenario, web=msgspec.structs.replace(WEB, profiles=("names-only", "tls-server")))


def test_names_outside_the_policy_are_rejected_and_each_is_named(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        answer = await client.order("a.forbidden.example", "ok.example.com", "*.forbidden.example")
        assert (answer.status, answer.type) == (400, "rejectedIdentifier")
        named = [cause["identifier"]["value"] for cause in answer.json["subproblems"]]
        assert named == ["a.forbidden.example", "*.forbidden.example"]
        assert await lab.count("acme_orders") == 0

    labs.run(scenario)


def test_a_profile_that_was_withdrawn_is_invalid_at_finalize(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com", profile="short")
        await client.prove(order)
        await lab.put_channel(msgspec.structs.replace(WEB, profiles=("tls-server",)))
        answer = await client.finalize(order, make_csr(["a.example.com"]))
        assert (answer.status, answer.type) == (400, "invalidProfile")
        assert await lab.count("certificates") == 0

    labs.run(scenario)


def test_open_orders_of_an_account_are_bounded(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        orders = [await client.order(f"a{n}.example.com") for n in range(3)]
        answer = await client.order("b.example.com")
        assert (answer.status, answer.type) == (429, "rateLimited")
        assert int(answer.header("retry-after") or 0) > 0
        assert answer.link("help") == "https://ca.example/help"
        # A finalized order is not open any more.
        await client.prove(orders[0])
        assert (await client.finalize(orders[0], make_csr(["a0.example.com"]))).status == 200
        assert (await client.order("b.example.com")).status == 201
        # Nor is one that failed.
        from certloom.validation import ValidationFailed

        lab.network.always = ValidationFailed("unauthorized", "no")
        await client.prove(orders[1])
        assert (await client.order("c.example.com")).status == 201
        assert (await client.order("d.example.com")).type == "rateLimited"
        # Each account has its own bound.
        other = await lab.client().registered()
        assert (await other.order("b.example.com")).status == 201

    acme = ACME(orders_open_per_account=3, website="https://ca.example/help")
    labs.run(scenario, settings=Settings(acme=acme))


def test_orders_of_an_account_are_limited_in_time(labs: Labs) -> None:
    channel = msgspec.structs.replace(WEB, orders_per_account=RateLimit(count=2, seconds=100))

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        assert (await client.order("a.example.com")).status == 201
        lab.clock.advance(40)
        assert (await client.order("a.example.com")).status == 201
        answer = await client.order("a.example.com")
        assert (answer.status, answer.type, answer.header("retry-after")) == (429, "rateLimited", "60")
        lab.clock.advance(59)
        assert (await client.order("a.example.com")).status == 429
        lab.clock.advance(1)
        assert (await client.order("a.example.com")).status == 201
        assert (await client.order("a.example.com")).header("retry-after") == "40"

    labs.run(scenario, web=channel)


def test_new_accounts_of_an_address_are_limited_in_time(labs: Labs) -> None:
    channel = msgspec.structs.replace(WEB, accounts_per_address=RateLimit(count=2, seconds=100))

    async def scenario(lab: Lab) -> None:
        for _ in range(2):
            assert (await lab.client().register(address="2001:db8::1")).status == 201
        client = lab.client()
        answer = await client.register(address="2001:db8::2:3")
        assert (answer.status, answer.type, answer.header("retry-after")) == (429, "rateLimited", "100")
        assert (await client.register(address="2001:db8:0:1::1")).status == 201
        assert (await lab.client().register(address="192.0.2.1")).status == 201
        # Finding an account is not making one.
        assert (await client.register(address="2001:db8::1")).status == 200
        lab.clock.advance(100)
        assert (await lab.client().register(address="2001:db8::1")).status == 201

    labs.run(scenario, web=channel)


def test_failed_validations_of_an_account_are_limited_in_time(labs: Labs) -> None:
    from certloom.validation import ValidationFailed

    channel = msgspec.structs.replace(WEB, failed_validations_per_account=RateLimit(count=2, seconds=100))

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        lab.network.always = ValidationFailed("unauthorized", "no")
        for name in ("a.example.com", "b.example.com"):
            await client.prove(await client.order(name))
        answer = await client.order("c.example.com")
        assert (answer.status, answer.type) == (429, "rateLimited")
        identifier = {"identifier": {"type": "dns", "value": "c.example.com"}}
        assert (await client.post(client.url("new-authz"), identifier)).type == "rateLimited"
        lab.clock.advance(100)
        assert (await client.order("c.example.com")).status == 201

    labs.run(scenario, web=channel)
