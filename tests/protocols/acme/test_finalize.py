"""Finalizing (RFC 8555 sections 7.4 and 11.1)."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from certloom.authorities.base import AuthorityUnavailable
from certloom.enrollment.errors import Refused, Unavailable
from certloom.policy.decisions import Reason
from tests.protocols.acme.lab import Answer, Client, Lab, Labs, make_csr
from tests.protocols.acme.signing import b64


async def ready(client: Client, *names: str) -> Answer:
    order = await client.order(*names)
    await client.prove(order)
    return order


def test_finalizing_is_answered_at_once_with_200_valid_location_and_certificate(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        done = await client.finalize(order, make_csr(["a.example.com"]))
        assert (done.status, done.json["status"], done.location) == (200, "valid", order.location)
        assert done.header("retry-after") is None
        assert done.json == (await client.post(order.location)).json
        assert (await client.post(done.json["certificate"])).status == 200

    labs.run(scenario)


def test_the_same_csr_again_gets_the_order_and_no_second_certificate(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        csr = make_csr(["a.example.com"])
        first = await client.finalize(order, csr)
        again = await client.finalize(order, csr)
        assert (again.status, again.location, again.body) == (200, order.location, first.body)
        assert await lab.count("certificates") == 1

    labs.run(scenario)


def test_another_csr_after_valid_is_order_not_ready(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        await client.finalize(order, make_csr(["a.example.com"]))
        for csr in (make_csr(["a.example.com"]), b"junk", b""):
            answer = await client.finalize(order, csr)
            assert (answer.status, answer.type) == (403, "orderNotReady")
        assert await lab.count("certificates") == 1

    labs.run(scenario)


def test_an_order_that_is_pending_is_not_ready(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com")
        answer = await client.finalize(order, make_csr(["a.example.com"]))
        assert (answer.status, answer.type) == (403, "orderNotReady")
        assert await lab.count("enrolment_requests") == 0

    labs.run(scenario)


def test_two_finalizations_at_once_make_one_certificate(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        csr, other = make_csr(["a.example.com"]), make_csr(["a.example.com"])
        bodies = []
        for der in (csr, csr, csr, other):
            client.nonce = ""
            bodies.append(await client.sign(order.json["finalize"], {"csr": b64(der)}))
        answers = await asyncio.gather(
            *[client.request("POST", order.json["finalize"], body) for body in bodies]
        )
        good = [a for a in answers if a.status == 200]
        assert len(good) in (1, 3)
        assert {a.type for a in answers if a.status != 200} == {"orderNotReady"}
        assert len({a.json["certificate"] for a in good}) == 1
        assert await lab.count("certificates") == 1
        assert (await client.finalize(order, csr if len(good) == 3 else other)).status == 200

    labs.run(scenario)


@pytest.mark.parametrize(
    ("ordered", "requested"),
    [
        (["a.example.com"], ["b.example.com"]),
        (["a.example.com"], ["a.example.com", "b.example.com"]),
        (["a.example.com", "b.example.com"], ["a.example.com"]),
        (["*.example.com"], ["a.example.com"]),
        (["a.example.com"], ["*.example.com"]),
        (["192.0.2.1"], ["192.0.2.2"]),
        (["a.example.com"], []),
    ],
)
def test_csr_names_must_be_the_orders_names(labs: Labs, ordered: list[str], requested: list[str]) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, *ordered)
        answer = await client.finalize(order, make_csr(requested))
        assert (answer.status, answer.type) == (400, "badCSR")
        assert (await client.post(order.location)).json["status"] == "ready"
        done = await client.finalize(order, make_csr(ordered))
        assert done.json["status"] == "valid"

    labs.run(scenario)


@pytest.mark.parametrize(
    ("ordered", "names", "common_name"),
    [
        (["a.example.com"], ["a.example.com"], "a.example.com"),
        (["a.example.com"], ["a.example.com"], "A.Example.COM"),
        (["a.example.com"], [], "a.example.com"),
        (["a.example.com", "b.example.com"], ["a.example.com"], "b.example.com"),
        (["192.0.2.1"], ["192.0.2.1"], "192.0.2.1"),
        (["192.0.2.1"], [], "192.0.2.1"),
        (["2001:db8::1"], ["2001:db8::1"], "2001:DB8:0::1"),
        (["*.example.com"], ["*.example.com"], "*.example.com"),
    ],
)
def test_a_common_name_counts_as_a_name(
    labs: Labs, ordered: list[str], names: list[str], common_name: str
) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, *ordered)
        done = await client.finalize(order, make_csr(names, common_name=common_name))
        assert (done.status, done.json["status"]) == (200, "valid")
        certificate = x509.load_pem_x509_certificate((await client.post(done.json["certificate"])).body)
        alt = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        found = [*alt.get_values_for_type(x509.DNSName), *map(str, alt.get_values_for_type(x509.IPAddress))]
        assert sorted(found) == sorted(ordered)
        # certbot 5.8 raises an error after issuance when an address stands in the subject.
        assert not [a for a in certificate.subject if str(a.value)[:1].isdigit()]

    labs.run(scenario)


@pytest.mark.parametrize("common_name", ["other.example.com", "192.0.2.9", "Our Web Server", "a_b", "*"])
def test_a_common_name_that_is_not_in_the_order_is_refused(labs: Labs, common_name: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        answer = await client.finalize(order, make_csr(["a.example.com"], common_name=common_name))
        assert (answer.status, answer.type) == (400, "badCSR")

    labs.run(scenario)


def test_the_account_key_cannot_be_certified(labs: Labs) -> None:
    # RFC 8555 section 11.1
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        answer = await client.finalize(order, make_csr(["a.example.com"], key=client.key))
        assert (answer.status, answer.type) == (400, "badCSR")
        assert await lab.count("certificates") == await lab.count("enrolment_requests") == 0

    labs.run(scenario)


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        rsa.generate_private_key(3, 2048),
        ec.generate_private_key(ec.SECP256K1()),
    ],
    ids=["rsa-1024", "rsa-e3", "secp256k1"],
)
def test_weak_keys_are_bad_csrs(labs: Labs, key: Any) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        answer = await client.finalize(order, make_csr(["a.example.com"], key=key))
        assert (answer.status, answer.type) == (400, "badCSR")
        assert (await client.post(order.location)).json["status"] == "ready"

    labs.run(scenario)


def test_a_key_type_that_the_profile_does_not_allow_is_a_bad_csr(labs: Labs) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed448

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        csr = make_csr(["a.example.com"], key=ed448.Ed448PrivateKey.generate())
        answer = await client.finalize(order, csr)
        assert (answer.status, answer.type) == (400, "badCSR")
        csr = make_csr(["a.example.com"], key=ed25519.Ed25519PrivateKey.generate())
        assert (await client.finalize(order, csr)).json["status"] == "valid"

    labs.run(scenario)


def test_a_key_that_was_revoked_as_compromised_is_a_bad_csr(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        key = ec.generate_private_key(ec.SECP256R1())
        order = await ready(client, "a.example.com")
        done = await client.finalize(order, make_csr(["a.example.com"], key=key))
        pem = (await client.post(done.json["certificate"])).body
        from cryptography.hazmat.primitives.serialization import Encoding

        der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
        revoked = await client.post(client.url("revoke-cert"), {"certificate": b64(der), "reason": 1})
        assert revoked.status == 200
        order = await client.order("a.example.com")
        answer = await client.finalize(order, make_csr(["a.example.com"], key=key))
        assert (answer.status, answer.type) == (400, "badCSR")

    labs.run(scenario)


@pytest.mark.parametrize(
    ("payload", "type"),
    [
        ({}, "malformed"),
        ({"csr": None}, "malformed"),
        ({"csr": 5}, "malformed"),
        ({"csr": "AA=="}, "malformed"),
        ({"csr": "A+/A"}, "malformed"),
        ({"csr": "-----BEGIN CERTIFICATE REQUEST-----"}, "malformed"),
        ({"csr": ""}, "badCSR"),
        ({"csr": "AAAA"}, "badCSR"),
        ({"csr": b64(b"\x30\x80" * 4000)}, "badCSR"),
        ({"csr": b64(b"\x30\x84\xff\xff\xff\xff")}, "badCSR"),
        ({"csr": b64(b"\x30" * 70_000)}, "badCSR"),
        ([], "malformed"),
        (None, "malformed"),
    ],
)
def test_what_is_no_csr(labs: Labs, payload: Any, type: str) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        answer = await client.post(order.json["finalize"], payload)
        assert (answer.status, answer.type) == (400, type)
        assert await lab.count("enrolment_requests") == 0

    labs.run(scenario)


def test_a_csr_whose_signature_is_wrong_is_bad(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        csr = bytearray(make_csr(["a.example.com"]))
        csr[-1] ^= 1
        assert (await client.finalize(order, bytes(csr))).type == "badCSR"

    labs.run(scenario)


def test_must_staple_cannot_be_promised(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        staple = (x509.TLSFeature([x509.TLSFeatureType.status_request]), False)
        answer = await client.finalize(order, make_csr(["a.example.com"], extensions=(staple,)))
        assert (answer.status, answer.type) == (400, "badCSR")

    labs.run(scenario)


def test_extensions_that_openssl_puts_into_csrs_do_no_harm(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        extensions = (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]), False),
        )
        done = await client.finalize(order, make_csr(["a.example.com"], extensions=extensions))
        assert done.json["status"] == "valid"

    labs.run(scenario)


def test_a_csr_that_asks_to_be_a_ca_gets_a_leaf(labs: Labs) -> None:
    """Profiles say what a certificate may do, and no profile of a channel says that it may be a CA."""

    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        extensions = (
            (x509.BasicConstraints(ca=True, path_length=3), True),
            (x509.KeyUsage(True, False, True, False, False, True, True, False, False), True),
            (x509.NameConstraints([x509.DNSName("")], None), True),
        )
        done = await client.finalize(order, make_csr(["a.example.com"], extensions=extensions))
        assert done.json["status"] == "valid"
        chain = await client.post(done.json["certificate"])
        leaf = x509.load_pem_x509_certificates(chain.body)[0]
        assert leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.key_cert_sign, usage.crl_sign) == (False, False)
        with pytest.raises(x509.ExtensionNotFound):
            leaf.extensions.get_extension_for_class(x509.NameConstraints)

    labs.run(scenario)


def test_a_request_that_waits_for_a_person_is_processing_until_somebody_agrees(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client("slow").registered()
        order = await ready(client, "a.example.com")
        csr = make_csr(["a.example.com"])
        waiting = await client.finalize(order, csr)
        assert (waiting.status, waiting.json["status"]) == (200, "processing")
        assert waiting.location == order.location
        assert int(waiting.header("retry-after") or 0) > 0
        assert "certificate" not in waiting.json
        polled = await client.post(order.location)
        assert (polled.json, polled.header("retry-after")) == (waiting.json, waiting.header("retry-after"))
        # The same CSR again is the same question; another one is not.
        again = await client.finalize(order, csr)
        assert (again.status, again.json["status"], again.location) == (200, "processing", order.location)
        assert (await client.finalize(order, make_csr(["a.example.com"]))).type == "orderNotReady"
        early = await client.post(order.location.replace("/order/", "/cert/"))
        assert (early.status, early.type) == (404, "malformed")
        (request,) = await lab.store.read(lambda tx: tx.all("SELECT id FROM enrolment_requests"))
        await lab.decide(request[0], "approve")
        for _ in range(200):
            done = await client.post(order.location)
            if done.json["status"] == "valid":
                break
            await asyncio.sleep(0.01)
        assert (await client.post(done.json["certificate"])).status == 200
        assert (await client.finalize(order, csr)).json["status"] == "valid"

    labs.run(scenario)


def test_deactivating_the_account_withdraws_what_waits_for_a_person(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client("slow").registered()
        await client.finalize(await ready(client, "a.example.com"), make_csr(["a.example.com"]))
        assert (await client.post(client.account, {"status": "deactivated"})).status == 200
        ((id, state),) = await lab.store.read(lambda tx: tx.all("SELECT id, state FROM enrolment_requests"))
        assert state == "cancelled"
        with pytest.raises(Refused):
            await lab.decide(id, "approve")

    labs.run(scenario)


def test_a_request_that_was_denied_makes_the_order_invalid_and_says_why(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client("slow").registered()
        order = await ready(client, "a.example.com")
        csr = make_csr(["a.example.com"])
        await client.finalize(order, csr)
        (request,) = await lab.store.read(lambda tx: tx.all("SELECT id FROM enrolment_requests"))
        await lab.decide(request[0], "deny", "not on my watch")
        denied = (await client.post(order.location)).json
        assert denied["status"] == "invalid"
        assert denied["error"]["type"] == "urn:ietf:params:acme:error:unauthorized"
        assert denied["error"]["detail"] == "not on my watch"
        assert (await client.finalize(order, csr)).type == "orderNotReady"

    labs.run(scenario)


def test_an_authority_that_cannot_answer_leaves_the_order_ready(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        csr = make_csr(["a.example.com"])
        authority = lab.books.authority("ca")

        async def gone(_: Any) -> Any:
            raise AuthorityUnavailable("hsm-gone", "the HSM does not answer")

        issue = authority.issue
        authority.issue = gone  # type: ignore[method-assign,assignment]  # a fault to be answered
        answer = await client.finalize(order, csr)
        assert (answer.status, answer.type) == (503, "serverInternal")
        assert int(answer.header("retry-after") or 0) > 0
        assert (await client.post(order.location)).json["status"] == "ready"
        authority.issue = issue  # type: ignore[method-assign]
        assert (await client.finalize(order, csr)).json["status"] == "valid"

    labs.run(scenario)


def test_unavailable_says_when_to_ask_again() -> None:
    from certloom.protocols.acme.problems import of_enrollment

    problem = of_enrollment(Unavailable(Reason("x", "later"), retry_after=7))
    assert (problem.status, problem.type, problem.retry_after) == (503, "serverInternal", 7)


def test_an_authorization_deactivated_while_the_certificate_is_made_stops_it(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await ready(client, "a.example.com")
        authority = lab.books.authority("ca")
        issue = authority.issue

        async def slowly(contents: Any) -> Any:
            issued = await issue(contents)
            other = lab.client(key=client.key)
            other.account = client.account
            gone = await other.post(order.json["authorizations"][0], {"status": "deactivated"})
            assert gone.json["status"] == "deactivated"
            return issued

        authority.issue = slowly  # type: ignore[method-assign]  # to be overtaken
        answer = await client.finalize(order, make_csr(["a.example.com"]))
        assert (answer.status, answer.type) == (403, "orderNotReady")
        assert await lab.count("certificates") == await lab.count("enrolment_requests") == 0

    labs.run(scenario)


def test_who_asked_and_for_what_is_in_the_inventory(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        await client.certificate("a.example.com")
        row = await lab.store.read(lambda tx: tx.one("SELECT requester, profile FROM certificates"))
        assert row == ("acme-account:" + client.account.rpartition("/")[2], "tls-server")

    labs.run(scenario)
