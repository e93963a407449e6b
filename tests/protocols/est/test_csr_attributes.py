"""/csrattrs in the old form and in RFC 9908's, read by pyasn1."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc7030, rfc9908

from certloom.policy.profiles import parse_profile
from certloom.protocols.est.csr_attributes import csr_attributes
from certloom.store import Store
from tests.conftest import run
from tests.protocols.est.lab import lab

CHALLENGE, EXTENSIONS = "1.2.840.113549.1.9.7", "1.2.840.113549.1.9.14"
TEMPLATE, EXTENSION_TEMPLATE = "1.2.840.113549.1.9.16.2.61", "1.2.840.113549.1.9.16.2.62"


def attributes(bound: bool = False, **table: Any) -> tuple[list[str], dict[str, Any]]:
    """The OIDs alone, and the attributes by OID, of a profile."""
    profile = parse_profile(
        {
            "name": "p",
            "authority": "a",
            "keys": [{"type": "ec", "curves": ["P-384"]}],
            "subject": [{"type": "O", "value": "Acme"}, {"type": "CN", "value": "{csr.CN}"}],
            "names": {"types": ["dns"]},
            "extended_key_usage": ["clientAuth"],
            "validity": {"default": "30d"},
            **table,
        }
    )
    whole, rest = decoder.decode(csr_attributes(profile, bound=bound), asn1Spec=rfc7030.CsrAttrs())
    assert not rest
    oids, found = [], {}
    for item in whole:
        if item.getName() == "oid":
            oids.append(str(item["oid"]))
        else:
            attribute = item["attribute"]
            found[str(attribute["attrType"])] = [bytes(value) for value in attribute["attrValues"]]
    return oids, found


def template(found: dict[str, Any]) -> Any:
    (value,) = found[TEMPLATE]
    decoded, rest = decoder.decode(value, asn1Spec=rfc9908.CertificationRequestInfoTemplate())
    assert not rest
    assert int(decoded["version"]) == 0
    assert encoder.encode(decoded) == value
    return decoded


def test_the_old_form_says_key_subject_and_extensions() -> None:
    oids, found = attributes()
    assert "2.5.4.3" in oids  # a common name is to be filled in
    assert "2.5.4.10" not in oids
    assert "1.2.840.10045.4.3.3" in oids  # ECDSA with SHA-384
    assert CHALLENGE not in oids
    (curve,) = found["1.2.840.10045.2.1"]
    assert str(decoder.decode(curve)[0]) == "1.3.132.0.34"
    (extensions,) = found[EXTENSIONS]
    oid = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")]).public_bytes()
    assert oid in extensions


def test_the_template_says_what_is_given_and_what_is_left_to_the_client() -> None:
    decoded = template(attributes()[1])
    rdns = [rdn[0] for rdn in decoded["subject"]["rdnSequence"]]
    assert [str(rdn["type"]) for rdn in rdns] == ["2.5.4.10", "2.5.4.3"]
    assert rdns[0]["value"].isValue
    assert not rdns[1]["value"].isValue
    assert str(decoded["subjectPKInfo"]["algorithm"]["algorithm"]) == "1.2.840.10045.2.1"
    assert not decoded["subjectPKInfo"]["subjectPublicKey"].isValue
    kinds = [str(attribute["type"]) for attribute in decoded["attributes"]]
    # A subjectAltName is wanted, and its value is the client's: the template of extensions, not the request.
    assert kinds == [EXTENSION_TEMPLATE]
    value = bytes(decoded["attributes"][0]["values"][0])
    asked, _ = decoder.decode(value, asn1Spec=rfc9908.ExtensionReqTemplate())
    by_oid = {str(each["extnID"]): each for each in asked}
    assert not by_oid["2.5.29.17"]["extnValue"].isValue
    assert by_oid["2.5.29.37"]["extnValue"].isValue
    assert bool(by_oid["2.5.29.15"]["critical"])


def test_complete_extensions_are_asked_for_as_such() -> None:
    decoded = template(attributes(names={"types": ["dns"], "required": False})[1])
    assert [str(attribute["type"]) for attribute in decoded["attributes"]] == [EXTENSIONS]


@pytest.mark.parametrize("bits", [2048, 3072])
def test_the_size_of_an_rsa_key_is_told_by_one_of_that_size(bits: int) -> None:
    _, found = attributes(keys=[{"type": "rsa", "min": bits}])
    (size,) = found["1.2.840.113549.1.1.1"]
    assert int(decoder.decode(size)[0]) == bits
    dummy = template(found)["subjectPKInfo"]["subjectPublicKey"].asOctets()
    assert int(decoder.decode(dummy)[0][0]).bit_length() == bits


def test_who_may_choose_the_key_is_told_nothing_of_it() -> None:
    oids, found = attributes(keys=[{"type": "rsa"}, {"type": "ec"}])
    assert not {"1.2.840.113549.1.1.1", "1.2.840.10045.2.1"} & (found.keys() | set(oids))
    assert not template(found)["subjectPKInfo"].isValue


@pytest.mark.parametrize("kind", ["ed25519", "ed448", "ml-dsa-65"])
def test_kinds_without_sizes_are_named(kind: str) -> None:
    oids, found = attributes(keys=[{"type": kind}])
    named = str(template(found)["subjectPKInfo"]["algorithm"]["algorithm"])
    assert named in oids


def test_a_challenge_password_is_asked_for_where_requests_must_be_bound() -> None:
    oids, found = attributes(bound=True)
    assert oids[0] == CHALLENGE
    assert CHALLENGE in [str(attribute["type"]) for attribute in template(found)["attributes"]]


def test_the_channel_tells_it_to_everybody(store: Store) -> None:
    async def go() -> None:
        async with lab(store) as it:
            answer = await it.ask("/.well-known/est/csrattrs")
            assert answer.headers["content-type"] == "application/csrattrs"
            decoder.decode(answer.der, asn1Spec=rfc7030.CsrAttrs())
            await it.profile(
                subject=[],
                names={"types": ["dns"], "from_certificate": ["dns:{cert.CN}.example"]},
                extended_key_usage=[],
                keys=[{"type": "ec", "key_usage": ["keyAgreement"]}, {"type": "rsa"}],
            )
            assert (await it.ask("/.well-known/est/csrattrs")).status == 204

    run(go())
