"""CAs below CAs: what their certificates say, and that clients hold the leaves to it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.enrollment.errors import Refused
from certloom.identity.principals import PERMISSIONS, Grant, Principal, Role, holding
from certloom.pki.identifiers import parse_dns
from certloom.pki.keys import generate, spki_of
from certloom.pki.names import parse_name
from certloom.pki.pem import to_pem
from certloom.pki.template import CertificateTemplate
from certloom.server.rooms import Rooms
from certloom.store.base import Tx
from tests.authorities.hierarchies import (
    call,
    chains_of,
    done,
    generation,
    issue,
    put_profile,
    refusal,
    verify,
)
from tests.server.conftest import Installation, either, installation, settings

__all__ = ["either", "installation", "settings"]

POLICY = {
    "name": "policy",
    "subject": "CN=Policy CA,O=Example",
    "issuer": "root",
    "path_length": 1,
    "permitted": ["dns:example.com", "ip:10.0.0.0/8", "email:example.com", "dirname:O=Example"],
    "excluded": ["dns:secret.example.com"],
    "policies": ["1.3.6.1.4.1.99999.1"],
    "cps": "https://cps.example/",
    "extended_key_usage": ["serverAuth", "clientAuth"],
}


async def make_three(rooms: Rooms) -> bytes:
    """Root, policy CA and a CA for leaves; answers the root."""
    await done(rooms, "POST", "/authorities", POLICY)
    await done(
        rooms, "POST", "/authorities", {"name": "web", "subject": "CN=Web CA,O=Example", "issuer": "policy"}
    )
    await put_profile(rooms, "web", "web")
    root = (await generation(rooms, "root", 1)).certificate
    assert root is not None
    return root


def test_a_hierarchy_of_three_is_what_was_declared_and_verifies(either: Installation, tmp_path: Path) -> None:
    async def main(rooms: Rooms) -> None:
        root = await make_three(rooms)
        der = (await generation(rooms, "policy", 1)).certificate
        assert der is not None
        policy = x509.load_der_x509_certificate(der)
        found = policy.extensions
        constraints = found.get_extension_for_class(x509.NameConstraints)
        assert constraints.critical
        assert [str(name.value) for name in constraints.value.permitted_subtrees or []] == [
            "example.com",
            "10.0.0.0/8",
            "example.com",
            "<Name(O=Example)>",
        ]
        assert [name.value for name in constraints.value.excluded_subtrees or []] == ["secret.example.com"]
        assert found.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
        (information,) = found.get_extension_for_class(x509.CertificatePolicies).value
        assert information.policy_identifier.dotted_string == "1.3.6.1.4.1.99999.1"
        assert information.policy_qualifiers == ["https://cps.example/"]
        usages = [u.dotted_string for u in found.get_extension_for_class(x509.ExtendedKeyUsage).value]
        assert usages == ["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"]
        access = found.get_extension_for_class(x509.AuthorityInformationAccess).value
        assert [place.access_location.value for place in access] == [
            "http://pki.test/ocsp/root",
            "http://pki.test/ca/root.crt",
        ]

        leaf = await issue(rooms, "web", "www.example.com")
        (chain,) = chains_of(rooms, leaf)
        assert len(chain) == 2
        assert verify(tmp_path, leaf.der, chain, [root], "-purpose", "sslserver") == ""
        assert "unable to get" in verify(tmp_path, leaf.der, chain[:1], [root])

    either.within(main)


def test_ca_certificates_are_found_and_revoked_like_any_other(either: Installation, tmp_path: Path) -> None:
    async def main(rooms: Rooms) -> None:
        root = await make_three(rooms)
        leaf = await issue(rooms, "web", "www.example.com")
        rows = (await done(rooms, "GET", "/certificates?profile=ca"))["items"]
        assert [row["authority"] for row in rows] == ["policy", "root", "root", "root"]
        shown = await done(rooms, "GET", f"/certificates/{rows[1]['id']}")
        assert shown["subject"] == "CN=Policy CA,O=Example"
        await rooms.crls.refresh()
        await rooms.runner.start()
        try:
            await done(
                rooms, "POST", f"/certificates/{rows[1]['id']}/revoke", {"reason": "cessationOfOperation"}
            )
            for _ in range(100):
                lists = await rooms.store.read(
                    lambda tx: tx.all("SELECT authority, der FROM crls WHERE delta = 0 AND shard = 0")
                )
                crls = {name: x509.load_der_x509_crl(der) for name, der in lists}
                if len(crls["root"]):
                    break
                await asyncio.sleep(0.05)
        finally:
            await rooms.runner.stop(5)
        assert [entry.serial_number for entry in crls["root"]] == [int(rows[1]["serial"], 16)]
        shard = await rooms.store.read(
            lambda tx: tx.all(
                "SELECT der FROM crls WHERE authority IN ('web', 'policy') AND delta = 0 AND shard IN (?, ?)",
                (leaf.crl_shard, int(rows[0]["serial"], 16) % 16),
            )
        )
        (root_crl,) = [der for name, der in lists if name == "root"]
        pem = b"".join(
            x509.load_der_x509_crl(der).public_bytes(Encoding.PEM)
            for der in [*(row[0] for row in shard), root_crl]
        )
        (tmp_path / "crls.pem").write_bytes(pem)
        (chain,) = chains_of(rooms, leaf)
        said = verify(
            tmp_path,
            leaf.der,
            chain,
            [root],
            "-crl_check_all",
            "-extended_crl",
            "-CRLfile",
            str(tmp_path / "crls.pem"),
        )
        assert "certificate revoked" in said

    either.within(main)


def test_who_may_revoke_any_certificate_may_not_revoke_a_cas(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        (row, *_) = (await done(rooms, "GET", "/certificates?profile=ca&authority=root"))["items"]
        path = f"/certificates/{row['id']}/revoke"
        everything_but = frozenset(PERMISSIONS) - {"authority.write"}
        role = Role(name="officer", permissions=everything_but)
        officer = Principal(
            kind="person",
            id="o",
            name="O",
            owner="o",
            held=holding([Grant(role="officer")], {"officer": role}),
        )
        body = {"reason": "cessationOfOperation"}
        status, answer = await call(rooms, "POST", path, body, by=officer)
        assert (status, answer["detail"].split()[4]) == (403, "authority.write")
        assert (await call(rooms, "GET", path.removesuffix("/revoke"), by=officer))[0] == 200
        await done(rooms, "POST", path, body)

    installation.within(main)


@pytest.mark.parametrize("name", ["www.example.org", "a.secret.example.com", "example.com.evil.org"])
def test_names_outside_the_constraints_are_refused_here_and_by_clients(
    installation: Installation, tmp_path: Path, name: str
) -> None:
    async def main(rooms: Rooms) -> None:
        root = await make_three(rooms)
        with pytest.raises(Refused) as refused:
            await issue(rooms, "web", name)
        assert {reason.code for reason in refused.value.reasons} == {"name-constraints"}
        # What would have been issued, had the CA not looked.
        row = await generation(rooms, "web", 1)
        assert row.certificate is not None
        assert row.key_id is not None
        now = rooms.clock.now()
        template = CertificateTemplate(
            serial=b"\x11" * 16,
            spki=spki_of(generate("P-256")),
            subject=parse_name("O=Example"),
            identifiers=(parse_dns(name),),
            not_before=now - 60,
            not_after=now + 3600,
            key_usage=("digitalSignature",),
            extended_key_usage=("1.3.6.1.5.5.7.3.1",),
        )
        der = await rooms.signing.certificate(row.key_id, row.certificate, template)
        chain = rooms.books.authority("web").chains()[0]
        assert "subtree violation" in verify(tmp_path, der, chain, [root])

    installation.within(main)


def test_a_ca_has_no_more_below_it_than_its_path_length_allows(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        await make_three(rooms)
        below = {"name": "deep", "subject": "CN=Deep", "issuer": "web"}
        assert "path length is 0" in await refusal(rooms, "POST", "/authorities", below)
        wide = {"name": "wide", "subject": "CN=Wide", "issuer": "policy", "path_length": 1}
        assert "below that of policy" in await refusal(rooms, "POST", "/authorities", wide)
        wide["path_length"] = "unlimited"
        assert "below that of policy" in await refusal(rooms, "POST", "/authorities", wide)

    installation.within(main)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"permitted": ["example.com"]}, "no name constraint"),
        ({"permitted": ["dns:*.example.com"]}, "no name constraint"),
        ({"excluded": ["ip:10.0.0.1/8"]}, "no name constraint"),
        ({"policies": ["1.2.x"]}, ""),
        ({"policies": ["1.2.3", "1.2.3"]}, "twice"),
        ({"extended_key_usage": ["everything"]}, "no extended key usage"),
        ({"key": "rsa-512"}, "rsa-512"),
        ({"key_in": "pkcs11:token=a;pin-value=1234"}, "PIN"),
        ({"key_in": "pkcs11:token=a;object=b"}, ""),
        ({"issuer": "nobody"}, "no authority"),
        ({"options": {"crl_seconds": 5}}, "crl_seconds"),
        ({"options": {"cps": "https://ü.example"}}, ""),
        ({"by_request": True}, "either its issuer is here"),
        ({"attach": True}, "which token"),
    ],
)
def test_what_no_ca_can_be_is_refused_and_leaves_nothing(
    installation: Installation, change: dict[str, object], why: str
) -> None:
    async def main(rooms: Rooms) -> None:
        before = await rooms.store.read(lambda tx: tx.all("SELECT count(*) FROM keys"))
        body = {"name": "odd", "subject": "CN=Odd", "issuer": "root", **change}
        assert why in await refusal(rooms, "POST", "/authorities", body)
        assert await rooms.store.read(lambda tx: tx.all("SELECT count(*) FROM keys")) == before
        left = await rooms.store.read(lambda tx: tx.all("SELECT name FROM authorities"))
        assert {row[0] for row in left} == {"root", "issuing"}

    installation.within(main)


def test_options_change_and_what_is_in_the_certificate_does_not(either: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        assert (await call(rooms, "PATCH", "/authorities/issuing", {"ocsp": False}))[0] == 428
        stale = await call(rooms, "PATCH", "/authorities/issuing", {"ocsp": False}, if_match='"x"')
        assert stale[0] == 412
        shown = await done(
            rooms,
            "PATCH",
            "/authorities/issuing",
            {"ocsp": False, "policies": ["1.3.6.1.4.1.99999.7"], "cps": "https://cps.example/"},
            if_match="*",
        )
        assert shown["options"]["ocsp"] is False
        for field, value in (("subject", "CN=New"), ("key", "P-384"), ("crl_shards", 3), ("issuer", None)):
            change = {field: value}
            why = await refusal(rooms, "PATCH", "/authorities/issuing", change, if_match="*")
            assert "cannot change" in why
        await put_profile(rooms, "leaf", "issuing")
        leaf = x509.load_der_x509_certificate((await issue(rooms, "leaf", "a.example.com")).der)
        access = leaf.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        assert [place.access_location.value for place in access] == ["http://pki.test/ca/issuing.crt"]
        (policy,) = leaf.extensions.get_extension_for_class(x509.CertificatePolicies).value
        assert policy.policy_identifier.dotted_string == "1.3.6.1.4.1.99999.7"
        kinds = "authority.changed"
        events = await rooms.store.read(lambda tx: tx.all("SELECT data FROM events WHERE kind = ?", (kinds,)))
        assert len(events) == 1
        assert '"before":{"cps":"","ocsp":true' in events[0][0].replace(" ", "")

    either.within(main)


def test_addresses_are_an_authority_s_own_and_old_certificates_keep_their_crl(
    either: Installation, tmp_path: Path
) -> None:
    """The CRL of a shard speaks for certificates with its former address too (RFC 5280 section 6.3.3)."""

    async def main(rooms: Rooms) -> None:
        await put_profile(rooms, "leaf", "issuing")
        old = await issue(rooms, "leaf", "a.example.com")
        change = {"url": "http://status.example.com"}
        shown = await done(rooms, "PATCH", "/authorities/issuing", change, if_match="*")
        assert shown["options"]["former_urls"] == ["http://pki.test"]
        new = await issue(rooms, "leaf", "a.example.com")
        text = new.der.decode("latin-1")
        for path in (f"crl/issuing/{new.crl_shard}.crl", "ca/issuing.crt", "ocsp/issuing"):
            assert f"http://status.example.com/{path}" in text
        assert "pki.test" not in text
        await rooms.crls.refresh()
        await rooms.store.write(lambda tx: tx.run("UPDATE jobs SET due_ms = 0 WHERE kind = 'status.crl'"))
        await rooms.runner.start()
        waiting = "SELECT count(*) FROM jobs WHERE kind = 'status.crl' AND state IN ('waiting', 'running')"
        while await rooms.store.read(lambda tx: tx.one(waiting)) != (0,):
            await asyncio.sleep(0.02)
        await rooms.runner.stop(5)
        signed = "SELECT authority, shard, der FROM crls WHERE delta = 0"
        lists = {row[:2]: row[2] for row in await rooms.store.read(lambda tx: tx.all(signed))}
        root = (await generation(rooms, "root", 1)).certificate
        assert root is not None
        for one in (old, new):
            pem = [to_pem(lists["root", 0], "X509 CRL"), to_pem(lists["issuing", one.crl_shard], "X509 CRL")]
            (tmp_path / "crls.pem").write_bytes(b"".join(pem))
            (chain,) = chains_of(rooms, one)
            how = ("-crl_check_all", "-extended_crl", "-CRLfile", str(tmp_path / "crls.pem"))
            assert verify(tmp_path, one.der, chain, [root], *how) == ""
        for wrong in ("ftp://a.example", "http://a.example/", "http://", "pki.example.com"):
            assert wrong in await refusal(
                rooms, "PATCH", "/authorities/issuing", {"url": wrong}, if_match="*"
            )

    either.within(main)


def test_a_retired_authority_issues_no_more_and_goes_on_signing_crls(either: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        await put_profile(rooms, "leaf", "issuing")
        await issue(rooms, "leaf", "a.example.com")
        await done(rooms, "PATCH", "/authorities/issuing", {"state": "retired"}, if_match="*")
        with pytest.raises(Refused) as refused:
            await issue(rooms, "leaf", "a.example.com")
        assert refused.value.reasons[0].code == "authority-retired"
        assert await rooms.crls.refresh() > 0
        below = {"name": "b", "subject": "CN=B", "issuer": "issuing"}
        assert "issues no more" in await refusal(rooms, "POST", "/authorities", below)
        await done(rooms, "PATCH", "/authorities/issuing", {"state": "active"}, if_match="*")
        await issue(rooms, "leaf", "a.example.com")

    either.within(main)


def test_declarations_make_hierarchies_and_change_their_options(either: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        document: dict[str, Any] = {
            "authorities": [
                {"name": "top", "subject": "CN=Top", "key": "P-384"},
                {**POLICY, "name": "mid", "issuer": "top"},
                {
                    "name": "low",
                    "subject": "CN=Low,O=Example",
                    "issuer": "mid",
                    "options": {"delta_seconds": 3600},
                },
                {"name": "out", "subject": "CN=Out", "by_request": True},
            ]
        }
        made = await done(rooms, "POST", "/declarations", {"document": document})
        assert [change["change"] for change in made["changes"]] == ["created"] * 4
        keys = await rooms.store.read(lambda tx: tx.all("SELECT count(*) FROM keys"))
        again = await done(rooms, "POST", "/declarations", {"document": document})
        assert {change["change"] for change in again["changes"]} == {"unchanged"}
        assert await rooms.store.read(lambda tx: tx.all("SELECT count(*) FROM keys")) == keys
        document["authorities"][2]["options"] = {"delta_seconds": 7200}
        changed = await done(rooms, "POST", "/declarations", {"document": document})
        assert changed["changes"][2]["details"] == ["delta_seconds: 3600 -> 7200"]
        document["authorities"][0]["subject"] = "CN=Other"
        assert "cannot change" in await refusal(rooms, "POST", "/declarations", {"document": document})

    either.within(main)


def test_ca_certificates_from_before_are_entered_once(installation: Installation) -> None:
    async def forget(rooms: Rooms) -> None:
        def unit(tx: Tx) -> None:
            for statement in (
                "DELETE FROM certificates WHERE profile_version = 0",
                "DELETE FROM facts WHERE key = 'ca-certificates-entered'",
            ):
                tx.run(statement)

        await rooms.store.write(unit)

    async def count(rooms: Rooms) -> int:
        rows = await rooms.store.read(
            lambda tx: tx.all("SELECT serial, der, authority FROM certificates WHERE profile = 'ca'")
        )
        for serial, der, authority in rows:
            assert x509.load_der_x509_certificate(der).serial_number == int.from_bytes(serial, "big")
            assert authority == "root"
        return len(rows)

    installation.within(forget)
    assert installation.within(count) == 2
    assert installation.within(count) == 2


def test_keys_of_every_kind_make_cas_and_mixed_chains(installation: Installation, tmp_path: Path) -> None:
    async def main(rooms: Rooms) -> None:
        await done(rooms, "POST", "/authorities", {"name": "top", "subject": "CN=Top", "key": "rsa-2048"})
        for key in ("P-384", "P-521", "ed25519", "rsa-3072"):
            name = key.lower()
            body = {"name": name, "subject": f"CN={key}", "issuer": "top", "key": key}
            await done(rooms, "POST", "/authorities", body)
            await put_profile(rooms, name, name)
            leaf = await issue(rooms, name, "a.example.com")
            top = (await generation(rooms, "top", 1)).certificate
            assert top is not None
            assert verify(tmp_path, leaf.der, chains_of(rooms, leaf)[0], [top]) == ""

    installation.within(main)
