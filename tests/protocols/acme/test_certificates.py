"""Certificate download (RFC 8555 section 7.4.2)."""

from __future__ import annotations

import ssl

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki.pem import to_pem
from tests.protocols.acme.lab import Lab, Labs


def test_the_chain_leads_from_the_leaf_to_below_the_root_and_alternates_are_linked(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        done, leaf = await client.certificate("a.example.com")
        url = done.json["certificate"]
        first = await client.post(url)
        assert first.header("content-type") == "application/pem-certificate-chain"
        found = x509.load_pem_x509_certificates(first.body)
        assert [c.subject.rfc4514_string() for c in found[1:]] == ["CN=Lab CA"]
        found[1].verify_directly_issued_by(x509.load_der_x509_certificate(lab.root))
        assert first.link("alternate") == url + "/1"
        second = await client.post(url + "/1")
        other = x509.load_pem_x509_certificates(second.body)
        assert other[0] == leaf
        leaf.verify_directly_issued_by(other[1])
        assert other[1] != found[1]
        assert second.link("alternate") == url

    labs.run(scenario)


@pytest.mark.parametrize("which", ["0", "2", "x", "-1", "01", "1 ", "9" * 50])
def test_other_chains_do_not_exist(labs: Labs, which: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        done, _ = await client.certificate("a.example.com")
        answer = await client.post(f"{done.json['certificate']}/{which}")
        assert (answer.status, answer.type) == (404, "malformed")

    labs.run(scenario)


def test_there_is_nothing_to_download_before_the_order_is_valid(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        answer = await client.post(order.location.replace("/order/", "/cert/"))
        assert (answer.status, answer.type) == (404, "malformed")

    labs.run(scenario)


def test_the_leaf_is_what_the_inventory_has(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        _, leaf = await client.certificate("a.example.com")
        row = await lab.store.read(lambda tx: tx.one("SELECT der FROM certificates"))
        assert row == (leaf.public_bytes(Encoding.DER),)

    labs.run(scenario)


@given(st.binary(min_size=1, max_size=300))
def test_pem_is_what_other_readers_read(der: bytes) -> None:
    text = to_pem(der).decode()
    assert ssl.PEM_cert_to_DER_cert(text) == der
    assert text == ssl.DER_cert_to_PEM_cert(der)
