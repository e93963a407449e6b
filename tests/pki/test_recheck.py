"""The recheck finds every way in which a certificate can differ from what was decided."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from certloom.pki import keys, signatures
from certloom.pki import recheck as recheck_module
from certloom.pki.certificates import build_certificate, recheck, tbs_certificate
from certloom.pki.extensions import Extension
from certloom.pki.identifiers import parse_ip
from certloom.pki.names import parse_name
from tests.pki.making import NOW, dns, hierarchy, key, template

ISSUER = hierarchy().issuer
ISSUER_KEY = hierarchy().issuer_key
MORE = Extension("1.3.6.1.5.5.7.1.24", False, b"\x30\x03\x02\x01\x05")
UNKNOWN = Extension("1.3.6.1.4.1.55555.1", True, b"\x0c\x01x")


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"serial": b"\x11" * 16}, "the serial number"),
        ({"not_before": NOW + 1}, "notBefore"),
        ({"not_after": NOW + 86400}, "notAfter"),
        ({"subject": parse_name("CN=x")}, "the subject"),
        ({"spki": keys.spki_of(key("P-384"))}, "the key"),
        ({"identifiers": dns("www.example.com", "extra.example.com")}, "extension 2.5.29.17"),
        ({"identifiers": dns("*.example.com")}, "extension 2.5.29.17"),
        ({"identifiers": (parse_ip("192.0.2.1"),)}, "extension 2.5.29.17"),
        ({"subject": parse_name("CN=x"), "identifiers": ()}, "extension 2.5.29.17 is missing"),
        ({"key_usage": ("digitalSignature", "keyAgreement")}, "extension 2.5.29.15"),
        ({"key_usage": ()}, "extension 2.5.29.15 is missing"),
        ({"extended_key_usage": ("1.3.6.1.5.5.7.3.2",)}, "extension 2.5.29.37"),
        ({"extended_key_usage": ()}, "extension 2.5.29.37 is missing"),
        ({"crl_url": "http://ca.test/crl/1/8.crl"}, "extension 2.5.29.31"),
        ({"crl_url": None}, "extension 2.5.29.31 is missing"),
        ({"issuer_url": None}, "extension 1.3.6.1.5.5.7.1.1 is missing"),
        ({"ocsp_url": "http://ocsp.test"}, "extension 1.3.6.1.5.5.7.1.1"),
        ({"extensions": (MORE,)}, "extension 1.3.6.1.5.5.7.1.24 was not decided"),
        ({"extensions": (UNKNOWN,)}, "extension 1.3.6.1.4.1.55555.1 was not decided"),
    ],
    ids=str,
)
def test_a_field_that_differs_is_found(changes: dict[str, object], difference: str) -> None:
    other = build_certificate(template(**changes), ISSUER, ISSUER_KEY)
    assert any(found.startswith(difference) for found in recheck(other, template(), ISSUER))


def test_an_added_extension_must_be_the_one_decided() -> None:
    wanted = template(extensions=(MORE, UNKNOWN))
    issued = build_certificate(wanted, ISSUER, ISSUER_KEY)
    assert recheck(issued, wanted, ISSUER) == []
    for other in (
        template(extensions=(MORE, Extension(UNKNOWN.oid, True, b"\x0c\x01y"))),
        template(extensions=(MORE, Extension(UNKNOWN.oid, False, UNKNOWN.value))),
        template(extensions=(MORE,)),
    ):
        assert recheck(issued, other, ISSUER)


def test_the_signature_of_another_key_is_found() -> None:
    tbs = tbs_certificate(template(), ISSUER)
    forged = signatures.assemble(keys.generate("P-256"), tbs)
    assert recheck(forged, template(), ISSUER) == ["the issuer's signature does not verify"]


def test_a_broken_signature_is_found() -> None:
    issued = bytearray(build_certificate(template(), ISSUER, ISSUER_KEY))
    issued[-1] ^= 1
    assert recheck(bytes(issued), template(), ISSUER) == ["the issuer's signature does not verify"]


def test_another_issuer_is_found() -> None:
    root = hierarchy().root
    issued = build_certificate(template(), root, hierarchy().root_key)
    found = recheck(issued, template(), ISSUER)
    assert any(difference.startswith("the issuer is") for difference in found)
    assert any(difference.startswith("extension 2.5.29.35") for difference in found)
    assert "the issuer's signature does not verify" in found


def test_another_signature_algorithm_is_found() -> None:
    found = recheck(
        build_certificate(template(), hierarchy("P-384").issuer, hierarchy("P-384").issuer_key),
        template(),
        ISSUER,
    )
    assert any(difference.startswith("the signature algorithm") for difference in found)


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"garbage"])
def test_what_cannot_be_read_is_a_difference(data: bytes) -> None:
    assert recheck(data, template(), ISSUER)[0].startswith("the certificate cannot be read")


def test_every_octet_matters() -> None:
    issued = build_certificate(template(), ISSUER, ISSUER_KEY)
    for position in range(len(issued)):
        changed = bytearray(issued)
        changed[position] ^= 0x01
        assert recheck(bytes(changed), template(), ISSUER), f"octet {position} changed unnoticed"
    assert recheck(issued + b"\x00", template(), ISSUER)


def test_rechecking_shares_no_code_with_building() -> None:
    tree = ast.parse(Path(recheck_module.__file__).read_text())
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("certloom")} == {
        "certloom.pki.identifiers",  # only what an identifier is in cryptography's terms
        "certloom.pki.template",
    }
