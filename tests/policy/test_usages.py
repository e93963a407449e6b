from __future__ import annotations

import pytest

from certloom.policy.usages import (
    EXTENDED_KEY_USAGES,
    SERVER_AUTH,
    automatic_key_usage,
    check_key_usage,
    in_bit_order,
    purpose_oid,
    serves_tls,
)

CLIENT_AUTH = EXTENDED_KEY_USAGES["clientAuth"]


def test_automatic_key_usage_adds_key_encipherment_only_to_rsa_keys_of_tls_servers() -> None:
    assert automatic_key_usage("rsa", (SERVER_AUTH,)) == ("digitalSignature", "keyEncipherment")
    assert automatic_key_usage("rsa", (CLIENT_AUTH,)) == ("digitalSignature",)
    assert automatic_key_usage("ec", (SERVER_AUTH,)) == ("digitalSignature",)
    assert automatic_key_usage("ml-dsa-44", (SERVER_AUTH,)) == ("digitalSignature",)
    assert automatic_key_usage("ml-kem-768", (SERVER_AUTH,)) == ("keyEncipherment",)


@pytest.mark.parametrize(
    ("algorithm", "usage", "source"),
    [
        ("rsa", ("keyAgreement",), "RFC 4055"),
        ("ec", ("digitalSignature", "keyEncipherment"), "RFC 8813"),
        ("ed25519", ("keyAgreement",), "RFC 9295"),
        ("ed448", ("dataEncipherment",), "RFC 9295"),
        ("ml-dsa-44", ("digitalSignature", "keyAgreement"), "RFC 9881"),
        ("ml-dsa-87", ("encipherOnly",), "RFC 9881"),
        ("ml-kem-768", ("keyEncipherment", "digitalSignature"), "RFC 9935"),
        ("ml-kem-1024", ("keyAgreement",), "RFC 9935"),
    ],
)
def test_a_usage_that_a_key_cannot_have_is_refused_with_its_source(
    algorithm: str, usage: tuple[str, ...], source: str
) -> None:
    with pytest.raises(ValueError, match=source):
        check_key_usage(usage, algorithm, ())


@pytest.mark.parametrize(
    "usage",
    [
        (),
        ("sign",),
        ("keyCertSign",),
        ("cRLSign",),
        ("contentCommitment",),
        ("digitalSignature", "digitalSignature"),
        ("encipherOnly",),
        ("keyAgreement", "encipherOnly", "decipherOnly"),
    ],
)
def test_a_key_usage_that_makes_no_sense_is_refused(usage: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        check_key_usage(usage, "ec", ())


def test_key_usage_must_fit_each_purpose() -> None:
    check_key_usage(("digitalSignature", "keyAgreement"), "ec", (SERVER_AUTH, CLIENT_AUTH))
    check_key_usage(("keyEncipherment",), "rsa", (SERVER_AUTH,))
    with pytest.raises(ValueError, match=r"4\.2\.1\.12"):
        check_key_usage(("keyEncipherment",), "rsa", (SERVER_AUTH, CLIENT_AUTH))


def test_usages_stand_in_the_order_of_their_bits() -> None:
    assert in_bit_order(("keyAgreement", "digitalSignature")) == ("digitalSignature", "keyAgreement")


def test_purposes_go_by_name_or_oid() -> None:
    assert purpose_oid("serverAuth") == SERVER_AUTH
    assert purpose_oid("1.3.6.1.4.1.99999.1") == "1.3.6.1.4.1.99999.1"
    for wrong in ("serverauth", "1", "3.1.2", "1.40.1", "1.02", "", "1.3.6.1.5.5.7.3.8"):
        with pytest.raises(ValueError, match=r"OID|timeStamping"):
            purpose_oid(wrong)


def test_a_certificate_without_purposes_can_serve_tls() -> None:
    assert serves_tls(())
    assert serves_tls((CLIENT_AUTH, SERVER_AUTH))
    assert serves_tls((EXTENDED_KEY_USAGES["anyExtendedKeyUsage"],))
    assert not serves_tls((CLIENT_AUTH,))
