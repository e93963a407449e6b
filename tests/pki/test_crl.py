from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki.certificates import build_certificate
from certloom.pki.crl import REASONS, CRLEntry, CRLError, build_crl
from tests.pki.making import NOW, OPENSSL_KNOWS, SIGNING_ALGORITHMS, hierarchy, openssl, template

WEEK = 7 * 86400
URL = "http://ca.test/crl/1/7.crl"


def built(*entries: CRLEntry, algorithm: str = "P-256", number: int = 1, url: str | None = URL) -> bytes:
    chain = hierarchy(algorithm)
    return build_crl(chain.issuer, chain.issuer_key, entries, number, NOW, NOW + WEEK, url)


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_every_ca_key_signs_lists(algorithm: str) -> None:
    crl = x509.load_der_x509_crl(built(CRLEntry(b"\x05", NOW, 1), algorithm=algorithm))
    key = x509.load_der_x509_certificate(hierarchy(algorithm).issuer.certificate).public_key()
    assert crl.is_signature_valid(key)  # type: ignore[arg-type]


def test_every_field_reads_as_it_was_meant() -> None:
    crl = x509.load_der_x509_crl(built(CRLEntry(b"\xff" * 16, NOW - 5, 4), number=1 << 100))
    assert crl.issuer.rfc4514_string() == "CN=Test Issuing CA,O=Test"
    assert crl.last_update_utc.timestamp() == NOW
    assert crl.next_update_utc is not None
    assert crl.next_update_utc.timestamp() == NOW + WEEK
    number = crl.extensions.get_extension_for_class(x509.CRLNumber)
    assert number.value.crl_number == 1 << 100
    assert not number.critical
    identifier = crl.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert identifier == hierarchy().issuer.key_identifier
    entry = crl.get_revoked_certificate_by_serial_number(int.from_bytes(b"\xff" * 16, "big"))
    assert entry is not None
    assert entry.revocation_date_utc.timestamp() == NOW - 5
    assert (
        entry.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.superseded
    )


def test_the_distribution_point_is_critical_and_the_same_octets_as_in_the_certificate() -> None:
    crl = x509.load_der_x509_crl(built())
    point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)
    assert point.critical
    assert point.value.full_name == [x509.UniformResourceIdentifier(URL)]
    certificate = x509.load_der_x509_certificate(
        build_certificate(template(crl_url=URL), hierarchy().issuer, hierarchy().issuer_key)
    )
    in_certificate = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    # Both are SEQUENCE { [0] name }; the certificate's is in one SEQUENCE more.
    assert in_certificate.public_bytes()[2:] == point.value.public_bytes()


def test_a_list_for_everything_has_no_distribution_point() -> None:
    crl = x509.load_der_x509_crl(built(url=None))
    with pytest.raises(x509.ExtensionNotFound):
        crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint)


def test_nothing_revoked_is_an_absent_list() -> None:
    assert len(x509.load_der_x509_crl(built())) == 0
    assert b"\x30\x00" not in built()


def test_the_reason_unspecified_is_never_encoded() -> None:
    crl = x509.load_der_x509_crl(built(CRLEntry(b"\x01", NOW)))
    assert len(crl[0].extensions) == 0


_entries = st.lists(
    st.builds(
        CRLEntry,
        serial=st.binary(min_size=1, max_size=19).filter(any),
        revoked_at=st.integers(0, 4 * 10**9),
        reason=st.sampled_from(sorted(REASONS)),
    ),
    max_size=30,
)
_CODES = {
    x509.ReasonFlags.key_compromise: 1,
    x509.ReasonFlags.ca_compromise: 2,
    x509.ReasonFlags.affiliation_changed: 3,
    x509.ReasonFlags.superseded: 4,
    x509.ReasonFlags.cessation_of_operation: 5,
    x509.ReasonFlags.certificate_hold: 6,
    x509.ReasonFlags.privilege_withdrawn: 9,
    x509.ReasonFlags.aa_compromise: 10,
}


@given(_entries)
def test_entries_come_back_from_cryptography(entries: list[CRLEntry]) -> None:
    read = [
        (
            entry.serial_number,
            int(entry.revocation_date_utc.timestamp()),
            _CODES[entry.extensions.get_extension_for_class(x509.CRLReason).value.reason]
            if len(entry.extensions)
            else 0,
        )
        for entry in x509.load_der_x509_crl(built(*entries))
    ]
    assert read == [(int.from_bytes(e.serial, "big"), e.revoked_at, e.reason) for e in entries]


@pytest.mark.parametrize("algorithm", OPENSSL_KNOWS)
def test_openssl_verifies_the_list_and_refuses_what_is_on_it(tmp_path: Path, algorithm: str) -> None:
    chain = hierarchy(algorithm)
    wanted = template(crl_url=URL)
    files = {
        "issuer": x509.load_der_x509_certificate(chain.issuer.certificate).public_bytes(Encoding.PEM),
        "leaf": x509.load_der_x509_certificate(
            build_certificate(wanted, chain.issuer, chain.issuer_key)
        ).public_bytes(Encoding.PEM),
        "clean": x509.load_der_x509_crl(built(algorithm=algorithm)).public_bytes(Encoding.PEM),
        "revoked": x509.load_der_x509_crl(
            built(CRLEntry(wanted.serial, NOW, 1), algorithm=algorithm)
        ).public_bytes(Encoding.PEM),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    issuer = str(tmp_path / "issuer")
    verify = ["verify", "-partial_chain", "-crl_check", "-attime", str(NOW + 5), "-trusted", issuer]
    assert "OK" in openssl(*verify, "-CRLfile", tmp_path / "clean", tmp_path / "leaf")
    with pytest.raises(AssertionError, match="certificate revoked"):
        openssl(*verify, "-CRLfile", tmp_path / "revoked", tmp_path / "leaf")
    printed = openssl("crl", "-in", tmp_path / "revoked", "-text", "-noout", "-CAfile", tmp_path / "issuer")
    assert "verify OK" in printed
    assert "Key Compromise" in printed


@pytest.mark.parametrize(
    "wrong",
    [
        {"number": -1},
        {"number": 1 << 159},
        {"next_update": NOW},
        {"entries": [CRLEntry(b"\x00", NOW)]},
        {"entries": [CRLEntry(b"\x01" * 21, NOW)]},
        {"entries": [CRLEntry(b"\x01", NOW, 7)]},
        {"entries": [CRLEntry(b"\x01", NOW, 8)]},
        {"entries": [CRLEntry(b"\x01", NOW, 11)]},
        {"entries": [CRLEntry(b"\x01", 1 << 60)]},
        {"distribution_point_url": "http://ä.test/"},
    ],
    ids=str,
)
def test_a_list_that_rfc_5280_forbids_is_not_made(wrong: dict[str, object]) -> None:
    fields = {
        "entries": [],
        "number": 1,
        "this_update": NOW,
        "next_update": NOW + WEEK,
        "distribution_point_url": URL,
    }
    with pytest.raises(CRLError):
        build_crl(hierarchy().issuer, hierarchy().issuer_key, **(fields | wrong))  # type: ignore[arg-type]
