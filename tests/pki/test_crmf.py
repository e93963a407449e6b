from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as pyasn1_decode
from pyasn1_alt_modules import rfc4211

from certloom.pki import crmf, crmf_mac, der, extensions, general_names, names, signatures
from certloom.pki.crmf import (
    AttributeTypeAndValue,
    CertTemplate,
    CRMFError,
    OldCertID,
    PKIArchiveOptions,
    PKIPublicationInfo,
    POPOPrivKey,
    POPOSigningKey,
    SinglePubInfo,
)
from certloom.pki.crmf_mac import AlgorithmIdentifier, PBMParameter, PKMACValue
from certloom.pki.extensions import Extension
from certloom.pki.identifiers import parse_dns
from certloom.pki.keys import facts_of, spki_of
from certloom.pki.names import Name, parse_name
from tests.pki.making import SIGNING_ALGORITHMS, key

DEVICE = parse_name("CN=dev 1,O=Test")
SECRET = b"a secret that was shared"


def asking(**fields: object) -> CertTemplate:
    """A template with the subject and the key of a device, but for what is given."""
    return CertTemplate(**({"subject": DEVICE, "public_key": spki_of(key())} | fields))  # type: ignore[arg-type]


def proven(request: bytes, given: crmf.POPOSigningKeyInput | None = None, algorithm: str = "P-256") -> bytes:
    """A message with a signature of possession over the input if there is one, or over the request."""
    identifier, signature = signatures.sign_tbs(key(algorithm), request if given is None else given.der)
    return crmf.encode_cert_req_msg(request, POPOSigningKey(identifier, signature, given))


def code_of(data: bytes) -> str:
    with pytest.raises(CRMFError) as caught:
        crmf.decode_cert_req_msg(data)
    return caught.value.code


def refusal(data: bytes, secret: bytes | None = None) -> str:
    with pytest.raises(CRMFError) as caught:
        crmf.verify_possession(crmf.decode_cert_req_msg(data), secret)
    return caught.value.code


# --- proofs of possession --------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_a_signature_over_the_request_proves_every_kind_of_key(algorithm: str) -> None:
    spki = spki_of(key(algorithm))
    request = crmf.encode_cert_request(1, asking(public_key=spki))
    message = crmf.decode_cert_req_msg(proven(request, algorithm=algorithm))
    assert message.request.der == request
    assert crmf.verify_possession(message) == facts_of(spki)


def test_a_signature_by_another_key_proves_nothing() -> None:
    request = crmf.encode_cert_request(1, asking(public_key=spki_of(key("P-384"))))
    assert refusal(proven(request)) == "bad-signature"


def test_a_request_that_was_changed_is_not_proven() -> None:
    message = proven(crmf.encode_cert_request(1, asking()))
    assert b"dev 1" in message
    assert refusal(message.replace(b"dev 1", b"dev 2")) == "bad-signature"


def test_an_empty_subject_is_a_subject() -> None:
    message = crmf.decode_cert_req_msg(proven(crmf.encode_cert_request(1, asking(subject=Name()))))
    assert message.request.template.subject == Name()
    crmf.verify_possession(message)


def test_without_a_subject_the_input_is_signed_and_names_its_sender() -> None:
    given = crmf.encode_popo_signing_key_input(spki_of(key()), crmf.general_name(DEVICE))
    request = crmf.encode_cert_request(1, asking(subject=None))
    message = crmf.decode_cert_req_msg(proven(request, given))
    crmf.verify_possession(message)
    assert isinstance(message.popo, POPOSigningKey)
    assert message.popo.input == given
    assert crmf.directory_name(given.sender or b"") == DEVICE
    other = crmf.encode_popo_signing_key_input(spki_of(key()), crmf.general_name(Name()))
    identifier, signature = signatures.sign_tbs(key(), given.der)
    forged = crmf.encode_cert_req_msg(request, POPOSigningKey(identifier, signature, other))
    assert refusal(forged) == "bad-signature"


def test_the_input_must_be_there_exactly_where_the_template_lacks_the_subject() -> None:
    given = crmf.encode_popo_signing_key_input(spki_of(key()), crmf.general_name(DEVICE))
    assert refusal(proven(crmf.encode_cert_request(1, asking()), given)) == "bad-proof"
    assert refusal(proven(crmf.encode_cert_request(1, asking(subject=None)))) == "bad-proof"


def test_the_inputs_key_must_be_the_templates() -> None:
    given = crmf.encode_popo_signing_key_input(spki_of(key()), crmf.general_name(DEVICE))
    request = crmf.encode_cert_request(1, asking(subject=None, public_key=spki_of(key("P-384"))))
    assert refusal(proven(request, given)) == "bad-proof"
    request = crmf.encode_cert_request(1, asking(subject=None, public_key=None))
    assert refusal(proven(request, given)) == "no-public-key"


def test_a_mac_in_the_input_takes_the_secret() -> None:
    spki = spki_of(key())
    mac = crmf_mac.make_mac(PBMParameter(b"8 octets", 500), SECRET, spki)
    given = crmf.encode_popo_signing_key_input(spki, mac)
    data = proven(crmf.encode_cert_request(1, asking(subject=None)), given)
    crmf.verify_possession(crmf.decode_cert_req_msg(data), SECRET)
    assert refusal(data) == "no-secret"
    assert refusal(data, b"another secret") == "bad-mac"


def test_what_is_no_signature_is_not_taken_for_one() -> None:
    request = crmf.encode_cert_request(1, asking())
    assert refusal(crmf.encode_cert_req_msg(request)) == "no-signature"
    assert refusal(crmf.encode_cert_req_msg(request, crmf.RAVerified())) == "no-signature"
    key_encipherment = crmf.KeyEncipherment(POPOPrivKey("subsequentMessage", b"\x01"))
    data = crmf.encode_cert_req_msg(request, key_encipherment)
    assert refusal(data) == "no-signature"
    popo = crmf.decode_cert_req_msg(data).popo
    assert isinstance(popo, crmf.KeyEncipherment)
    assert popo.key.subsequent_message == 1


def test_a_key_or_signature_of_an_unknown_kind_is_refused_in_its_own_terms() -> None:
    unknown = der.sequence(der.sequence(der.oid("1.2.3.4")), der.bit_string(b"key"))
    request = crmf.encode_cert_request(1, asking(public_key=unknown))
    assert refusal(proven(request)) == "unsupported-key"
    sha1 = der.sequence(der.oid("1.2.840.10045.4.1"))
    request = crmf.encode_cert_request(1, asking())
    data = crmf.encode_cert_req_msg(request, POPOSigningKey(sha1, b"signature"))
    assert refusal(data) == "bad-signature-algorithm"


# --- MACs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [-1, 0, 99, 100_001, 1 << 200])
def test_iterations_have_bounds(iterations: int) -> None:
    parameter = PBMParameter(b"salt", iterations)
    mac = PKMACValue(parameter.algorithm(), b"")
    with pytest.raises(CRMFError) as caught:
        crmf_mac.verify_mac(mac, SECRET, b"data")
    assert caught.value.code == "bad-iteration-count"


@pytest.mark.parametrize(
    "algorithm",
    [
        AlgorithmIdentifier("1.2.840.113549.1.5.14", der.NULL),
        PBMParameter(b"salt", 100, AlgorithmIdentifier(crmf_mac.SHA1)).algorithm(),
        PBMParameter(b"salt", 100, mac=AlgorithmIdentifier("1.2.3")).algorithm(),
        PBMParameter(b"s" * 1025, 100).algorithm(),
    ],
)
def test_macs_of_other_kinds_are_refused(algorithm: AlgorithmIdentifier) -> None:
    with pytest.raises(CRMFError) as caught:
        crmf_mac.verify_mac(PKMACValue(algorithm, b""), SECRET, b"data")
    assert caught.value.code == "unsupported-mac"


def test_parameters_of_a_mac_that_are_malformed_are_refused() -> None:
    for parameters in (b"", der.NULL, der.sequence(der.octet_string(b"salt"))):
        with pytest.raises(CRMFError) as caught:
            crmf_mac.decode_pbm(AlgorithmIdentifier(crmf_mac.PASSWORD_BASED_MAC, parameters))
        assert caught.value.code == "malformed"


# --- what is refused when it is read ---------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        {"version": 0},
        {"serial": b"\x01"},
        {"signing_algorithm": der.sequence(der.oid("1.2.840.10045.4.3.2"))},
        {"issuer_unique_id": b"\x00\x01"},
        {"subject_unique_id": b"\x00\x01"},
    ],
)
def test_fields_that_are_the_cas_to_fill_are_refused_in_a_request_only(field: dict[str, object]) -> None:
    template = asking(**field)
    request = crmf.encode_cert_request(1, template)
    assert code_of(crmf.encode_cert_req_msg(request)) == "bad-template"
    assert crmf.decode_template(crmf.encode_template(template)) == template


def test_version_3_may_be_asked_for() -> None:
    message = crmf.decode_cert_req_msg(
        crmf.encode_cert_req_msg(crmf.encode_cert_request(0, asking(version=2)))
    )
    assert message.request.template.version == 2


def test_what_is_there_twice_is_refused() -> None:
    token = crmf.RegToken("once")
    assert (
        code_of(crmf.encode_cert_req_msg(crmf.encode_cert_request(1, asking(), (token, token))))
        == "duplicate-control"
    )
    twice = (Extension("1.2.3", False, der.NULL),) * 2
    request = crmf.encode_cert_request(1, asking(extensions=twice))
    assert code_of(crmf.encode_cert_req_msg(request)) == "duplicate-extension"


def test_there_are_bounds() -> None:
    message = crmf.encode_cert_req_msg(crmf.encode_cert_request(1, asking()))
    most = [message] * crmf.MAX_MESSAGES
    assert len(crmf.decode_cert_req_messages(crmf.encode_cert_req_messages(most))) == crmf.MAX_MESSAGES
    with pytest.raises(CRMFError) as caught:
        crmf.decode_cert_req_messages(crmf.encode_cert_req_messages([*most, message]))
    assert caught.value.code == "too-many-messages"
    with pytest.raises(CRMFError) as caught:
        crmf.decode_cert_req_messages(bytes(crmf.MAX_SIZE + 1))
    assert caught.value.code == "too-large"
    with pytest.raises(CRMFError) as caught:
        crmf.decode_cert_req_messages(crmf.encode_cert_req_messages([]))
    assert caught.value.code == "malformed"
    many = [AttributeTypeAndValue(f"1.2.{n}", der.NULL) for n in range(33)]
    assert code_of(crmf.encode_cert_req_msg(crmf.encode_cert_request(1, asking(), many))) == (
        "too-many-controls"
    )


@pytest.mark.parametrize("number", [-2, 1 << 32, 1 << 8000])
def test_a_cert_req_id_has_a_range(number: int) -> None:
    assert code_of(crmf.encode_cert_req_msg(crmf.encode_cert_request(number, asking()))) == "malformed"


@pytest.mark.parametrize(
    "template",
    [
        b"\xa4\x00",  # OptionalValidity without either
        b"\xa9\x00",  # Extensions without any
        b"\x80\x01\x03",  # version 4
        b"\xa3\x04\x30\x02\x31\x00",  # an issuer with an empty RDN
        b"\xa5\x02\x05\x00",  # a subject that is no Name
        b"\x81\x01\x01\x80\x01\x02",  # out of order
    ],
)
def test_malformed_templates_are_refused(template: bytes) -> None:
    request = der.sequence(der.integer(1), der.sequence(template))
    assert code_of(der.sequence(request)) in ("malformed", "bad-name")


# --- agreement -------------------------------------------------------------------------------

_texts = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=20)
_names = st.builds(
    lambda values: Name(tuple((names.ORGANIZATION, value) for value in values)), st.lists(_texts, max_size=3)
)
_serials = st.binary(min_size=1, max_size=20).map(lambda octets: octets.lstrip(b"\x00") or b"\x00")
_times = st.none() | st.integers(-(10**9), 10**11)
_oids = st.integers(1, 10**6).map(lambda arc: f"1.3.6.1.4.1.{arc}")
_extensions = st.lists(
    st.builds(Extension, _oids, st.booleans(), st.binary(max_size=8).map(der.octet_string)),
    max_size=3,
    unique_by=lambda extension: extension.oid,
).map(tuple)
_general_names = st.one_of(
    _names.map(crmf.general_name),
    st.just(general_names.encode_name(parse_dns("ca.example"))),
)
_places = st.lists(st.builds(SinglePubInfo, st.integers(0, 3), st.none() | _general_names), max_size=3)
_known_controls = st.tuples(
    st.none() | st.builds(crmf.RegToken, st.text(max_size=20)),
    st.none() | st.builds(crmf.Authenticator, st.text(max_size=20)),
    st.none() | st.builds(PKIPublicationInfo, st.just(True), _places.map(tuple)),
    st.none() | st.just(PKIArchiveOptions(der.context(2, b"\xff", constructed=False))),
    st.none() | st.builds(OldCertID, _general_names, _serials),
    st.none() | st.just(crmf.ProtocolEncrKey(spki_of(key()))),
    st.none() | st.builds(AttributeTypeAndValue, _oids, st.binary(max_size=8).map(der.octet_string)),
).map(lambda controls: tuple(control for control in controls if control is not None))
_macs = st.builds(
    PKMACValue,
    st.builds(PBMParameter, st.binary(max_size=8), st.integers(0, 10**6)).map(lambda pbm: pbm.algorithm()),
    st.binary(max_size=20),
)
_ALGORITHM = signatures.algorithm_for(key())
_private = st.one_of(
    st.just(POPOPrivKey("subsequentMessage", b"\x00")),
    st.builds(POPOPrivKey, st.sampled_from(["thisMessage", "dhMAC"]), st.just(b"\x00bits")),
    st.just(POPOPrivKey("agreeMAC", der.sequence(der.oid("1.2.3")) + der.bit_string(b"mac"))),
)
_popos = st.one_of(
    st.none(),
    st.just(crmf.RAVerified()),
    st.builds(
        POPOSigningKey,
        st.just(_ALGORITHM),
        st.binary(max_size=72),
        st.none()
        | st.builds(crmf.encode_popo_signing_key_input, st.just(spki_of(key())), _general_names | _macs),
    ),
    st.builds(crmf.KeyEncipherment, _private),
    st.builds(crmf.KeyAgreement, _private),
)
_templates = st.builds(
    CertTemplate,
    version=st.none() | st.just(2),
    issuer=st.none() | _names,
    not_before=_times,
    not_after=_times,
    subject=st.none() | _names,
    public_key=st.none() | st.just(spki_of(key())),
    extensions=_extensions,
)
_reg_info = st.lists(
    st.builds(AttributeTypeAndValue, _oids, st.binary(max_size=8).map(der.octet_string)),
    max_size=2,
    unique_by=lambda item: item.oid,
).map(tuple)


_messages = st.builds(
    lambda number, template, controls, popo, reg_info: (number, template, controls, popo, reg_info),
    st.integers(-1, (1 << 32) - 1),
    _templates,
    _known_controls,
    _popos,
    _reg_info,
)
_Parts: TypeAlias = tuple[
    int, CertTemplate, tuple[crmf.Control, ...], crmf.Popo | None, tuple[AttributeTypeAndValue, ...]
]


@given(_messages)
def test_what_is_written_is_read_back(parts: _Parts) -> None:
    number, template, controls, popo, reg_info = parts
    request = crmf.encode_cert_request(number, template, controls)
    data = crmf.encode_cert_req_msg(request, popo, reg_info)
    message = crmf.decode_cert_req_msg(data)
    assert message == crmf.CertReqMsg(
        data, crmf.CertRequest(request, number, template, controls), popo, reg_info
    )
    assert crmf.decode_cert_request(request) == message.request
    assert crmf.decode_cert_req_messages(crmf.encode_cert_req_messages([data])) == (message,)


@settings(max_examples=25)
@given(_messages)
def test_what_is_written_is_what_pyasn1_reads(parts: _Parts) -> None:
    number, template, controls, popo, reg_info = parts
    # To pyasn1, an empty name has no value at all.
    if template.issuer == Name():
        template = msgspec.structs.replace(template, issuer=DEVICE)
    if template.subject == Name():
        template = msgspec.structs.replace(template, subject=DEVICE)
    data = crmf.encode_cert_req_msg(crmf.encode_cert_request(number, template, controls), popo, reg_info)
    theirs, rest = pyasn1_decode(data, asn1Spec=rfc4211.CertReqMsg())
    assert not rest
    assert int(theirs["certReq"]["certReqId"]) == number
    fields = theirs["certReq"]["certTemplate"]
    for name, ours in (
        ("version", template.version),
        ("issuer", template.issuer),
        ("subject", template.subject),
        ("publicKey", template.public_key),
        ("extensions", template.extensions or None),
    ):
        assert fields[name].isValue == (ours is not None)
    assert [str(item["type"]) for item in theirs["regInfo"]] == [item.oid for item in reg_info]
    assert len(theirs["certReq"]["controls"]) == len(controls)
    if popo is not None:
        chosen = {
            crmf.RAVerified: "raVerified",
            POPOSigningKey: "signature",
            crmf.KeyEncipherment: "keyEncipherment",
            crmf.KeyAgreement: "keyAgreement",
        }[type(popo)]
        assert theirs["popo"].getName() == chosen


_VALID = proven(
    crmf.encode_cert_request(
        7,
        asking(extensions=(Extension(extensions.SUBJECT_ALT_NAME, False, general_names.encode([])),)),
        (crmf.RegToken("token"), OldCertID(crmf.general_name(DEVICE), b"\x01"), PKIPublicationInfo(True)),
    )
)


@given(st.integers(0, len(_VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_no_octets_raise_anything_but_its_own_error(at: int, instead: bytes, gone: int) -> None:
    data = _VALID[:at] + instead + _VALID[at + gone :]
    with contextlib.suppress(CRMFError):
        message = crmf.decode_cert_req_msg(data)
        assert message.der == data
        crmf.verify_possession(message)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    for decode in (crmf.decode_cert_req_messages, crmf.decode_cert_request, crmf.decode_cert_req_msg):
        with pytest.raises(CRMFError):
            decode(data)


def _openssl_cmp(directory: Path, *arguments: str) -> tuple[bytes, der.Reader]:
    """The PKIMessage that ``openssl cmp`` writes, before it finds nobody listening, and a reader over it."""
    (directory / "key.pem").write_bytes(
        key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    command = ["openssl", "cmp", "-cmd", "ir", "-newkey", "key.pem", "-server", "127.0.0.1:1"]
    command += ["-total_timeout", "5", "-reqout", "ir.der", "-certout", "cert.pem", *arguments]
    subprocess.run(command, cwd=directory, capture_output=True, timeout=60)
    if not (directory / "ir.der").exists():
        pytest.skip("openssl without the command cmp (it came with 3.0)")
    data = (directory / "ir.der").read_bytes()
    return data, der.whole(data)


def within(explicit: bytes) -> bytes:
    """The TLV that a tag of its own stands around."""
    return der.Reader(explicit).content(0xA0)


def test_a_request_and_its_protection_by_openssl(tmp_path: Path) -> None:
    arguments = ["-ref", "1", "-secret", f"pass:{SECRET.decode()}", "-subject", "/O=Test/CN=dev 1"]
    _, reader = _openssl_cmp(tmp_path, *arguments, "-sans", "a.example", "-days", "30")
    header, body = reader.raw(der.SEQUENCE), reader.raw(0xA0)
    (message,) = crmf.decode_cert_req_messages(within(body))
    assert crmf.verify_possession(message) == facts_of(spki_of(key()))
    template = message.request.template
    assert message.request.id == 0
    assert template.subject == DEVICE
    assert template.not_before is not None
    assert template.not_after is not None
    assert template.not_after - template.not_before == 30 * 86400
    (san,) = template.extensions
    assert general_names.decode(san.value, 1) == (parse_dns("a.example"),)

    # The same MAC protects CMP messages (RFC 9810 section 5.1.3.1), and openssl makes one.
    fields = der.whole(header)
    algorithm = None
    while fields.more():
        tag, content = fields.any()
        if tag == 0xA1:
            algorithm = AlgorithmIdentifier.read(der.whole(content))
    protection = reader.enter(0xA0).bit_string()
    assert algorithm is not None
    mac = PKMACValue(algorithm, protection)
    crmf_mac.verify_mac(mac, SECRET, der.sequence(header, body))
    with pytest.raises(CRMFError):
        crmf_mac.verify_mac(mac, SECRET + b"!", der.sequence(header, body))


def test_openssl_says_that_an_ra_has_verified(tmp_path: Path) -> None:
    arguments = ["-ref", "1", "-secret", "pass:secret", "-subject", "/O=Test/CN=dev 1", "-popo", "0"]
    _, reader = _openssl_cmp(tmp_path, *arguments)
    reader.raw(der.SEQUENCE)
    (message,) = crmf.decode_cert_req_messages(within(reader.raw(0xA0)))
    assert message.popo == crmf.RAVerified()
