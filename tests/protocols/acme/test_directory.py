"""Directory, nonces over HTTP, methods and addresses (RFC 8555 sections 6.3, 6.5, 7.1.1 and 7.2)."""

from __future__ import annotations

import json

import msgspec

from certloom.policy.channels import ACMEChannel
from certloom.settings.schema import ACME, Settings
from tests.protocols.acme.lab import BASE, WEB, Lab, Labs


def test_the_directory_lists_every_resource_of_its_channel(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        answer = await client.request("GET", client.url("directory"))
        assert answer.status == 200
        assert answer.header("content-type") == "application/json"
        root = f"{BASE}/acme/web/"
        assert answer.json == {
            "newNonce": root + "new-nonce",
            "newAccount": root + "new-account",
            "newOrder": root + "new-order",
            "newAuthz": root + "new-authz",
            "revokeCert": root + "revoke-cert",
            "keyChange": root + "key-change",
            "renewalInfo": root + "renewal-info",
            "meta": {"profiles": {"tls-server": "TLS servers", "short": "Short"}},
        }

    labs.run(scenario)


def test_meta_says_what_the_channel_asks_for(labs: Labs) -> None:
    channel = ACMEChannel(
        name="web",
        profiles=("short",),
        profile_descriptions={"short": "https://ca.example/profiles#short"},
        challenges=("http-01", "dns-persist-01"),
        eab_required=True,
        caa=True,
        caa_identities=("ca.example",),
        new_authz=False,
    )
    settings = Settings(acme=ACME(terms_of_service="https://ca.example/terms", website="https://ca.example"))

    async def scenario(lab: Lab) -> None:
        client = lab.client()
        directory = (await client.request("GET", client.url("directory"))).json
        assert "newAuthz" not in directory
        assert directory["meta"] == {
            "termsOfService": "https://ca.example/terms",
            "website": "https://ca.example",
            "caaIdentities": ["ca.example"],
            "externalAccountRequired": True,
            "profiles": {"short": "https://ca.example/profiles#short"},
            "issuerDomainNames": ["ca.example"],
            "accountHashPrefix": f"{BASE}/acme/web/account-hash/",
        }
        await client.registered_by_eab(await lab.eab())
        assert (await client.post(client.url("new-authz"), {})).status == 404

    labs.run(scenario, web=channel, settings=settings)


def test_urls_follow_the_origin_that_is_asked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        for base in ("https://localhost:8443", "http://127.0.0.1:9080"):
            client = lab.client(base=base)
            directory = (await client.request("GET", client.url("directory"))).json
            assert directory["newOrder"] == f"{base}/acme/web/new-order"
            await client.registered()
            assert client.account.startswith(f"{base}/acme/web/account/")
            order = await client.order("a.example.com")
            for url in (order.location, order.json["finalize"], *order.json["authorizations"]):
                assert url.startswith(f"{base}/acme/web/")

    labs.run(scenario)


def test_directory_and_new_nonce_can_be_had_by_get_head_and_post_as_get(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        got = await client.request("GET", client.url("directory"))
        head = await client.request("HEAD", client.url("directory"))
        assert (head.status, head.body, head.header("content-length")) == (200, b"", str(len(got.body)))
        assert (await client.post(client.url("directory"))).body == got.body
        assert (await client.post(client.url("new-nonce"))).status == 204
        # RFC 8555 section 6.5.1: only answers to newNonce and to POST carry nonces.
        assert got.header("replay-nonce") is None

    labs.run(scenario)


def test_new_nonce_answers_head_with_200_and_get_with_204(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        nonces = set()
        for method, status in (("HEAD", 200), ("GET", 204)):
            answer = await client.request(method, client.url("new-nonce"))
            assert (answer.status, answer.body) == (status, b"")
            assert answer.header("cache-control") == "no-store"
            assert answer.link("index") == client.url("directory")
            nonces.add(answer.header("replay-nonce"))
        assert len(nonces) == 2
        for nonce in nonces:
            answer = await client.post(client.url("new-account"), {}, by_key=True, nonce=nonce)
            assert answer.status in (200, 201)

    labs.run(scenario)


def test_get_on_other_resources_is_405_malformed(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        for url in (
            client.url("new-account"),
            client.url("new-order"),
            client.url("revoke-cert"),
            client.account,
            order.location,
            order.json["finalize"],
            order.json["authorizations"][0],
        ):
            for method in ("GET", "PUT", "DELETE", "OPTIONS"):
                answer = await client.request(method, url)
                assert (answer.status, answer.type, answer.header("allow")) == (405, "malformed", "POST")
        for method in ("PUT", "DELETE"):
            assert (await client.request(method, client.url("directory"))).status == 405

    labs.run(scenario)


def test_unknown_addresses_are_404_malformed(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        for rest in (
            "",
            "nothing",
            "order",
            "order/",
            "order/x/y",
            "order/00000000000000000000000000000000",
            "authz/00000000000000000000000000000000",
            "chall/x",
            "chall/00000000000000000000000000000000/http-01",
            "finalize/x",
            "cert/x",
            "cert/x/1/2",
            "directory/x",
            "new-order/x",
            "%6eew-order",
            "acme/../new-order",
        ):
            payload = {"csr": "AAAA"} if rest.startswith("finalize") else None
            answer = await client.post(client.url(rest), payload)
            assert (answer.status, answer.type) == (404, "malformed"), rest
        for path in ("", "x", "missing/directory", "web", "web/nothing", "WEB/directory"):
            answer = await client.request("GET", f"{BASE}/acme/{path}")
            assert (answer.status, answer.type) == (404, "malformed"), path

    labs.run(scenario)


def test_other_content_types_are_415(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        for type in (None, "", "application/json", "application/x-www-form-urlencoded", "text/plain"):
            body = await client.sign(client.url("new-account"), {}, by_key=True)
            answer = await client.request("POST", client.url("new-account"), body, content_type=type)
            assert (answer.status, answer.type) == (415, "malformed")
            # The nonce was not used up: it never was looked at.
        body = await client.sign(client.url("new-account"), {}, by_key=True)
        parameters = "Application/JOSE+JSON; charset=utf-8"
        answer = await client.request("POST", client.url("new-account"), body, content_type=parameters)
        assert answer.status == 201

    labs.run(scenario)


def test_bodies_over_the_limit_are_413_however_they_come(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = lab.client()
        most = lab.settings.limits.body_bytes
        for chunks in (1, 2, 50):
            answer = await client.request("POST", client.url("new-account"), b"x" * (most + 1), chunks=chunks)
            assert (answer.status, answer.type) == (413, "malformed")
        body = await client.sign(client.url("new-account"), {"junk": "x" * 1000}, by_key=True)
        assert (await client.request("POST", client.url("new-account"), body, chunks=9)).status == 201

    labs.run(scenario)


def test_ids_cannot_be_guessed(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        orders = [await client.order("a.example.com") for _ in range(3)]
        ids = [o.location.rpartition("/")[2] for o in orders]
        # All of one moment, they share the time they begin with; the rest is 80 bits of randomness.
        assert len({i[:12] for i in ids}) == 1
        assert len({i[12:] for i in ids}) == 3
        assert all(len(i[12:]) * 4 >= 80 for i in ids)

    labs.run(scenario)


def test_an_unexpected_failure_is_server_internal_with_the_request_id(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()

        async def broken(*_: object) -> None:
            raise RuntimeError("secret detail")

        lab.store.read = broken  # type: ignore[method-assign,assignment]  # a fault to be answered
        answer = await client.order("a.example.com")
        assert (answer.status, answer.type) == (500, "serverInternal")
        assert "trace-1" in answer.json["detail"]
        assert "secret" not in json.dumps(answer.json)
        assert answer.header("replay-nonce")

    labs.run(scenario)


def test_a_store_that_cannot_answer_is_503_and_says_when_to_come_back(labs: Labs) -> None:
    from certloom.store.base import StoreError

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()

        async def gone(*_: object) -> None:
            raise StoreError("disk full")

        lab.store.write = gone  # type: ignore[method-assign,assignment]  # a fault to be answered
        answer = await client.order("a.example.com")
        assert (answer.status, answer.type) == (503, "serverInternal")
        assert answer.header("retry-after")

    labs.run(scenario)


def test_a_channel_that_goes_away_is_404(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client("other").registered()
        lab.books._reading.channels.pop(("acme", "other"))
        lab.channels.pop("other")
        assert (await client.request("GET", client.url("directory"))).status == 404

    labs.run(scenario)


def test_a_profile_that_is_gone_is_not_advertised(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        await lab.put_channel(msgspec.structs.replace(WEB, profiles=("tls-server", "never-was")))
        client = lab.client()
        directory = (await client.request("GET", client.url("directory"))).json
        assert list(directory["meta"]["profiles"]) == ["tls-server"]

    labs.run(scenario)
