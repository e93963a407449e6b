from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki import csr as csr_module
from certloom.pki import der, extensions, names, signatures
from certloom.pki.csr import CSRError, parse_csr
from certloom.pki.extensions import Extension
from certloom.pki.keys import facts_of, spki_of
from certloom.pki.names import Name
from tests.pki.making import SIGNING_ALGORITHMS, csr, csr_builder, dns, key, openssl
from tests.pki.test_identifiers import dns_names

EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
MICROSOFT_EXTENSION_REQUEST = "1.3.6.1.4.1.311.2.1.14"
CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"


def signed(info: bytes, algorithm: str = "P-256") -> bytes:
    """A request around this CertificationRequestInfo, properly signed whatever it holds."""
    return signatures.assemble(key(algorithm), info)


def info(
    *attributes: bytes,
    version: int = 0,
    subject: bytes = b"\x30\x00",
    spki: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    return der.sequence(
        der.integer(version),
        subject,
        spki_of(key()) if spki is None else spki,
        der.context(0, b"".join(attributes)),
        tail,
    )


def attribute(oid: str, *values: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.tlv(der.SET, b"".join(values)))


def asking(*parts: bytes, oid: str = EXTENSION_REQUEST) -> bytes:
    """The attribute that asks for these extensions."""
    return attribute(oid, der.sequence(*parts))


def san(value: bytes) -> bytes:
    return extensions.encode(extensions.SUBJECT_ALT_NAME, False, value)


def code_of(data: bytes) -> str:
    """The code that this request is refused with."""
    with pytest.raises(CSRError) as caught:
        parse_csr(data)
    return caught.value.code


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_a_request_by_every_kind_of_key_is_taken(algorithm: str) -> None:
    data = csr(algorithm)
    request = parse_csr(data)
    assert request.der == data
    assert request.key == facts_of(spki_of(key(algorithm)))
    assert request.identifiers == dns("www.example.com")
    assert request.subject == Name()
    assert request.common_name is None
    assert not request.must_staple


def test_everything_that_was_asked_for_is_told() -> None:
    builder = (
        csr_builder("B.example", "a.example", "b.example", common_name="Not a name")
        .add_extension(
            x509.KeyUsage(True, False, True, False, False, False, False, False, False), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.TLSFeature([x509.TLSFeatureType.status_request]), critical=False)
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), critical=True
        )
        .add_attribute(AttributeOID.CHALLENGE_PASSWORD, b"secret")
        .add_attribute(AttributeOID.UNSTRUCTURED_NAME, b"a name")
    )
    request = parse_csr(builder.sign(key(), hashes.SHA256()).public_bytes(Encoding.DER))
    assert request.identifiers == dns("b.example", "a.example")
    assert request.subject == Name(((names.COMMON_NAME, "Not a name"),))
    assert request.common_name == "Not a name"
    assert request.key_usage == ("digitalSignature", "keyEncipherment")
    assert request.extended_key_usage == ("1.3.6.1.5.5.7.3.2",)
    assert request.must_staple
    assert request.challenge_password == "secret"
    assert [e.oid for e in request.extensions] == [
        extensions.SUBJECT_ALT_NAME,
        extensions.KEY_USAGE,
        extensions.EXTENDED_KEY_USAGE,
        extensions.TLS_FEATURE,
        "1.2.3.4",
    ]
    assert request.extensions[-1] == Extension("1.2.3.4", True, b"\x05\x00")


@given(st.lists(dns_names, min_size=1, max_size=20, unique=True))
def test_names_are_read_as_cryptography_reads_them(listed: list[str]) -> None:
    data = csr("P-256", *listed)
    theirs = x509.load_der_x509_csr(data).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert [i.value for i in parse_csr(data).identifiers] == theirs.value.get_values_for_type(x509.DNSName)


def test_the_last_common_name_is_the_one_told() -> None:
    subject = names.encode(Name(((names.COMMON_NAME, "a"), (names.COMMON_NAME, "b"))))
    assert parse_csr(signed(info(subject=subject))).common_name == "b"


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda h: h.name)
@pytest.mark.parametrize("algorithm", ["rsa-2048", "P-256", "P-384", "P-521"])
def test_every_sha2_is_taken(algorithm: str, digest: hashes.HashAlgorithm) -> None:
    private = key(algorithm)
    assert isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
    parse_csr(csr_builder("a.example").sign(private, digest).public_bytes(Encoding.DER))  # type: ignore[arg-type]


@pytest.mark.parametrize("salt", [padding.PSS.DIGEST_LENGTH, padding.PSS.MAX_LENGTH], ids=str)
@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda h: h.name)
def test_rsa_pss_is_taken(digest: hashes.SHA256, salt: int) -> None:
    private = key("rsa-2048")
    assert isinstance(private, rsa.RSAPrivateKey)
    scheme = padding.PSS(padding.MGF1(digest), salt)
    request = csr_builder("a.example").sign(private, digest, rsa_padding=scheme)
    parse_csr(request.public_bytes(Encoding.DER))


def openssl_request(folder: Path, *arguments: str) -> bytes:
    out = folder / "request.der"
    openssl(
        "req", "-new", "-nodes", "-keyout", folder / "key.pem", "-outform", "DER", "-out", out, *arguments
    )
    return out.read_bytes()


@pytest.mark.parametrize(
    "arguments",
    [
        ("-newkey", "rsa:2048"),
        ("-newkey", "rsa:2048", "-sigopt", "rsa_padding_mode:pss"),
        ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-sha384"),
        ("-newkey", "ed25519"),
        ("-newkey", "ed448"),
    ],
    ids=lambda a: "-".join(a[1::2]),
)
def test_requests_by_openssl_are_taken(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    data = openssl_request(
        tmp_path,
        *arguments,
        "-subj",
        "/O=Müller/CN=a.example",
        "-utf8",
        "-addext",
        "subjectAltName=DNS:a.example,IP:2001:db8::1,URI:spiffe://x/y,email:a@b.example",
    )
    request = parse_csr(data)
    assert [str(i) for i in request.identifiers] == [
        "dns:a.example",
        "ip:2001:db8::1",
        "uri:spiffe://x/y",
        "email:a@b.example",
    ]
    assert request.subject == Name(((names.ORGANIZATION, "Müller"), (names.COMMON_NAME, "a.example")))


@pytest.mark.parametrize("digest", ["-sha1", "-md5", "-sha3-256"])
def test_signatures_with_other_hashes_are_refused(tmp_path: Path, digest: str) -> None:
    data = openssl_request(tmp_path, "-newkey", "rsa:2048", "-subj", "/CN=a", digest)
    assert code_of(data) == "bad-signature-algorithm"


def test_rsa_pss_with_sha1_is_refused(tmp_path: Path) -> None:
    for options in (
        ("-sha1", "-sigopt", "rsa_padding_mode:pss"),
        ("-sha256", "-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_mgf1_md:sha1"),
    ):
        data = openssl_request(tmp_path, "-newkey", "rsa:2048", "-subj", "/CN=a", *options)
        assert code_of(data) == "bad-signature-algorithm"


def test_a_key_restricted_to_pss_is_refused(tmp_path: Path) -> None:
    data = openssl_request(tmp_path, "-newkey", "rsa-pss", "-subj", "/CN=a")
    assert code_of(data) == "unsupported-key"


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_a_changed_octet_is_no_proof_of_possession(algorithm: str) -> None:
    data = bytearray(csr(algorithm, "www.example.com"))
    position = data.index(b"www.example.com")
    data[position] = ord("v")
    assert code_of(bytes(data)) == "bad-signature"


def test_a_changed_signature_is_no_proof_of_possession() -> None:
    for algorithm in ("rsa-2048", "P-256", "ed25519"):
        data = bytearray(csr(algorithm))
        data[-1] ^= 1
        assert code_of(bytes(data)) == "bad-signature"


def test_the_signature_of_another_key_is_no_proof_of_possession() -> None:
    assert code_of(signed(info(spki=spki_of(key("P-384"))))) == "bad-signature"
    assert code_of(signed(info(spki=spki_of(key("ed25519"))))) == "bad-signature-algorithm"


def test_a_signature_algorithm_that_does_not_fit_the_key_is_refused() -> None:
    body = info()
    for algorithm in (
        signatures.algorithm_for(key("rsa-2048")),
        der.sequence(der.oid("1.2.840.10045.4.3.2"), der.integer(1)),
        der.sequence(der.oid("1.2.3")),
        der.sequence(der.integer(1)),
        der.sequence(),
    ):
        data = der.sequence(body, algorithm, der.bit_string(b"x"))
        assert code_of(data) == "bad-signature-algorithm"


def test_null_parameters_of_ecdsa_are_let_pass() -> None:
    body = info()
    _, signature = signatures.sign_tbs(key(), body)
    with_null = der.sequence(der.oid("1.2.840.10045.4.3.2"), der.NULL)
    parse_csr(der.sequence(body, with_null, der.bit_string(signature)))


def test_the_received_octets_are_what_is_verified() -> None:
    # Attributes out of order are no DER, but signed as they are.
    first = attribute(CHALLENGE_PASSWORD, der.tlv(der.UTF8_STRING, b"x"))
    second = asking(san(der.sequence(der.tlv(0x82, b"a.example"))))
    for attributes in ((first, second), (second, first)):
        request = parse_csr(signed(info(*attributes)))
        assert request.challenge_password == "x"
        assert request.identifiers == dns("a.example")


def test_absent_attributes_are_let_pass() -> None:
    body = der.sequence(der.integer(0), b"\x30\x00", spki_of(key()))
    assert parse_csr(signed(body)).identifiers == ()
    assert parse_csr(signed(info())).identifiers == ()


def test_old_windows_senders_may_ask_for_extensions_under_their_own_identifier() -> None:
    name = san(der.sequence(der.tlv(0x82, b"a.example")))
    assert parse_csr(signed(info(asking(name, oid=MICROSOFT_EXTENSION_REQUEST)))).identifiers == dns(
        "a.example"
    )
    both = info(asking(name), asking(name, oid=MICROSOFT_EXTENSION_REQUEST))
    assert code_of(signed(both)) == "duplicate-attribute"


def test_duplicates_are_refused() -> None:
    name = san(der.sequence(der.tlv(0x82, b"a.example")))
    password = attribute(CHALLENGE_PASSWORD, der.tlv(der.UTF8_STRING, b"x"))
    assert code_of(signed(info(asking(name, name)))) == "duplicate-extension"
    assert code_of(signed(info(asking(name), asking(name)))) == "duplicate-attribute"
    assert code_of(signed(info(password, password))) == "duplicate-attribute"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"", "bad-subject-alt-name"),
        (b"\x30\x00", "bad-subject-alt-name"),
        (b"\x05\x00", "bad-subject-alt-name"),
        (der.sequence(der.tlv(0x82, b"a")) + b"\x00", "bad-subject-alt-name"),
        (der.sequence(der.tlv(0x89, b"a")), "bad-subject-alt-name"),
        (der.sequence(der.tlv(0x82, b"a..b")), "bad-dns-name"),
        (der.sequence(der.tlv(0x82, b"a\x00.example")), "bad-dns-name"),
        (der.sequence(der.tlv(0x82, "ä.example".encode())), "dns-name-not-ascii"),
        (der.sequence(der.tlv(0x82, b"\xff")), "dns-name-not-ascii"),
        (der.sequence(der.tlv(0x87, b"abc")), "bad-ip-address"),
        (der.sequence(der.tlv(0x86, b"/a")), "bad-uri"),
        (der.sequence(der.tlv(0x81, b"a")), "bad-email-address"),
        (der.sequence(der.context(4, b"\x30\x00")), "unsupported-name-form"),
        (der.sequence(der.tlv(0x88, b"\x2a\x03")), "unsupported-name-form"),
        (der.sequence(der.context(0, der.oid("1.2.3") + der.context(0, der.NULL))), "unsupported-name-form"),
        (der.sequence(*[der.tlv(0x82, b"a.example")] * 1001), "too-many-identifiers"),
    ],
)
def test_bad_names_are_refused_by_their_own_code(value: bytes, code: str) -> None:
    assert code_of(signed(info(asking(san(value))))) == code


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        (extensions.KEY_USAGE, b"\x05\x00"),
        (extensions.KEY_USAGE, b"\x03\x02\x00"),
        (extensions.EXTENDED_KEY_USAGE, b"\x30\x00"),
        (extensions.EXTENDED_KEY_USAGE, b"\x30\x02\x05\x00"),
        (extensions.TLS_FEATURE, b"\x30\x02\x05\x00"),
    ],
)
def test_malformed_extensions_are_refused(oid: str, value: bytes) -> None:
    assert code_of(signed(info(asking(extensions.encode(oid, False, value))))) == "bad-extension"


@pytest.mark.parametrize(
    "body",
    [
        info(version=1),
        info(version=-1),
        info(tail=b"\x05\x00"),
        info(b"\x05\x00"),
        info(attribute(EXTENSION_REQUEST)),
        info(attribute(EXTENSION_REQUEST, der.sequence(), der.sequence())),
        info(attribute(CHALLENGE_PASSWORD)),
        info(attribute(CHALLENGE_PASSWORD, der.integer(1))),
        info(asking(der.sequence(der.oid("1.2.3")))),
        info(asking(der.sequence(der.oid("1.2.3"), b"\x01\x01\x01", der.octet_string(b"")))),
        info(subject=b"\x31\x00"),
        der.sequence(der.integer(0)),
    ],
)
def test_malformed_requests_are_refused(body: bytes) -> None:
    assert code_of(signed(body)) == "malformed-csr"


def test_a_subject_that_is_no_name_is_refused() -> None:
    assert code_of(signed(info(subject=b"\x30\x02\x31\x00"))) == "bad-subject"


def test_more_than_a_request_is_refused() -> None:
    data = csr()
    assert code_of(data + b"\x00") == "malformed-csr"
    assert code_of(data[:-1]) == "malformed-csr"
    assert code_of(b"") == "malformed-csr"


def test_pem_is_told_from_other_garbage() -> None:
    with pytest.raises(CSRError, match="PEM"):
        parse_csr(b"-----BEGIN CERTIFICATE REQUEST-----")


def test_a_request_that_is_too_long_is_refused() -> None:
    data = csr()
    assert code_of(data + bytes(csr_module.MAX_SIZE)) == "csr-too-large"


def test_the_code_of_a_rejected_key_is_passed_on() -> None:
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    for bits, code in ((8200, "rsa-key-too-large"), (512, "rsa-key-too-small")):
        modulus = (1 << (bits - 1)) | 1
        spki = der.sequence(algorithm, der.bit_string(der.sequence(der.integer(modulus), der.integer(65537))))
        assert code_of(signed(info(spki=spki))) == code
    off_curve = spki_of(key())[:-1] + bytes([spki_of(key())[-1] ^ 1])
    assert code_of(signed(info(spki=off_curve))) == "bad-public-key"
    assert code_of(signed(info(spki=b"\x30\x00"))) == "bad-public-key"


REQUEST = csr("P-256", "a.example", "b.example")


@given(st.data())
def test_a_mutated_request_is_refused_with_csr_error(data: st.DataObject) -> None:
    mutated = bytearray(REQUEST)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated) - 1))
        mutated[position] = data.draw(st.integers(0, 255))
    with contextlib.suppress(CSRError):
        assert parse_csr(bytes(mutated)) == parse_csr(REQUEST)


@given(st.binary(max_size=300))
def test_no_octets_raise_anything_but_csr_error(data: bytes) -> None:
    for candidate in (data, signed(data), signed(der.sequence(data)), signed(info(data))):
        with contextlib.suppress(CSRError):
            parse_csr(candidate)


def test_names_of_the_subject_do_not_become_identifiers() -> None:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil.example")])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key(), hashes.SHA256())
    assert parse_csr(request.public_bytes(Encoding.DER)).identifiers == ()
