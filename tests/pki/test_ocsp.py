from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp as stranger
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc6960

from certloom.authorities.lint import lint_ocsp
from certloom.pki import der, extensions, ocsp, signatures
from certloom.pki.certificates import build_certificate
from certloom.pki.ocsp import CertStatus, OCSPError, SingleResponse
from tests.pki.making import NOW, SIGNING_ALGORITHMS, hierarchy, key, template
from tests.pki.ocsp_requests import cert_id, malformed, request

ISSUER = hierarchy().issuer
BY_NAME = {
    ocsp.SHA1: hashes.SHA1(),
    ocsp.SHA256: hashes.SHA256(),
    ocsp.SHA384: hashes.SHA384(),
    ocsp.SHA512: hashes.SHA512(),
}
serials = st.binary(min_size=1, max_size=20).map(lambda b: b.lstrip(b"\0") or b"\x01")
nonces = st.none() | st.binary(min_size=1, max_size=128)
statuses = st.sampled_from([ocsp.GOOD, ocsp.UNKNOWN, ocsp.NON_ISSUED]) | st.builds(
    CertStatus,
    st.just("revoked"),
    st.integers(0, 4_000_000_000),
    st.sampled_from([None, 0, 1, 2, 3, 4, 5, 6, 8, 9, 10]),
)


# -- requests ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(serials, st.sampled_from(list(BY_NAME)), st.booleans()), min_size=1, max_size=8),
    nonces,
)
def test_a_request_is_read_as_it_was_written(
    asked: list[tuple[bytes, str, bool]], nonce: bytes | None
) -> None:
    ids = [cert_id(ISSUER, serial, oid, der.NULL if null else b"") for serial, oid, null in asked]
    found = ocsp.decode_request(request(ids, nonce))
    assert found.nonce == nonce
    assert [c.der for c in found.certificates] == ids
    assert [(c.serial, c.hash_algorithm) for c in found.certificates] == [a[:2] for a in asked]


@pytest.mark.parametrize("algorithm", list(BY_NAME))
@pytest.mark.parametrize("nonce", [None, b"\x01", bytes(16), bytes(128)])
def test_requests_of_another_library_are_read(algorithm: str, nonce: bytes | None) -> None:
    leaf = x509.load_der_x509_certificate(build_certificate(template(), ISSUER, hierarchy().issuer_key))
    above = x509.load_der_x509_certificate(ISSUER.certificate)
    builder = stranger.OCSPRequestBuilder().add_certificate(leaf, above, BY_NAME[algorithm])
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    found = ocsp.decode_request(builder.build().public_bytes(Encoding.DER))
    (only,) = found.certificates
    assert only.der == cert_id(ISSUER, template().serial, algorithm)
    assert only.serial == template().serial
    assert found.nonce == nonce


def test_what_does_not_change_the_answer_is_read_past() -> None:
    name = der.context(4, der.sequence())
    known = extensions.encode("1.3.6.1.5.5.7.48.1.4", True, der.sequence(der.oid("1.3.6.1.5.5.7.48.1.1")))
    unknown = extensions.encode("1.2.3", False, b"\xff")
    locator = extensions.encode("1.3.6.1.5.5.7.48.1.7", True, der.NULL)
    one = cert_id(ISSUER, b"\x05")
    full = request(
        [one],
        b"nonce",
        version=True,
        requestor=name,
        more=known + unknown,
        single=locator + unknown,
        signature=True,
    )
    assert ocsp.decode_request(full) == ocsp.decode_request(request([one], b"nonce"))


def test_a_serial_that_no_certificate_has_is_none() -> None:
    digest = bytes(20)
    for contents in (b"\x00", b"\x80", b"\xff\xff"):
        raw = der.sequence(
            der.sequence(der.oid(ocsp.SHA1)), *[der.octet_string(digest)] * 2, der.tlv(2, contents)
        )
        (found,) = ocsp.decode_request(request([raw])).certificates
        assert found.serial == b""
        assert found.der == raw


@pytest.mark.parametrize("wrong", list(malformed(ISSUER)))
def test_what_is_no_request_is_refused(wrong: str) -> None:
    with pytest.raises(OCSPError):
        ocsp.decode_request(malformed(ISSUER)[wrong])


@given(st.binary(max_size=300))
def test_no_octets_make_the_reader_raise_anything_else(data: bytes) -> None:
    try:
        ocsp.decode_request(data)
    except OCSPError:
        return


@given(st.data())
def test_no_damage_to_a_request_makes_the_reader_raise_anything_else(data: st.DataObject) -> None:
    whole = bytearray(request([cert_id(ISSUER, b"\x05")] * 2, b"nonce", version=True, signature=True))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(whole) - 1))
        whole[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
        if not whole:
            break
    try:
        ocsp.decode_request(bytes(whole))
    except OCSPError:
        return


# -- responses -----------------------------------------------------------------------------------------------


def signed(tbs: bytes, algorithm: str = "P-256", certificates: tuple[bytes, ...] = ()) -> bytes:
    identifier, signature = signatures.sign_tbs(key(algorithm), tbs)
    return ocsp.response(tbs, identifier, signature, certificates)


@given(serials, statuses, nonces, st.integers(0, 4_000_000_000), st.booleans())
def test_a_response_says_to_another_library_what_was_meant(
    serial: bytes, status: CertStatus, nonce: bytes | None, now: int, archive: bool
) -> None:
    single = SingleResponse(cert_id(ISSUER, serial), status, now, now + 3600, now - 7 if archive else None)
    tbs = ocsp.tbs_response(b"\x09" * 20, now + 1, (single,), nonce=nonce)
    read = stranger.load_der_ocsp_response(signed(tbs, certificates=(ISSUER.certificate,)))
    assert read.response_status is stranger.OCSPResponseStatus.SUCCESSFUL
    assert read.responder_key_hash == b"\x09" * 20
    assert read.tbs_response_bytes == tbs
    assert read.serial_number == int.from_bytes(serial, "big")
    assert read.produced_at_utc == datetime.fromtimestamp(now + 1, UTC)
    assert read.this_update_utc == datetime.fromtimestamp(now, UTC)
    assert read.next_update_utc == datetime.fromtimestamp(now + 3600, UTC)
    assert read.certificate_status.name.lower() == status.kind
    if status.kind == "revoked":
        assert read.revocation_time_utc == datetime.fromtimestamp(status.revoked_at, UTC)
        reason = read.revocation_reason
        assert (reason is None) == (not status.reason)
    assert [c.public_bytes(Encoding.DER) for c in read.certificates] == [ISSUER.certificate]
    said = {e.oid.dotted_string: e.value for e in read.extensions}
    if nonce is not None:
        assert isinstance(said["1.3.6.1.5.5.7.48.1.2"], x509.OCSPNonce)
        assert said["1.3.6.1.5.5.7.48.1.2"].nonce == nonce
    assert len(said) == (nonce is not None)


@given(st.lists(st.tuples(serials, statuses), min_size=1, max_size=5), nonces, st.booleans())
def test_several_responses_are_the_octets_that_another_encoder_makes(
    asked: list[tuple[bytes, CertStatus]], nonce: bytes | None, extended: bool
) -> None:
    singles = tuple(SingleResponse(cert_id(ISSUER, s), status, NOW, NOW + 9, NOW - 9) for s, status in asked)
    tbs = ocsp.tbs_response(bytes(20), NOW, singles, nonce=nonce, extended_revoke=extended)
    outer, rest = decoder.decode(signed(tbs), asn1Spec=rfc6960.OCSPResponse())
    assert not rest
    assert outer["responseStatus"] == 0
    basic, rest = decoder.decode(outer["responseBytes"]["response"], asn1Spec=rfc6960.BasicOCSPResponse())
    assert not rest
    assert encoder.encode(basic["tbsResponseData"]) == tbs
    responses = basic["tbsResponseData"]["responses"]
    assert [encoder.encode(r["certID"]) for r in responses] == [s.cert_id for s in singles]
    assert [r["certStatus"].getName() for r in responses] == [status.kind for _, status in asked]
    for response in responses:
        (cutoff,) = response["singleExtensions"]
        assert str(cutoff["extnID"]) == "1.3.6.1.5.5.7.48.1.6"  # RFC 6960 section 4.4.4
        assert bytes(cutoff["extnValue"]) == der.generalized_time(NOW - 9)
    oids = {str(e["extnID"]) for e in basic["tbsResponseData"]["responseExtensions"]}
    assert ("1.3.6.1.5.5.7.48.1.9" in oids) == extended


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
def test_every_kind_of_key_signs_responses_without_findings(algorithm: str) -> None:
    single = SingleResponse(cert_id(ISSUER, b"\x05"), ocsp.GOOD, NOW, NOW + 9, NOW - 9)
    made = signed(ocsp.tbs_response(bytes(20), NOW, (single,), nonce=bytes(16)), algorithm)
    read = stranger.load_der_ocsp_response(made)
    public = key(algorithm).public_key()
    identifier = signatures.algorithm_for(public)
    signatures.verify(public, identifier, read.signature, read.tbs_response_bytes)
    assert lint_ocsp(made, "warning") == []


def test_responses_without_signature() -> None:
    for status, name in (
        (ocsp.MALFORMED_REQUEST, stranger.OCSPResponseStatus.MALFORMED_REQUEST),
        (ocsp.INTERNAL_ERROR, stranger.OCSPResponseStatus.INTERNAL_ERROR),
        (ocsp.TRY_LATER, stranger.OCSPResponseStatus.TRY_LATER),
        (ocsp.UNAUTHORIZED, stranger.OCSPResponseStatus.UNAUTHORIZED),
    ):
        built = stranger.OCSPResponseBuilder.build_unsuccessful(name)
        assert ocsp.unsuccessful(status) == built.public_bytes(Encoding.DER)


def test_there_is_no_reason_seven() -> None:
    single = SingleResponse(cert_id(ISSUER, b"\x05"), CertStatus("revoked", NOW, 7), NOW, NOW + 9)
    with pytest.raises(ValueError, match="7 is no CRLReason"):
        ocsp.tbs_response(bytes(20), NOW, (single,))
