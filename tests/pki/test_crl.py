from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki.certificates import build_certificate
from certloom.pki.crl import (
    REASONS,
    REMOVED,
    CRLEntry,
    CRLError,
    CRLTemplate,
    build_crl,
    encode_entries,
    recheck_crl,
    tbs_crl,
)
from tests.pki.making import NOW, OPENSSL_KNOWS, SIGNING_ALGORITHMS, hierarchy, openssl, template

WEEK = 7 * 86400
URL = "http://ca.test/crl/1/7.crl"


def built(*entries: CRLEntry, algorithm: str = "P-256", number: int = 1, url: str | None = URL) -> bytes:
    chain = hierarchy(algorithm)
    return build_crl(CRLTemplate(entries, number, NOW, NOW + WEEK, url), chain.issuer, chain.issuer_key)


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
        {"entries": (CRLEntry(b"\x00", NOW),)},
        {"entries": (CRLEntry(b"\x01" * 21, NOW),)},
        {"entries": (CRLEntry(b"\x01", NOW, 7),)},
        {"entries": (CRLEntry(b"\x01", NOW, 8),)},
        {"entries": (CRLEntry(b"\x01", NOW, 11),)},
        {"entries": (CRLEntry(b"\x01", 1 << 60),)},
        {"distribution_point_url": "http://ä.test/"},
        {"base_number": 1},
        {"base_number": -1},
        {"base_number": 0, "delta_url": URL},
        {"base_number": 0, "entries": (CRLEntry(b"\x01", NOW, 7),)},
    ],
    ids=str,
)
def test_a_list_that_rfc_5280_forbids_is_not_made(wrong: dict[str, object]) -> None:
    plain = CRLTemplate((), 1, NOW, NOW + WEEK, URL)
    with pytest.raises(CRLError):
        build_crl(msgspec.structs.replace(plain, **wrong), hierarchy().issuer, hierarchy().issuer_key)


def delta(*entries: CRLEntry, base: int = 3) -> CRLTemplate:
    return CRLTemplate(entries, 7, NOW, NOW + 3600, URL, base_number=base)


def test_a_delta_crl_says_what_it_adds_to_and_what_left() -> None:
    chain = hierarchy()
    entries = (CRLEntry(b"\x05", NOW, 1), CRLEntry(b"\x06", NOW, REMOVED))
    crl = x509.load_der_x509_crl(build_crl(delta(*entries), chain.issuer, chain.issuer_key))
    indicator = crl.extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert indicator.critical
    assert indicator.value.crl_number == 3
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
    reasons = [e.extensions.get_extension_for_class(x509.CRLReason).value.reason for e in crl]
    assert reasons == [x509.ReasonFlags.key_compromise, x509.ReasonFlags.remove_from_crl]


def test_a_complete_crl_says_where_its_deltas_are() -> None:
    chain = hierarchy()
    template = CRLTemplate((), 7, NOW, NOW + WEEK, URL, delta_url="http://ca.test/7-delta.crl")
    crl = x509.load_der_x509_crl(build_crl(template, chain.issuer, chain.issuer_key))
    freshest = crl.extensions.get_extension_for_class(x509.FreshestCRL)
    assert not freshest.critical
    assert freshest.value[0].full_name == [x509.UniformResourceIdentifier("http://ca.test/7-delta.crl")]


@given(_entries, st.booleans())
def test_entries_encoded_apart_are_those_of_the_list(entries: list[CRLEntry], is_delta: bool) -> None:
    chain = hierarchy()
    rows = [(e.serial, e.revoked_at, e.reason) for e in entries]
    plain = CRLTemplate(tuple(entries), 7, NOW, NOW + WEEK, URL, 3 if is_delta else None)
    apart = msgspec.structs.replace(plain, entries=(), encoded=encode_entries(rows, delta=is_delta))
    assert tbs_crl(apart, chain.issuer) == tbs_crl(plain, chain.issuer)


def test_the_recheck_finds_every_difference() -> None:
    chain = hierarchy()
    wanted = CRLTemplate(
        (CRLEntry(b"\x05", NOW, 1),), 7, NOW, NOW + WEEK, URL, delta_url="http://ca.test/d.crl"
    )
    good = build_crl(wanted, chain.issuer, chain.issuer_key)
    assert recheck_crl(good, wanted, chain.issuer) == []
    for change, what in (
        ({"number": 8}, "number"),
        ({"this_update": NOW - 1}, "times"),
        ({"next_update": NOW + WEEK + 1}, "times"),
        ({"entries": ()}, "entries"),
        ({"entries": (CRLEntry(b"\x05", NOW, 4),)}, "entries"),
        ({"distribution_point_url": None}, "distribution point"),
        ({"distribution_point_url": "http://ca.test/crl/1/8.crl"}, "distribution point"),
        ({"delta_url": None}, "freshest CRL"),
        ({"delta_url": None, "base_number": 3}, "base"),
    ):
        other = msgspec.structs.replace(wanted, **change)
        assert what in recheck_crl(build_crl(other, chain.issuer, chain.issuer_key), wanted, chain.issuer)
    stranger = hierarchy("P-384")
    assert "issuer" not in recheck_crl(good, wanted, stranger.issuer)  # of the same name
    assert "signature algorithm" in recheck_crl(good, wanted, stranger.issuer)
    assert recheck_crl(good[:-1] + bytes([good[-1] ^ 1]), wanted, chain.issuer) == ["signature"]


@given(st.binary(max_size=400), st.integers(0, 400), st.integers(0, 255))
def test_the_recheck_of_anything_at_all_only_finds_fault(junk: bytes, at: int, octet: int) -> None:
    chain = hierarchy()
    wanted = CRLTemplate((CRLEntry(b"\x05", NOW, 1),), 7, NOW, NOW + WEEK, URL)
    good = build_crl(wanted, chain.issuer, chain.issuer_key)
    damaged = good[:at] + bytes([octet]) + good[at + 1 :]
    assert recheck_crl(junk, wanted, chain.issuer)
    if damaged != good:
        assert recheck_crl(damaged, wanted, chain.issuer)
