from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID as AIA
from cryptography.x509.verification import PolicyBuilder, Store
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki import ca, der, keys
from certloom.pki.certificates import (
    CertificateError,
    TemplateError,
    build_certificate,
    issuer_facts,
    key_identifier,
    parse_certificate,
    recheck,
)
from certloom.pki.extensions import KEY_USAGE_BITS, Extension
from certloom.pki.identifiers import parse_dns
from certloom.pki.names import Name, parse_name
from certloom.pki.template import CertificateTemplate
from tests.pki.making import (
    NOW,
    OPENSSL_KNOWS,
    SIGNING_ALGORITHMS,
    YEAR,
    dns,
    hierarchy,
    key,
    openssl,
    template,
)
from tests.pki.test_identifiers import EVERY_FORM, dns_names
from tests.pki.test_names import some_names


def built(subject: CertificateTemplate, algorithm: str = "P-256") -> bytes:
    chain = hierarchy(algorithm)
    return build_certificate(subject, chain.issuer, chain.issuer_key)


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_every_ca_key_issues_certificates_that_pass_the_recheck(algorithm: str) -> None:
    chain = hierarchy(algorithm)
    wanted = template(spki=keys.spki_of(key(algorithm)))
    issued = built(wanted, algorithm)
    assert recheck(issued, wanted, chain.issuer) == []
    certificate = x509.load_der_x509_certificate(issued)
    issuer = x509.load_der_x509_certificate(chain.issuer.certificate)
    root = x509.load_der_x509_certificate(chain.root.certificate)
    certificate.verify_directly_issued_by(issuer)
    issuer.verify_directly_issued_by(root)
    root.verify_directly_issued_by(root)


@pytest.mark.parametrize("algorithm", OPENSSL_KNOWS)
def test_openssl_verifies_the_chain(tmp_path: Path, algorithm: str) -> None:
    chain = hierarchy(algorithm)
    for name, data in (
        ("root", chain.root.certificate),
        ("issuer", chain.issuer.certificate),
        ("leaf", built(template(), algorithm)),
    ):
        pem = x509.load_der_x509_certificate(data).public_bytes(Encoding.PEM)
        (tmp_path / name).write_bytes(pem)
    printed = openssl(
        "verify",
        "-x509_strict",
        "-purpose",
        "sslserver",
        "-verify_hostname",
        "www.example.com",
        "-attime",
        str(NOW + 1),
        "-CAfile",
        tmp_path / "root",
        "-untrusted",
        tmp_path / "issuer",
        tmp_path / "leaf",
    )
    assert printed.strip().endswith("OK")


def test_the_web_pki_verifier_of_cryptography_is_content() -> None:
    chain = hierarchy()
    store = Store([x509.load_der_x509_certificate(chain.root.certificate)])
    verifier = (
        PolicyBuilder()
        .store(store)
        .time(datetime.fromtimestamp(NOW + 5, UTC).replace(tzinfo=None))
        .build_server_verifier(x509.DNSName("www.example.com"))
    )
    leaf = x509.load_der_x509_certificate(built(template()))
    assert len(verifier.verify(leaf, [x509.load_der_x509_certificate(chain.issuer.certificate)])) == 3


def test_every_field_reads_as_it_was_meant() -> None:
    wanted = template(
        subject=parse_name("CN=www.example.com,O=Müller,C=DE"),
        identifiers=EVERY_FORM,
        key_usage=("digitalSignature", "keyEncipherment"),
        extended_key_usage=("1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"),
        extensions=(Extension("1.3.6.1.5.5.7.1.24", False, b"\x30\x03\x02\x01\x05"),),
        ocsp_url="http://ocsp.test/",
    )
    certificate = x509.load_der_x509_certificate(built(wanted))
    assert certificate.version is x509.Version.v3
    assert certificate.serial_number == int.from_bytes(wanted.serial, "big")
    assert certificate.issuer.rfc4514_string() == "CN=Test Issuing CA,O=Test"
    assert certificate.subject.rfc4514_string() == "CN=www.example.com,O=Müller,C=DE"
    assert certificate.not_valid_before_utc.timestamp() == wanted.not_before
    assert certificate.not_valid_after_utc.timestamp() == wanted.not_after
    found = {e.oid.dotted_string: e for e in certificate.extensions}
    assert list(found) == [
        "2.5.29.35",
        "2.5.29.14",
        "2.5.29.15",
        "2.5.29.37",
        "2.5.29.19",
        "2.5.29.17",
        "2.5.29.31",
        "1.3.6.1.5.5.7.1.1",
        "1.3.6.1.5.5.7.1.24",
    ]
    assert [oid for oid, e in found.items() if e.critical] == ["2.5.29.15", "2.5.29.19"]
    issuer = x509.load_der_x509_certificate(hierarchy().issuer.certificate)
    issuer_key_identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert found["2.5.29.35"].value == x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
        issuer_key_identifier
    )
    places = found["1.3.6.1.5.5.7.1.1"].value
    assert isinstance(places, x509.AuthorityInformationAccess)
    assert [(p.access_method, p.access_location.value) for p in places] == [
        (AIA.OCSP, "http://ocsp.test/"),
        (AIA.CA_ISSUERS, "http://ca.test/ca/1.cer"),
    ]


def test_alternative_names_are_critical_if_and_only_if_the_subject_is_empty() -> None:
    for subject, critical in ((Name(), True), (parse_name("CN=a"), False)):
        certificate = x509.load_der_x509_certificate(built(template(subject=subject)))
        assert (
            certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical is critical
        )


def test_without_usages_there_are_no_usage_extensions() -> None:
    wanted = template(key_usage=(), extended_key_usage=(), crl_url=None, issuer_url=None)
    issued = built(wanted)
    found = [e.oid.dotted_string for e in x509.load_der_x509_certificate(issued).extensions]
    assert found == ["2.5.29.35", "2.5.29.14", "2.5.29.19", "2.5.29.17"]
    assert recheck(issued, wanted, hierarchy().issuer) == []


def test_a_key_identifier_is_the_truncated_sha256_of_the_key() -> None:
    spki = keys.spki_of(key())
    assert key_identifier(spki) == hashlib.sha256(spki[-65:]).digest()[:20]


@pytest.mark.parametrize(
    ("serial", "encoded"),
    [
        (b"\x01", "020101"),
        (b"\x00\x00\x7f", "02017f"),
        (b"\x80", "02020080"),
        (b"\xff" * 19, "021400" + "ff" * 19),
        (b"\x7f" + b"\xff" * 19, "02147f" + "ff" * 19),
    ],
)
def test_serials_are_positive_integers(serial: bytes, encoded: str) -> None:
    wanted = template(serial=serial)
    issued = built(wanted)
    assert bytes.fromhex(encoded) in issued
    assert recheck(issued, wanted, hierarchy().issuer) == []
    assert parse_certificate(issued).serial == serial.lstrip(b"\x00")


_usages = st.lists(
    st.sampled_from(
        [name for name in KEY_USAGE_BITS if name not in ("keyCertSign", "encipherOnly", "decipherOnly")]
    ),
    unique=True,
)


@given(
    wanted=st.builds(
        template,
        serial=st.binary(min_size=8, max_size=19).filter(any),
        subject=some_names,
        identifiers=st.lists(dns_names.map(parse_dns), min_size=1, max_size=8, unique=True).map(tuple),
        not_before=st.integers(-(10**9), 4 * 10**9),
        not_after=st.integers(4 * 10**9, 253402300799),
        key_usage=_usages.map(tuple),
        extended_key_usage=st.lists(
            st.sampled_from(["1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2", "1.2.3.4"]), unique=True
        ).map(tuple),
        ocsp_url=st.sampled_from([None, "http://ocsp.test/"]),
    )
)
def test_whatever_is_built_passes_the_recheck_and_reads_back(wanted: CertificateTemplate) -> None:
    issued = built(wanted)
    assert recheck(issued, wanted, hierarchy().issuer) == []
    facts = parse_certificate(issued)
    assert facts.serial == wanted.serial.lstrip(b"\x00")
    assert facts.subject == wanted.subject
    assert facts.identifiers == wanted.identifiers
    assert (facts.not_before, facts.not_after) == (wanted.not_before, wanted.not_after)
    assert set(facts.key_usage) == set(wanted.key_usage)
    assert facts.extended_key_usage == wanted.extended_key_usage
    assert facts.spki == wanted.spki


@pytest.mark.parametrize(
    "changes",
    [
        {"serial": b""},
        {"serial": b"\x00"},
        {"serial": b"\x80" + bytes(19)},
        {"serial": b"\x01" + bytes(20)},
        {"not_after": NOW - 1},
        {"not_after": 253402300800},
        {"identifiers": ()},
        {"subject": Name((("2.5.4.6", "Germany"),))},
        {"key_usage": ("keyCertSign",)},
        {"key_usage": ("signing",)},
        {"extended_key_usage": ("serverAuth",)},
        {"crl_url": "http://ä.test/"},
        {"spki": b"\x05\x00"},
        {"extensions": (Extension("2.5.29.19", True, b"\x30\x03\x01\x01\xff"),)},
        {"extensions": (Extension("1.2.3", False, b"\x05\x00"),) * 2},
        {"extensions": (Extension("no oid", False, b"\x05\x00"),)},
    ],
    ids=str,
)
def test_a_template_without_a_valid_certificate_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(TemplateError):
        built(template(**changes))


def test_facts_of_an_issued_certificate() -> None:
    wanted = template()
    issued = built(wanted)
    facts = parse_certificate(issued)
    issuer = hierarchy().issuer
    assert facts.sha256 == hashlib.sha256(issued).digest()
    assert facts.issuer_der == issuer.name
    assert facts.authority_key_identifier == issuer.key_identifier
    assert facts.key_identifier == key_identifier(wanted.spki)
    assert facts.key == keys.facts_of(wanted.spki)
    assert facts.signature_algorithm == issuer.signature_algorithm
    assert facts.crl_urls == ("http://ca.test/crl/1/7.crl",)
    assert not facts.is_ca
    assert facts.other_names == 0


def openssl_certificate(folder: Path, *arguments: str) -> bytes:
    out = folder / "certificate.der"
    openssl("req", "-x509", "-nodes", "-keyout", folder / "k", "-outform", "DER", "-out", out, *arguments)
    return out.read_bytes()


def test_certificates_of_others_are_read(tmp_path: Path) -> None:
    data = openssl_certificate(
        tmp_path,
        *("-newkey", "rsa:1024", "-subj", "/O=Other/CN=box", "-days", "20000"),
        *("-addext", "subjectAltName=DNS:under_score,DNS:Box.example,otherName:1.2.3;UTF8:x,IP:192.0.2.1"),
    )
    facts = parse_certificate(data)
    theirs = x509.load_der_x509_certificate(data)
    assert facts.subject == Name((("2.5.4.10", "Other"), ("2.5.4.3", "box")))
    assert [str(i) for i in facts.identifiers] == ["dns:box.example", "ip:192.0.2.1"]
    assert facts.other_names == 2
    assert facts.is_ca
    assert facts.key is not None
    assert facts.key.bits == 1024
    assert facts.not_after == int(theirs.not_valid_after_utc.timestamp())
    assert int.from_bytes(facts.serial, "big") == theirs.serial_number


def test_a_certificate_with_a_foreign_kind_of_key_is_read(tmp_path: Path) -> None:
    data = openssl_certificate(
        tmp_path, "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp256k1", "-subj", "/CN=box"
    )
    assert parse_certificate(data).key is None
    with pytest.raises(CertificateError):
        issuer_facts(data)


def test_an_end_entity_is_no_issuer() -> None:
    with pytest.raises(CertificateError):
        issuer_facts(built(template()))


ISSUED = built(template())


@given(st.data())
def test_no_mutation_makes_reading_raise_anything_but_its_own_error(data: st.DataObject) -> None:
    mutated = bytearray(ISSUED)
    for _ in range(data.draw(st.integers(1, 5))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CertificateError):
        parse_certificate(bytes(mutated))


@pytest.mark.parametrize("data", [b"", b"\x30\x00", b"-----BEGIN", der.sequence(der.sequence())])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(CertificateError):
        parse_certificate(data)


def test_a_root_is_what_rfc_5280_calls_self_signed() -> None:
    root = x509.load_der_x509_certificate(hierarchy().root.certificate)
    assert root.issuer == root.subject
    constraints = root.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=None)
    usage = root.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert usage.crl_sign
    own = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert root.extensions.get_extension_for_class(
        x509.AuthorityKeyIdentifier
    ).value == x509.AuthorityKeyIdentifier(own, None, None)


def test_an_issuing_ca_is_below_its_root() -> None:
    chain = hierarchy()
    facts = parse_certificate(chain.issuer.certificate)
    assert facts.is_ca
    assert facts.authority_key_identifier == chain.root.key_identifier
    assert facts.issuer_der == chain.root.name
    assert facts.crl_urls == ("http://ca.test/root.crl",)
    certificate = x509.load_der_x509_certificate(chain.issuer.certificate)
    assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0


@pytest.mark.parametrize(
    "changes",
    [{"subject": Name()}, {"not_after": NOW - 1}, {"key_usage": ("cRLSign",)}, {"serial": b"\x00"}],
    ids=str,
)
def test_a_ca_that_rfc_5280_forbids_is_not_made(changes: dict[str, object]) -> None:
    fields = {"subject": parse_name("CN=x"), "serial": b"\x01", "not_before": NOW, "not_after": NOW + YEAR}
    with pytest.raises(TemplateError):
        ca.make_root(key(), **(fields | changes))  # type: ignore[arg-type]


def test_names_and_lists_are_dns() -> None:
    assert parse_certificate(built(template(identifiers=dns("*.a.example", "b")))).identifiers == dns(
        "*.a.example", "b"
    )
