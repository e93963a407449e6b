"""CAs and certificates from elsewhere: imports, CSRs that leave and certificates that come back, crossing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certloom.enrollment.errors import Refused
from certloom.pki.pem import to_pem
from certloom.server.ca_pages import ca_file
from certloom.server.rooms import Rooms
from tests.authorities.hierarchies import (
    ForeignCA,
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

PASSWORD = "correct horse"


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def first(pem: str) -> str:
    """The first certificate of several."""
    end = "-----END CERTIFICATE-----\n"
    return pem.partition(end)[0] + end


def pem_import(ca: ForeignCA, **more: Any) -> dict[str, Any]:
    return {"name": "old", "certificate": ca.pem, "key": ca.key_pem(), **more}


def test_a_root_from_pem_goes_on_issuing_and_its_crl_numbers_go_up(
    either: Installation, tmp_path: Path
) -> None:
    async def main(rooms: Rooms) -> None:
        old = ForeignCA("Old Root")
        above = 10**15
        body = pem_import(old, options={"crl_number_above": above}, crl_shards=1)
        body["key"], body["password"] = old.key_pem(PASSWORD), PASSWORD
        shown = await done(rooms, "POST", "/authority-imports", body)
        assert shown["issuer"] is None
        await put_profile(rooms, "old", "old")
        leaf = await issue(rooms, "old", "www.example.com")
        assert chains_of(rooms, leaf) == ((),)
        assert verify(tmp_path, leaf.der, (), [old.der]) == ""
        roots = ca_file(rooms.books, ["roots.pem"])
        assert roots is not None
        assert old.pem.encode() in roots[0]
        await rooms.crls.refresh()
        rows = await rooms.store.read(
            lambda tx: tx.all("SELECT der FROM crls WHERE authority = 'old' AND shard = 0 AND delta = 0")
        )
        crl = x509.load_der_x509_crl(rows[0][0])
        assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == above + 1
        assert crl.is_signature_valid(old.key.public_key())
        events = await rooms.store.read(
            lambda tx: tx.all("SELECT data FROM events WHERE kind = 'authority.imported'")
        )
        assert PASSWORD not in events[0][0]
        assert "PRIVATE" not in events[0][0]

    either.within(main)


def test_an_issuing_ca_from_pkcs12_brings_its_chain(either: Installation, tmp_path: Path) -> None:
    async def main(rooms: Rooms) -> None:
        root = ForeignCA("Their Root")
        issuing = ForeignCA("Their Issuing", root, path_length=0)
        body = {"name": "theirs", "pkcs12": b64(issuing.pkcs12(PASSWORD)), "password": PASSWORD}
        shown = await done(rooms, "POST", "/authority-imports", body)
        assert shown["issuer"] is None
        await put_profile(rooms, "theirs", "theirs")
        leaf = await issue(rooms, "theirs", "www.example.com")
        assert chains_of(rooms, leaf) == ((issuing.der,),)
        assert verify(tmp_path, leaf.der, [issuing.der], [root.der]) == ""
        # What is above it is not ours to make anew.
        made = await done(rooms, "POST", "/authorities/theirs/generations", {})
        assert made["csr"].startswith("-----BEGIN CERTIFICATE REQUEST-----")

    either.within(main)


CASES: list[tuple[Callable[[], dict[str, Any]], str]] = [
    (lambda: pem_import(ForeignCA("a"), key=ForeignCA("b").key_pem()), "not that of the certificate"),
    (lambda: pem_import(ForeignCA("a"), key=""), "private key is missing"),
    (lambda: pem_import(ForeignCA("a"), key=ForeignCA("b").key_pem(PASSWORD)), "give its password"),
    (
        lambda: pem_import(ForeignCA("a"), key=ForeignCA("b").key_pem(PASSWORD), password="wrong"),
        "password is wrong",
    ),
    (lambda: pem_import(ForeignCA("a"), password="needless"), "not encrypted"),
    (lambda: pem_import(ForeignCA("a", days=(-20, -10))), "has expired"),
    (lambda: pem_import(ForeignCA("a", days=(10, 20))), "not valid yet"),
    (lambda: pem_import(ForeignCA("a", ca=False)), "not a CA certificate"),
    (lambda: pem_import(ForeignCA("a", key_usage=False)), "not a CA certificate"),
    (lambda: pem_import(ForeignCA("a", ForeignCA("above"))), "issuer is neither an authority here"),
    (lambda: pem_import(ForeignCA("a", ForeignCA("b")), chain=ForeignCA("b").pem), "issuer is neither"),
    (
        lambda: (lambda above: pem_import(ForeignCA("a", above), chain=above.pem))(
            ForeignCA("above", days=(-20, -10))
        ),
        "expired",
    ),
    (
        lambda: (lambda top: pem_import(ForeignCA("a", ForeignCA("b", top)), chain=top.pem))(ForeignCA("c")),
        "issuer is neither",
    ),
    (
        lambda: (lambda mid: pem_import(ForeignCA("a", mid), chain=mid.chain_pem()))(
            ForeignCA("b", ForeignCA("c", path_length=0))
        ),
        "path length",
    ),
    (lambda: pem_import(ForeignCA("a"), certificate="nothing"), "not a certificate"),
    (lambda: {"name": "old", "pkcs12": b64(ForeignCA("a").pkcs12(PASSWORD)), "password": "no"}, "PKCS#12"),
    (lambda: {"name": "old", "pkcs12": b64(b"\x30\x00"), "password": "no"}, "PKCS#12"),
    (lambda: {"name": "old", "pkcs12": "%%%"}, "base64"),
    (lambda: pem_import(ForeignCA("a"), name="root"), "there is an authority"),
    (lambda: pem_import(ForeignCA("a"), key_in="pkcs11:token=a"), "either the key is given"),
]


def test_what_cannot_be_taken_in_is_refused_and_leaves_nothing(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        before = await rooms.store.read(lambda tx: tx.all("SELECT count(*) FROM keys"))
        for make, why in CASES:
            said = await refusal(rooms, "POST", "/authority-imports", make())
            assert why in said, (why, said)
            assert PASSWORD not in said
        assert await rooms.store.read(lambda tx: tx.all("SELECT count(*) FROM keys")) == before

    installation.within(main)


def test_a_key_is_one_authoritys(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        old = ForeignCA("Old")
        await done(rooms, "POST", "/authority-imports", pem_import(old))
        why = await refusal(rooms, "POST", "/authority-imports", pem_import(old, name="again"))
        assert "key of authority old already" in why

    installation.within(main)


def test_a_blocked_key_is_no_cas(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        old = ForeignCA("Old")
        digest = hashlib.sha256(
            old.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).hexdigest()
        await done(rooms, "POST", "/blocked-keys", {"spki_sha256": digest, "why": "stolen"})
        assert "blocked" in await refusal(rooms, "POST", "/authority-imports", pem_import(old))
        body = {"certificate": old.pem}
        assert "blocked" in await refusal(rooms, "POST", "/authorities/root/cross-signatures", body)

    installation.within(main)


# -- a CSR that leaves, a certificate that comes back ----------------------------------------------------


def test_a_csr_leaves_and_a_certificate_comes_back(either: Installation, tmp_path: Path) -> None:
    async def main(rooms: Rooms) -> None:
        offline, other = ForeignCA("Offline Root"), ForeignCA("Other")
        body = {"name": "sub", "subject": "CN=Sub CA,O=Example", "by_request": True}
        shown = await done(rooms, "POST", "/authorities", body)
        assert (shown["state"], shown["certificate"]) == ("pending", "")
        csr = shown["csr"]
        assert x509.load_pem_x509_csr(csr.encode()).is_signature_valid
        listed = (await done(rooms, "GET", "/authorities"))["items"]
        assert {row["name"]: row["state"] for row in listed}["sub"] == "pending"

        # Nothing is issued from it, nothing below it, and no profile can name it.
        profile = {"name": "sub", "authority": "sub", "keys": [{"type": "ec"}], "validity": {"default": "1d"}}
        why = await refusal(rooms, "POST", "/declarations", {"document": {"profiles": [profile]}})
        assert "no authority 'sub'" in why
        below = {"name": "b", "subject": "CN=B", "issuer": "sub"}
        assert "no authority 'sub'" in await refusal(rooms, "POST", "/authorities", below)
        assert ca_file(rooms.books, ["sub.crt"]) is None

        path = "/authorities/sub/certificate"
        for certificate, said in (
            (ForeignCA("Sub CA", offline).chain_pem(), "another key"),
            (offline.sign_csr(csr, subject=other.name), "where the CSR asked for"),
            (offline.sign_csr(csr, ca=False), "not a CA certificate"),
            (offline.sign_csr(csr, days=(-9, -8)), "has expired"),
            (first(offline.sign_csr(csr)), "neither"),
            (first(other.sign_csr(csr)) + offline.pem, "neither"),
        ):
            found = await refusal(rooms, "POST", path, {"certificate": certificate})
            assert said in found, (said, found)
        shown = await done(rooms, "POST", path, {"certificate": offline.sign_csr(csr)})
        assert (shown["state"], shown["csr"], shown["issuer"]) == ("active", "", None)
        assert "nothing waits" in await refusal(rooms, "POST", path, {"certificate": offline.sign_csr(csr)})
        await put_profile(rooms, "sub", "sub")
        leaf = await issue(rooms, "sub", "www.example.com")
        (chain,) = chains_of(rooms, leaf)
        assert verify(tmp_path, leaf.der, chain, [offline.der]) == ""
        roots = ca_file(rooms.books, ["roots.pem"])
        assert roots is not None
        assert offline.pem.encode() in roots[0]
        chain_file = ca_file(rooms.books, ["sub-chain.pem"])
        assert chain_file is not None
        assert chain_file[0] == b"".join(map(to_pem, chain))

    either.within(main)


def test_a_csr_of_ours_is_signed_by_another_authority_of_ours(
    installation: Installation, tmp_path: Path
) -> None:
    async def main(rooms: Rooms) -> None:
        body = {"name": "sub", "subject": "CN=Sub", "by_request": True}
        csr = (await done(rooms, "POST", "/authorities", body))["csr"]
        signed = await done(rooms, "POST", "/authorities/root/cross-signatures", {"csr": csr})
        shown = await done(
            rooms, "POST", "/authorities/sub/certificate", {"certificate": signed["certificate"]}
        )
        assert shown["issuer"] == "root"
        await put_profile(rooms, "sub", "sub")
        leaf = await issue(rooms, "sub", "www.example.com")
        root = (await generation(rooms, "root", 1)).certificate
        assert root is not None
        assert verify(tmp_path, leaf.der, chains_of(rooms, leaf)[0], [root]) == ""

    installation.within(main)


# -- crossing --------------------------------------------------------------------------------------------


def test_another_ca_is_certified_by_ours(either: Installation, tmp_path: Path) -> None:
    async def main(rooms: Rooms) -> None:
        theirs = ForeignCA("Their Root")
        body = {"certificate": theirs.pem, "permitted": ["dns:their.example"], "days": 30}
        cross = await done(rooms, "POST", "/authorities/root/cross-signatures", body)
        der = x509.load_pem_x509_certificate(cross["certificate"].encode())
        own = theirs.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        assert der.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value == own
        root = (await generation(rooms, "root", 1)).certificate
        assert root is not None
        for name, wanted in (("www.their.example", ""), ("www.example.com", "subtree violation")):
            key = ec.generate_private_key(ec.SECP256R1())
            leaf = (
                x509.CertificateBuilder()
                .subject_name(x509.Name([]))
                .issuer_name(theirs.name)
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(theirs.certificate.not_valid_before_utc)
                .not_valid_after(theirs.certificate.not_valid_after_utc)
                .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True)
                .add_extension(x509.BasicConstraints(False, None), critical=True)
                .add_extension(
                    x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own), critical=False
                )
                .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            )
            signed = leaf.sign(theirs.key, hashes.SHA256()).public_bytes(Encoding.DER)
            said = verify(tmp_path, signed, [der.public_bytes(Encoding.DER)], [root])
            assert (said == "") if not wanted else (wanted in said)
        row = await done(rooms, "GET", f"/certificates/{cross['id']}")
        assert (row["profile"], row["authority"]) == ("ca", "root")

        for wrong, why in (
            ({}, "either the other CA's certificate or its CSR"),
            ({"certificate": ForeignCA("x", ca=False).pem}, "not a CA certificate"),
            ({"certificate": ForeignCA("x", days=(-9, -8)).pem}, "has expired"),
            ({"certificate": to_pem(root).decode()}, "own key"),
            ({"csr": "-----BEGIN X-----\nAAAA\n-----END X-----"}, "PKCS #10"),
        ):
            assert why in await refusal(rooms, "POST", "/authorities/root/cross-signatures", wrong)
        why = await refusal(
            rooms, "POST", "/authorities/issuing/cross-signatures", {"certificate": theirs.pem}
        )
        assert "path length is 0" in why

    either.within(main)


def test_a_cross_certificate_for_ours_is_an_alternate_chain_until_it_is_dropped(
    either: Installation, tmp_path: Path
) -> None:
    async def main(rooms: Rooms) -> None:
        theirs = ForeignCA("Their Root")
        root = (await generation(rooms, "root", 1)).certificate
        assert root is not None
        own = x509.load_der_x509_certificate(root)
        identifier = own.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        cross = theirs.certify(own.subject, own.public_key(), identifier=identifier)
        pem = cross.public_bytes(Encoding.PEM).decode()
        path = "/authorities/root/cross-certificates"
        wrong = theirs.certify(own.subject, theirs.key.public_key()).public_bytes(Encoding.PEM).decode()
        assert "none of this authority's" in await refusal(
            rooms, "POST", path, {"certificate": wrong + theirs.pem}
        )
        other = theirs.certify(own.subject, own.public_key()).public_bytes(Encoding.PEM).decode()
        assert "key identifier" in await refusal(rooms, "POST", path, {"certificate": other + theirs.pem})
        assert "neither" in await refusal(rooms, "POST", path, {"certificate": pem})
        await done(rooms, "POST", path, {"certificate": pem + theirs.pem})
        assert "known already" in await refusal(rooms, "POST", path, {"certificate": pem + theirs.pem})

        await put_profile(rooms, "leaf", "issuing")
        leaf = await issue(rooms, "leaf", "www.example.com")
        plain, crossed = chains_of(rooms, leaf)
        assert len(crossed) == len(plain) + 1
        assert verify(tmp_path, leaf.der, plain, [root]) == ""
        assert verify(tmp_path, leaf.der, crossed, [theirs.der]) == ""
        assert verify(tmp_path, leaf.der, crossed, [root]) == ""
        assert verify(tmp_path, leaf.der, plain, [theirs.der]) != ""

        shown = (await done(rooms, "GET", "/authorities/root/generations"))["items"][0]
        (known,) = shown["others"]
        assert (known["kind"], known["issuer"]) == ("cross-certificate", "CN=Their Root")
        await done(rooms, "DELETE", f"{path}/{known['sha256']}")
        assert chains_of(rooms, leaf) == (plain,)
        assert await refusal(rooms, "DELETE", f"{path}/{known['sha256']}")

    either.within(main)


def test_a_pending_authority_refuses_to_issue_when_asked_directly(installation: Installation) -> None:
    async def main(rooms: Rooms) -> None:
        body = {"name": "sub", "subject": "CN=Sub", "by_request": True}
        await done(rooms, "POST", "/authorities", body)
        with pytest.raises(Refused):
            await issue(rooms, "sub", "www.example.com")

    installation.within(main)
