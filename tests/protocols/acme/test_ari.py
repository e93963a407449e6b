"""ACME Renewal Information and ``replaces`` (RFC 9773)."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certloom.audit import SYSTEM
from certloom.inventory import ledger
from certloom.protocols.acme.ari import BadCertID, parse_certificate_id
from certloom.validation import ValidationFailed
from tests.protocols.acme.lab import WEB, Client, Lab, Labs, make_csr
from tests.protocols.acme.signing import b64

EXPLAINED = msgspec.structs.replace(WEB, explanation_url="https://ca.example/incident")


def certificate_id(certificate: x509.Certificate) -> str:
    aki = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert aki.key_identifier is not None
    length = certificate.serial_number.bit_length() // 8 + 1
    return f"{b64(aki.key_identifier)}.{b64(certificate.serial_number.to_bytes(length, 'big'))}"


def when(text: str) -> int:
    assert text.endswith("Z")
    return int(datetime.fromisoformat(text).timestamp())


async def window(client: Client, certificate: x509.Certificate) -> dict[str, Any]:
    url = client.url("renewal-info/" + certificate_id(certificate))
    answer = await client.request("GET", url)
    assert answer.status == 200
    assert answer.header("content-type") == "application/json"
    assert 60 <= int(answer.header("retry-after") or 0) <= 86_400
    assert answer.header("replay-nonce") is None
    assert (await client.post(url)).body == answer.body
    info: dict[str, Any] = answer.json
    assert when(info["suggestedWindow"]["end"]) > when(info["suggestedWindow"]["start"])
    return info


async def mark(lab: Lab, id: int = 1) -> None:
    await lab.store.write(lambda tx: ledger.mark_for_replacement(tx, lab.clock, id, "leak", SYSTEM))


def test_a_fresh_certificate_is_to_be_renewed_late_in_its_life(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        info = await window(client, certificate)
        assert "explanationURL" not in info
        start, end = when(info["suggestedWindow"]["start"]), when(info["suggestedWindow"]["end"])
        life = 90 * 86_400
        issued = lab.clock.now()
        # Never in the past for a new certificate: Caddy would renew for ever.
        assert issued + life / 2 < start < end < issued + life

    labs.run(scenario, web=EXPLAINED)


def test_the_window_moves_to_now_for_what_is_marked_or_revoked_and_not_for_its_successor(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        await mark(lab)
        info = await window(client, certificate)
        assert when(info["suggestedWindow"]["end"]) <= lab.clock.now()
        assert info["explanationURL"] == "https://ca.example/incident"
        _, successor = await client.certificate("a.example.com", replaces=certificate_id(certificate))
        fresh = await window(client, successor)
        assert when(fresh["suggestedWindow"]["start"]) > lab.clock.now()
        der = successor.public_bytes(Encoding.DER)
        await client.post(client.url("revoke-cert"), {"certificate": b64(der)})
        assert when((await window(client, successor))["suggestedWindow"]["end"]) <= lab.clock.now()

    labs.run(scenario, web=EXPLAINED)


def test_nobody_needs_an_account_to_ask(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        url = client.url("renewal-info/" + certificate_id(certificate))
        assert (await lab.client().request("GET", url)).status == 200
        assert (await lab.client().request("HEAD", url)).status == 200

    labs.run(scenario)


def test_unknown_certificates_are_404_and_bad_identifiers_400(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        aki, _, serial = certificate_id(certificate).partition(".")
        for id, status in (
            (f"{aki}.{b64(bytes(range(1, 17)))}", 404),
            (f"{b64(b'x' * 20)}.{serial}", 404),
            ("", 400),
            (aki, 400),
            (f"{aki}.", 400),
            (f".{serial}", 400),
            (f"{aki}.{serial}.", 400),
            (f"{aki}.{serial}=", 400),
            (f"{aki}=.{serial}", 400),
            (f"{aki}.{b64(bytes([0, 1]))}", 400),
            (f"{aki}.{b64(bytes([0x80]))}", 400),
            ("%00.%00", 400),
            ("x" * 10_000, 400),
        ):
            url = client.url(f"renewal-info/{id}")
            answer = await client.request("GET", url)
            assert (answer.status, answer.type) == (status, "malformed"), id
            assert (await client.post(url)).status == status
        assert (await client.request("GET", client.url("renewal-info"))).status == 405

    labs.run(scenario)


def test_the_serial_has_a_leading_zero_only_where_der_has_it() -> None:
    assert parse_certificate_id("AQ.AIA") == (b"\1", b"\x80")
    assert parse_certificate_id("AQ.fw") == (b"\1", b"\x7f")
    assert parse_certificate_id("AQ.AA") == (b"\1", b"\0")
    # The example of RFC 9773 section 4.1.
    aki, serial = parse_certificate_id("aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE")
    assert (aki.hex(), serial.hex()) == ("69885b6b87464041e1b37b847ba0ae2cde01c8d4", "87654321")
    for bad in ("AQ.AAE", "AQ.gA", "AQ.AR", "AR.AQ"):
        with pytest.raises(BadCertID):
            parse_certificate_id(bad)


@given(st.text(max_size=60))
def test_no_text_makes_the_parser_raise_anything_but_its_own_error(text: str) -> None:
    with contextlib.suppress(BadCertID):
        parse_certificate_id(text)


@given(st.binary(min_size=1, max_size=20), st.integers(0, 2**152))
def test_certificate_identifiers_round_trip(aki: bytes, serial: int) -> None:
    value = serial.to_bytes(serial.bit_length() // 8 + 1, "big")
    found = parse_certificate_id(f"{b64(aki)}.{b64(value)}")
    assert (found[0], int.from_bytes(found[1], "big")) == (aki, serial)


def test_replaces_is_shown_and_links_predecessor_to_successor(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com", "b.example.com")
        id = certificate_id(certificate)
        order = await client.order("b.example.com", "c.example.com", replaces=id)
        assert (order.status, order.json["replaces"]) == (201, id)
        assert (await client.post(order.location)).json["replaces"] == id
        await client.prove(order)
        await client.finalize(order, make_csr(["b.example.com", "c.example.com"]))
        row = await lab.store.read(lambda tx: tx.one("SELECT replaced_by FROM certificates WHERE id = 1"))
        assert row == (2,)

    labs.run(scenario)


def test_a_certificate_is_replaced_once(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        id = certificate_id(certificate)
        first = await client.order("a.example.com", replaces=id)
        for _ in range(2):
            answer = await client.order("a.example.com", replaces=id)
            assert (answer.status, answer.type) == (409, "alreadyReplaced")
            done = await client.finalize(first, make_csr(["a.example.com"]))
            assert done.status in (200, 403)
        assert (await client.order("a.example.com")).status == 201

    labs.run(scenario)


def test_an_order_that_came_to_nothing_does_not_count(labs: Labs) -> None:
    # RFC 9773 section 5: "not invalid"
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        id = certificate_id(certificate)
        lab.network.always = ValidationFailed("unauthorized", "no")
        order = await client.order("a.example.com", "new.example.com", replaces=id)
        await client.prove(order)
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert (await client.order("a.example.com", replaces=id)).status == 201
        assert (await client.order("a.example.com", replaces=id)).type == "alreadyReplaced"

    labs.run(scenario)


def test_only_the_same_account_replaces_and_only_with_a_common_name(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client, other = await lab.client().registered(), await lab.client().registered()
        _, certificate = await client.certificate("a.example.com")
        id = certificate_id(certificate)
        answer = await other.order("a.example.com", replaces=id)
        assert (answer.status, answer.type) == (403, "unauthorized")
        answer = await client.order("b.example.com", replaces=id)
        assert (answer.status, answer.type) == (400, "malformed")
        for bad in ("x", "AAAA", id + "=", f"{id.partition('.')[0]}.{b64(bytes(range(1, 17)))}", "x" * 9999):
            answer = await client.order("a.example.com", replaces=bad)
            assert (answer.status, answer.type) == (400, "malformed")
        assert (await client.order("a.example.com", replaces=id)).status == 201

    labs.run(scenario)
