from __future__ import annotations

import os

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki import ct
from certloom.pki.certificates import build_certificate
from certloom.pki.ct import SCT, CTError
from certloom.pki.extensions import Extension
from tests.pki.making import hierarchy, template

SIGNATURE = bytes.fromhex("040300080102030405060708")

scts = st.builds(
    SCT,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=40),
    st.builds(
        lambda algorithm, made: bytes((4, algorithm)) + len(made).to_bytes(2, "big") + made,
        st.sampled_from((1, 3)),
        st.binary(max_size=300),
    ),
)


@given(st.lists(scts, min_size=1, max_size=5))
def test_a_list_is_read_as_it_was_written(listed: list[SCT]) -> None:
    assert ct.decode_list(ct.encode_list(listed)) == tuple(listed)


@given(st.binary(max_size=200))
def test_no_octets_make_the_readers_raise_anything_else(data: bytes) -> None:
    for read in (ct.decode_list, ct.decode_sct, ct.signed_tbs, ct.log_key):
        try:
            read(data)
        except CTError:
            continue


@given(scts, st.data())
def test_a_list_that_is_cut_off_is_refused(sct: SCT, data: st.DataObject) -> None:
    whole = ct.encode_list([sct])
    with pytest.raises(CTError):
        ct.decode_list(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CTError):
        ct.decode_list(whole + b"\0")


@pytest.mark.parametrize(
    "sct",
    [
        SCT(bytes(31), 0, b"", SIGNATURE),
        SCT(bytes(32), -1, b"", SIGNATURE),
        SCT(bytes(32), 2**64, b"", SIGNATURE),
        SCT(bytes(32), 0, bytes(65536), SIGNATURE),
    ],
)
def test_what_has_no_encoding_is_refused(sct: SCT) -> None:
    with pytest.raises(CTError):
        ct.encode_sct(sct)


def test_a_list_is_neither_empty_nor_endless() -> None:
    with pytest.raises(CTError):
        ct.encode_list([])
    with pytest.raises(CTError):
        ct.encode_list([SCT(bytes(32), 0, bytes(60_000), SIGNATURE)] * 2)


def test_cryptography_reads_our_list_and_finds_what_is_signed() -> None:
    chain = hierarchy()
    ids = [os.urandom(32), os.urandom(32)]
    listed = [SCT(one, 1_800_000_000_123, b"", SIGNATURE) for one in ids]
    precertificate = build_certificate(template(extensions=(ct.POISON,)), chain.issuer, chain.issuer_key)
    final = build_certificate(
        template(extensions=(ct.list_extension(listed),)), chain.issuer, chain.issuer_key
    )
    read = x509.load_der_x509_certificate(final)
    found = read.extensions.get_extension_for_class(x509.PrecertificateSignedCertificateTimestamps)
    assert not found.critical
    assert [sct.log_id for sct in found.value] == ids
    assert found.value[0].timestamp.microsecond == 123_000
    assert ct.signed_tbs(final) == ct.signed_tbs(precertificate) == read.tbs_precertificate_bytes
    ct.check_same(precertificate, final)
    poison = x509.load_der_x509_certificate(precertificate).extensions.get_extension_for_class(
        x509.PrecertPoison
    )
    assert poison.critical


def test_a_certificate_that_differs_from_what_was_logged_is_found_out() -> None:
    chain = hierarchy()
    listed = ct.list_extension([SCT(bytes(32), 0, b"", SIGNATURE)])
    precertificate = build_certificate(template(extensions=(ct.POISON,)), chain.issuer, chain.issuer_key)
    for changes in (
        {"not_after": template().not_after + 1},
        {"serial": b"\x05" * 16},
        {"ocsp_url": "http://ca.test/ocsp"},
        {"extensions": (Extension("1.3.6.1.5.5.7.1.24", False, bytes.fromhex("3003020105")), listed)},
    ):
        final = build_certificate(
            template(**({"extensions": (listed,)} | changes)), chain.issuer, chain.issuer_key
        )
        with pytest.raises(CTError):
            ct.check_same(precertificate, final)


EC = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def _signed(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, data: bytes) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        algorithm, made = 1, key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    else:
        algorithm, made = 3, key.sign(data, ec.ECDSA(hashes.SHA256()))
    return bytes((4, algorithm)) + len(made).to_bytes(2, "big") + made


@pytest.mark.parametrize("key", [EC, RSA], ids=["ecdsa", "rsa"])
def test_a_signature_is_over_time_certificate_issuer_and_extensions(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    tbs, issuer, moment = b"\x30\x00", b"issuer", 1_800_000_000_000
    sct = SCT(bytes(32), moment, b"more", _signed(key, ct.signed_data(moment, b"more", tbs, issuer)))
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    known = ct.log_key(spki)
    ct.verify(sct, known, tbs, issuer)
    other = ct.log_key(
        (EC if key is RSA else RSA).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    for one, by, over, from_ in (
        (SCT(bytes(32), moment + 1, b"more", sct.signature), known, tbs, issuer),
        (SCT(bytes(32), moment, b"", sct.signature), known, tbs, issuer),
        (sct, known, b"\x30\x01\x00", issuer),
        (sct, known, tbs, b"another"),
        (sct, other, tbs, issuer),
        (SCT(bytes(32), moment, b"more", b"\x05" + sct.signature[1:]), known, tbs, issuer),
        (SCT(bytes(32), moment, b"more", sct.signature + b"\0"), known, tbs, issuer),
    ):
        with pytest.raises(CTError):
            ct.verify(one, by, over, from_)


def test_a_log_signs_with_p_256_or_rsa_of_some_size() -> None:
    for key in (ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 1024)):
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        with pytest.raises(CTError):
            ct.log_key(spki)
