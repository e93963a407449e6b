from __future__ import annotations

import contextlib
import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der.decoder import decode as pyasn1_decode
from pyasn1.codec.der.encoder import encode as pyasn1_encode
from pyasn1_alt_modules import rfc6402

from certloom.pki import crmf, csr, der, names, signatures
from certloom.pki.crmf_mac import HMAC_SHA1, HMAC_SHA256, SHA1, SHA256, AlgorithmIdentifier
from certloom.pki.extensions import Extension
from certloom.pki.keys import spki_of
from certloom.pki.names import Name, parse_name
from certloom.protocols.est import cmc_controls as controls
from certloom.protocols.est import cmc_messages as cmc
from certloom.protocols.est import cmc_syntax
from certloom.protocols.est.cmc_controls import CMCFailInfo, CMCStatus
from certloom.protocols.est.cmc_messages import (
    CMCError,
    CRMRequest,
    OtherMsg,
    OtherRequest,
    TaggedAttribute,
    TaggedContentInfo,
    TCRRequest,
)
from tests.pki.making import csr as pkcs10
from tests.pki.making import csr_builder, key

ISSUER = parse_name("CN=Test Issuing CA,O=Test")
DEVICE = parse_name("CN=dev 1,O=Test")
CMS = der.sequence(der.oid("1.2.840.113549.1.7.1"), der.context(0, der.octet_string(b"content")))
SECRET = "correct horse battery staple"
SHA256_WITH_HMAC = (AlgorithmIdentifier(SHA256), AlgorithmIdentifier(HMAC_SHA256, der.NULL))


def crm(number: int, template: crmf.CertTemplate | None = None, **more: Any) -> bytes:
    asked = template or crmf.CertTemplate(subject=DEVICE, public_key=spki_of(key()))
    request = crmf.encode_cert_request(number, asked, more.pop("controls", ()))
    identifier, signature = signatures.sign_tbs(key(), request)
    popo = more.pop("popo", crmf.POPOSigningKey(identifier, signature))
    return crmf.encode_cert_req_msg(request, popo, **more)


def refusal(data: bytes) -> CMCError:
    with pytest.raises(CMCError) as caught:
        cmc.decode_pki_data(data)
    return caught.value


# --- messages --------------------------------------------------------------------------------


def test_a_request_of_every_kind_of_part() -> None:
    attributes = (
        TaggedAttribute(1, controls.TransactionID(1 << 100)),
        TaggedAttribute(2, controls.UnknownControl("1.2.3", (der.NULL, der.TRUE)[::-1])),
    )
    requests = (
        TCRRequest(3, pkcs10()),
        CRMRequest(cmc.MAX_BODY_PART_ID, crm(cmc.MAX_BODY_PART_ID)),
        OtherRequest(5, "1.2.3.4", der.integer(7)),
    )
    content = (TaggedContentInfo(6, CMS),)
    other = (OtherMsg(7, "1.2.3.5", der.NULL),)
    data = cmc.encode_pki_data(attributes, requests, content, other)
    found = cmc.decode_pki_data(data)
    assert found == cmc.PKIData(attributes, requests, content, other, cmc.encode_req_sequence(requests))
    assert found.req_sequence in data

    # What is inside is what was put there.
    assert isinstance(found.requests[0], TCRRequest)
    assert isinstance(found.requests[1], CRMRequest)
    csr.parse_csr(found.requests[0].der)
    message = crmf.decode_cert_req_msg(found.requests[1].der)
    crmf.verify_possession(message)
    cmc.check_crm(message)

    theirs, rest = pyasn1_decode(data, asn1Spec=rfc6402.PKIData())
    assert not rest
    assert [request.getName() for request in theirs["reqSequence"]] == ["tcr", "crm", "orm"]
    assert int(theirs["reqSequence"][0]["tcr"]["bodyPartID"]) == 3
    assert int(theirs["reqSequence"][1]["crm"]["certReq"]["certReqId"]) == cmc.MAX_BODY_PART_ID
    assert int(theirs["cmsSequence"][0]["bodyPartID"]) == 6
    assert int(theirs["otherMsgSequence"][0]["bodyPartID"]) == 7


def test_a_response() -> None:
    attributes = (
        TaggedAttribute(
            1, controls.CMCStatusInfoV2(CMCStatus.failed, (1, (2, 3)), "No.", CMCFailInfo.badIdentity)
        ),
        TaggedAttribute(2, controls.RecipientNonce(b"nonce")),
    )
    content = (TaggedContentInfo(3, CMS),)
    other = (OtherMsg(4, "1.2.3.5", der.NULL),)
    data = cmc.encode_pki_response(attributes, content, other)
    assert cmc.decode_pki_response(data) == cmc.PKIResponse(attributes, content, other)
    theirs, rest = pyasn1_decode(data, asn1Spec=rfc6402.PKIResponse())
    assert not rest
    (value,) = theirs["controlSequence"][0]["attrValues"]
    status, _ = pyasn1_decode(bytes(value), asn1Spec=rfc6402.CMCStatusInfoV2())
    assert str(status["statusString"]) == "No."
    assert int(status["otherInfo"]["failInfo"]) == CMCFailInfo.badIdentity
    assert [part.getName() for part in status["bodyList"]] == ["bodyPartID", "bodyPartPath"]


@pytest.mark.parametrize("status", CMCStatus)
def test_statuses_have_the_standards_names_and_numbers(status: CMCStatus) -> None:
    assert rfc6402.CMCStatus.namedValues[status.name] == status


@pytest.mark.parametrize("fail_info", CMCFailInfo)
def test_failures_have_the_standards_names_and_numbers(fail_info: CMCFailInfo) -> None:
    assert rfc6402.CMCFailInfo.namedValues[fail_info.name] == fail_info


def test_every_status_and_failure_is_known() -> None:
    assert len(CMCStatus) == len(rfc6402.CMCStatus.namedValues)
    assert len(CMCFailInfo) == len(rfc6402.CMCFailInfo.namedValues)


@pytest.mark.parametrize(
    "requests",
    [
        (TCRRequest(1, pkcs10()),),
        (CRMRequest(1, crm(1)),),
        (OtherRequest(1, "1.2.3", der.NULL),),
    ],
)
def test_numbers_are_unique_over_all_parts(requests: tuple[cmc.TaggedRequest, ...]) -> None:
    error = refusal(cmc.encode_pki_data([TaggedAttribute(1, controls.SenderNonce(b"x"))], requests))
    assert (error.code, error.fail_info, error.body_parts) == (
        "duplicate-body-part",
        CMCFailInfo.badRequest,
        (0,),
    )
    assert cmc.decode_pki_data(
        cmc.encode_pki_data([TaggedAttribute(2, controls.SenderNonce(b"x"))], requests)
    )


def test_the_number_of_the_message_itself_is_no_parts() -> None:
    assert refusal(cmc.encode_pki_data((), [CRMRequest(0, crm(0))])).code == "reserved-body-part"


@pytest.mark.parametrize("number", [-1, cmc.MAX_BODY_PART_ID + 1, 1 << 8000])
def test_numbers_have_a_range(number: int) -> None:
    assert refusal(cmc.encode_pki_data((), (), [TaggedContentInfo(number, CMS)])).code == "malformed"


def test_there_are_bounds() -> None:
    parts = [OtherMsg(n + 1, "1.2.3", der.NULL) for n in range(cmc.MAX_BODY_PARTS)]
    assert len(cmc.decode_pki_data(cmc.encode_pki_data((), (), (), parts)).other) == cmc.MAX_BODY_PARTS
    more = [*parts, OtherMsg(cmc.MAX_BODY_PARTS + 1, "1.2.3", der.NULL)]
    assert refusal(cmc.encode_pki_data((), (), (), more)).code == "too-many-body-parts"
    assert refusal(bytes(cmc.MAX_SIZE + 1)).code == "too-large"
    references = TaggedAttribute(1, controls.BatchRequests(tuple(range(1, cmc.MAX_BODY_PARTS + 2))))
    assert refusal(cmc.encode_pki_data([references])).code == "bad-control"


def test_a_control_that_is_malformed_is_named() -> None:
    good = TaggedAttribute(1, controls.SenderNonce(b"x"))
    for values in ((), (der.NULL,), (der.octet_string(b"1"), der.octet_string(b"2"))):
        bad = TaggedAttribute(9, controls.UnknownControl(f"{cmc.ID_CMC}.7", values))
        error = refusal(cmc.encode_pki_data([good, bad]))
        assert (error.code, error.fail_info, error.body_parts) == (
            "bad-control",
            CMCFailInfo.badRequest,
            (9,),
        )


# --- controls --------------------------------------------------------------------------------

_ids = st.integers(0, cmc.MAX_BODY_PART_ID)
_lists = st.lists(_ids, min_size=1, max_size=3).map(tuple)
_references = st.lists(_ids | _lists, min_size=1, max_size=3).map(tuple)
_octets = st.binary(max_size=20)
_texts = st.text(max_size=20)
_times = st.integers(0, 10**11)
_names = st.just(ISSUER) | st.text("abc", min_size=1).map(lambda text: Name(((names.ORGANIZATION, text),)))
_general_names = _names.map(crmf.general_name)
_serials = st.integers(0, 1 << 159).map(lambda n: n.to_bytes(20, "big").lstrip(b"\x00") or b"\x00")
_algorithms = st.sampled_from(SHA256_WITH_HMAC)
_extensions = st.just((Extension("1.2.3", True, der.NULL),))
_pend = st.builds(controls.PendInfo, _octets, _times)
_fail = st.sampled_from(CMCFailInfo)
_status = st.sampled_from(CMCStatus)
_publication = st.just(crmf.PKIPublicationInfo(False)) | st.builds(
    crmf.PKIPublicationInfo,
    st.just(True),
    st.lists(st.builds(crmf.SinglePubInfo, st.integers(0, 3), st.none() | _general_names), max_size=2).map(
        tuple
    ),
)
_template = st.builds(
    crmf.CertTemplate, subject=st.none() | _names, not_after=st.none() | _times, extensions=_extensions
)

KNOWN: dict[type[Any], st.SearchStrategy[Any]] = {
    kind: st.builds(kind, *parts)
    for kind, parts in {
        controls.CMCStatusInfo: (_status, _lists, st.none() | _texts, st.none() | _fail | _pend),
        controls.CMCStatusInfoV2: (
            _status,
            _references,
            st.none() | _texts,
            st.none() | _fail | _pend | st.just(controls.ExtendedFailInfo("1.2.3", der.NULL)),
        ),
        controls.Identification: (_texts,),
        controls.IdentityProof: (_octets,),
        controls.IdentityProofV2: (_algorithms, _algorithms, _octets),
        controls.DataReturn: (_octets,),
        controls.TransactionID: (st.integers(-(1 << 500), 1 << 500),),
        controls.SenderNonce: (_octets,),
        controls.RecipientNonce: (_octets,),
        controls.AddExtensions: (_ids, _lists, _extensions),
        controls.EncryptedPOP: (
            st.just(cmc.encode_tagged_request(TCRRequest(1, pkcs10()))),
            st.just(CMS),
            _algorithms,
            _algorithms,
            _octets,
        ),
        controls.DecryptedPOP: (_ids, _algorithms, _octets),
        controls.LraPOPWitness: (_ids, _lists),
        controls.GetCert: (_general_names, _serials),
        controls.GetCRL: (
            _names,
            st.none() | _general_names,
            st.none() | _times,
            st.none() | st.integers(0, 511),
        ),
        controls.RevokeRequest: (
            _names,
            _serials,
            st.sampled_from([0, 1, 2, 3, 4, 5, 6, 8, 9, 10]),
            st.none() | _times,
            st.none() | _octets,
            st.none() | _texts,
        ),
        controls.RegInfo: (_octets,),
        controls.ResponseInfo: (_octets,),
        controls.QueryPending: (_octets,),
        controls.PopLinkRandom: (_octets,),
        controls.PopLinkWitness: (_octets,),
        controls.PopLinkWitnessV2: (_algorithms, _algorithms, _octets),
        controls.ConfirmCertAcceptance: (_names, _serials),
        controls.PublishTrustAnchors: (
            st.integers(0, 1 << 64),
            _algorithms,
            st.lists(_octets, min_size=1, max_size=2).map(tuple),
        ),
        controls.AuthPublish: (_ids,),
        controls.BatchRequests: (_lists,),
        controls.BatchResponses: (_lists,),
        controls.PublishCert: (
            _algorithms,
            st.lists(_octets, min_size=1, max_size=2).map(tuple),
            _publication,
        ),
        controls.ModCertTemplate: (_lists, _lists, _template, st.booleans()),
        controls.ControlsProcessed: (_references,),
        controls.RAIdentityWitness: (_lists,),
        controls.ResponseBody: (_lists,),
    }.items()
}
TO_PYASN1 = {str(oid): spec for oid, spec in rfc6402._cmcControlAttributesMapUpdate.items()} | {
    f"{cmc.ID_CMC}.{arc}": rfc6402.BodyPartPath() for arc in (35, 37)
}


def test_every_control_of_the_standard_is_known() -> None:
    theirs = {str(value) for name, value in vars(rfc6402).items() if name.startswith("id_cmc_")}
    # This one is an attribute of requests, and no control.
    theirs -= {str(rfc6402.id_cmc_changeSubjectName)}
    assert {form.oid for form in cmc_syntax._FORMS.values()} == theirs
    assert set(KNOWN) == set(cmc_syntax._FORMS)


@pytest.mark.parametrize("kind", KNOWN, ids=lambda kind: kind.__name__)
def test_a_control_that_is_written_is_read_back_and_is_what_pyasn1_reads(kind: type[Any]) -> None:
    @settings(max_examples=20)
    @given(KNOWN[kind])
    def check(control: Any) -> None:
        data = cmc.encode_pki_response([TaggedAttribute(1, control)])
        (found,) = cmc.decode_pki_response(data).controls
        assert found.control == control
        oid, (value,) = cmc_syntax.encode_control(control)
        theirs, rest = pyasn1_decode(value, asn1Spec=TO_PYASN1[oid])
        assert not rest
        assert pyasn1_encode(theirs) == value

    check()


@pytest.mark.parametrize(
    ("arc", "value"),
    [
        (1, der.sequence(der.integer(1), der.sequence(der.integer(1)))),  # a reserved status
        (1, der.sequence(der.integer(0), der.sequence())),  # about nothing
        (25, der.sequence(der.integer(2), der.sequence(der.integer(1)), der.integer(2000))),
        (25, der.sequence(der.integer(2), der.sequence(der.integer(1)), der.integer(1 << 8000))),
        (2, der.tlv(der.UTF8_STRING, b"\xff")),
        (5, der.integer(1 << 600)),
        (17, der.sequence(names.encode(ISSUER), der.integer(-1), der.tlv(0x0A, b"\x01"))),
        (17, der.sequence(names.encode(ISSUER), der.integer(1), der.tlv(0x0A, b"\x07"))),
        (17, der.sequence(names.encode(ISSUER), der.integer(1), der.tlv(0x0A, b"\x0b"))),
        (17, der.sequence(b"\x30\x02\x31\x00", der.integer(1), der.tlv(0x0A, b"\x01"))),
        (28, der.sequence()),
        (31, der.sequence(der.sequence(), der.sequence(der.integer(1)), der.sequence())),
    ],
)
def test_controls_that_say_nothing_sensible_are_refused(arc: int, value: bytes) -> None:
    control = controls.UnknownControl(f"{cmc.ID_CMC}.{arc}", (value,))
    assert refusal(cmc.encode_pki_data([TaggedAttribute(1, control)])).code == "bad-control"


def test_a_default_that_is_spelled_out_is_taken() -> None:
    control = controls.ModCertTemplate((1,), (2,), crmf.CertTemplate(version=2))
    oid, (value,) = cmc_syntax.encode_control(control)
    ids = der.sequence(der.integer(1)) + der.sequence(der.integer(2))
    assert value == der.sequence(ids, der.sequence(b"\x80\x01\x02"))
    spelled_out = der.sequence(ids, der.TRUE, der.sequence(b"\x80\x01\x02"))
    assert cmc_syntax.read_control(oid, (spelled_out,)) == control


# --- requests within -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        crm(5, crmf.CertTemplate(public_key=spki_of(key()))),
        crm(5, crmf.CertTemplate(subject=DEVICE)),
        crm(5, reg_info=[crmf.AttributeTypeAndValue("1.2.3", der.NULL)]),
        crm(5, popo=crmf.KeyEncipherment(crmf.POPOPrivKey("subsequentMessage", b"\x00"))),
        crm(
            5,
            popo=crmf.POPOSigningKey(
                signatures.algorithm_for(key()),
                b"",
                crmf.encode_popo_signing_key_input(spki_of(key()), crmf.general_name(DEVICE)),
            ),
        ),
    ],
)
def test_cmc_does_not_take_every_crmf_request(message: bytes) -> None:
    with pytest.raises(CMCError) as caught:
        cmc.check_crm(crmf.decode_cert_req_msg(message))
    assert (caught.value.fail_info, caught.value.body_parts) == (CMCFailInfo.badRequest, (5,))


def test_cmc_takes_crmf_requests_with_an_empty_subject() -> None:
    template = crmf.CertTemplate(subject=Name(), public_key=spki_of(key()))
    cmc.check_crm(crmf.decode_cert_req_msg(crm(5, template)))


def pkcs10_with(*attributes: tuple[str, bytes]) -> TCRRequest:
    builder = csr_builder("www.example.com")
    request = builder.sign(key(), hashes.SHA256())
    info = der.whole(request.tbs_certrequest_bytes)
    fields = info.raw(der.INTEGER) + info.raw(der.SEQUENCE) + info.raw(der.SEQUENCE)
    ours = b"".join(der.sequence(der.oid(oid), der.set_of(value)) for oid, value in attributes)
    tbs = der.sequence(fields, der.context(0, info.content(0xA0) + ours))
    return TCRRequest(3, signatures.assemble(key(), tbs))


def test_the_link_to_a_secret_is_found_in_both_kinds_of_request() -> None:
    random = bytes(range(64))
    witness = controls.PopLinkWitnessV2(
        *SHA256_WITH_HMAC, cmc.pop_link_witness_v2(SECRET, SHA256, HMAC_SHA256, random)
    )
    oid, (value,) = cmc_syntax.encode_control(witness)
    message = crmf.decode_cert_req_msg(crm(4, controls=[crmf.AttributeTypeAndValue(oid, value)]))
    assert cmc.pop_link_of_crm(message) == witness
    request = pkcs10_with((oid, value))
    csr.parse_csr(request.der)
    assert cmc.pop_link_of_tcr(request) == witness

    assert cmc.pop_link_of_tcr(TCRRequest(3, pkcs10())) is None
    assert cmc.pop_link_of_crm(crmf.decode_cert_req_msg(crm(4))) is None


def test_links_that_are_malformed_or_two_are_refused() -> None:
    oid = f"{cmc.ID_CMC}.23"
    for request in (
        pkcs10_with((oid, der.NULL)),
        pkcs10_with((oid, der.octet_string(b"1")), (oid, der.octet_string(b"2"))),
        TCRRequest(3, b"\x30\x00"),
    ):
        with pytest.raises(CMCError):
            cmc.pop_link_of_tcr(request)
    items = [crmf.AttributeTypeAndValue(oid, der.NULL)]
    with pytest.raises(CMCError) as caught:
        cmc.pop_link_of_crm(crmf.decode_cert_req_msg(crm(4, controls=items)))
    assert caught.value.body_parts == (4,)


# --- witnesses -------------------------------------------------------------------------------


@pytest.mark.parametrize("identification", [None, "", "Gerät 7"])
def test_a_proof_of_identity_is_over_the_requests_as_received(identification: str | None) -> None:
    data = cmc.encode_pki_data((), [TCRRequest(3, pkcs10())])
    received = cmc.decode_pki_data(data).req_sequence
    secret_key = hashlib.sha256((SECRET + (identification or "")).encode()).digest()
    expected = hmac.new(secret_key, received, hashlib.sha256).digest()
    assert (
        cmc.identity_proof_v2(SECRET, SHA256, HMAC_SHA256, received, identification=identification)
        == expected
    )
    assert (
        cmc.identity_proof_v2(SECRET + "!", SHA256, HMAC_SHA256, received, identification=identification)
        != expected
    )


def test_a_link_is_over_the_random_value() -> None:
    expected = hmac.new(hashlib.sha512(SECRET.encode()).digest(), b"random", hashlib.sha384).digest()
    found = cmc.pop_link_witness_v2(SECRET, "2.16.840.1.101.3.4.2.3", "1.2.840.113549.2.10", b"random")
    assert found == expected


def test_sha_1_takes_leave() -> None:
    witnesses: tuple[Callable[..., bytes], ...] = (
        lambda **more: cmc.identity_proof(SECRET, b"requests", **more),
        lambda **more: cmc.pop_link_witness(SECRET, b"requests", **more),
        lambda **more: cmc.identity_proof_v2(SECRET, SHA1, "1.3.6.1.5.5.8.1.2", b"requests", **more),
    )
    for witness in witnesses:
        with pytest.raises(CMCError) as caught:
            witness()
        assert caught.value.fail_info == CMCFailInfo.badAlg
        expected = hmac.new(hashlib.sha1(SECRET.encode()).digest(), b"requests", hashlib.sha1).digest()
        assert witness(allow_sha1=True) == expected
    with pytest.raises(CMCError):
        cmc.identity_proof_v2(SECRET, SHA256, HMAC_SHA1, b"requests")
    with pytest.raises(CMCError):
        cmc.pop_link_witness_v2(SECRET, "1.2.840.113549.1.5.12", HMAC_SHA256, b"random")


# --- whatever comes --------------------------------------------------------------------------

_VALID = cmc.encode_pki_data(
    [
        TaggedAttribute(1, controls.TransactionID(5)),
        TaggedAttribute(2, controls.IdentityProofV2(*SHA256_WITH_HMAC, b"witness")),
        TaggedAttribute(3, controls.RevokeRequest(ISSUER, b"\x01", 1, 10**9, b"secret", "lost")),
        TaggedAttribute(4, controls.CMCStatusInfoV2(CMCStatus.pending, (1, (2, 3)))),
        TaggedAttribute(5, controls.ModCertTemplate((1,), (2,), crmf.CertTemplate(subject=DEVICE))),
    ],
    [TCRRequest(6, pkcs10()), CRMRequest(7, crm(7))],
    [TaggedContentInfo(8, CMS)],
    [OtherMsg(9, "1.2.3", der.NULL)],
)


@given(st.integers(0, len(_VALID) - 1), st.binary(max_size=3), st.integers(0, 3))
def test_no_octets_raise_anything_but_its_own_error(at: int, instead: bytes, gone: int) -> None:
    data = _VALID[:at] + instead + _VALID[at + gone :]
    with contextlib.suppress(CMCError):
        for request in cmc.decode_pki_data(data).requests:
            if isinstance(request, TCRRequest):
                cmc.pop_link_of_tcr(request)


@given(st.binary(max_size=200))
def test_noise_is_refused(data: bytes) -> None:
    for decode in (cmc.decode_pki_data, cmc.decode_pki_response, cmc.decode_tagged_request):
        with pytest.raises(CMCError):
            decode(data)


def test_the_request_in_a_challenge_is_read() -> None:
    for request in (TCRRequest(1, pkcs10()), CRMRequest(2, crm(2)), OtherRequest(3, "1.2.3", der.NULL)):
        assert cmc.decode_tagged_request(cmc.encode_tagged_request(request)) == request
