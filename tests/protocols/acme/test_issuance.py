"""A certificate from start to end."""

from __future__ import annotations

from cryptography import x509

from tests.protocols.acme.lab import Lab, Labs, make_csr


def test_a_certificate_is_issued(labs: Labs) -> None:
    async def scenario(lab: Lab) -> None:
        client = await lab.client().registered()
        order = await client.order("a.example.com", "b.example.com")
        assert order.status == 201
        assert order.json["status"] == "pending"
        await client.prove(order)
        ready = await client.post(order.location)
        assert ready.json["status"] == "ready"
        done = await client.finalize(order, make_csr(["b.example.com", "a.example.com"]))
        assert (done.status, done.json["status"], done.location) == (200, "valid", order.location)
        chain = await client.post(done.json["certificate"])
        assert chain.header("content-type") == "application/pem-certificate-chain"
        leaf, issuer = x509.load_pem_x509_certificates(chain.body)
        leaf.verify_directly_issued_by(issuer)
        assert chain.link("alternate") == done.json["certificate"] + "/1"

    labs.run(scenario)
