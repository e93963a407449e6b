from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc5652

from certloom.pki import cms, cms_algorithms, cms_syntax, containers, der, keys, signatures
from certloom.pki.cms import CMSError, SignedData, SignerInfo
from certloom.pki.der import Reader
from certloom.pki.keys import PrivateKey
from tests.pki.cms_files import CONTENT, certificate, lay_out
from tests.pki.making import NOW, SIGNING_ALGORITHMS, hierarchy, key, openssl
from tests.strangers import installed, said

PKI_DATA = "1.3.6.1.5.5.7.12.2"
NONCE = "1.3.6.1.5.5.7.7.6"


def write(
    private: PrivateKey,
    holder: bytes,
    content_type: str = cms.DATA,
    content: bytes | None = CONTENT,
    *,
    by_key: bool = False,
    attributes: bool = True,
    rsa_encryption: bool = False,
    more: tuple[bytes, ...] = (),
) -> bytes:
    """A message signed here."""
    spki = keys.spki_of(private)
    digest = cms.digest_for(spki)
    signed = None
    if attributes:
        signed = cms.signed_attributes(content_type, content or b"", digest, signing_time=NOW, more=more)
    algorithm, signature = signatures.sign_tbs(private, signed if signed is not None else content or b"")
    signer = cms.by_issuer_and_serial(holder)
    if by_key:
        identifier = x509.load_der_x509_certificate(holder).extensions.get_extension_for_class(
            x509.SubjectKeyIdentifier
        )
        signer = cms.by_key_identifier(identifier.value.digest)
    return cms.assemble_signed_data(
        content_type,
        content,
        signed,
        signature,
        signer,
        digest,
        algorithm,
        [holder, hierarchy().issuer.certificate],
        rsa_encryption=rsa_encryption,
    )


def verified(message: bytes, content: bytes | None = None, *, legacy: bool = False) -> SignedData:
    """The message, verified by the certificate that comes with it."""
    signed = cms.parse_signed_data(message)
    (signer,) = signed.signers
    holder = cms.find_signer_certificate(signed, signer)
    assert holder is not None
    spki = keys.spki_of(x509.load_der_x509_certificate(holder).public_key())  # type: ignore[arg-type]
    cms.verify_signer(signed, signer, spki, content, legacy=legacy)
    return signed


def refusal(message: bytes, content: bytes | None = None, *, legacy: bool = False) -> str:
    with pytest.raises(CMSError) as caught:
        verified(message, content, legacy=legacy)
    return caught.value.code


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("cms"))


# -- what openssl signs --------------------------------------------------------------------------------------


def openssl_signs(there: Path, algorithm: str, *options: str) -> bytes:
    signer: list[str | Path] = ["-signer", there / f"{algorithm}.pem", "-inkey", there / f"{algorithm}.key"]
    out = there / "signed.der"
    openssl(
        "cms", "-sign", "-binary", "-outform", "DER", "-in", there / "content", "-out", out, *signer, *options
    )
    return out.read_bytes()


KEYS_AND_OPTIONS: list[tuple[str, list[str]]] = [
    ("rsa-2048", []),
    ("rsa-2048", ["-md", "sha384"]),
    ("rsa-2048", ["-md", "sha512", "-keyopt", "rsa_padding_mode:pss"]),
    ("P-256", []),
    ("P-256", ["-md", "sha512"]),
    ("P-384", ["-md", "sha384"]),
    ("P-521", ["-md", "sha512"]),
]
PLACED = [[], ["-keyid"], ["-noattr"], ["-stream"], ["-keyid", "-stream", "-noattr"]]


# openssl 3.0 cannot write RSASSA-PSS in one pass.
@pytest.mark.parametrize(
    ("algorithm", "options", "how"),
    [
        (*case, how)
        for case in KEYS_AND_OPTIONS
        for how in PLACED
        if "-keyopt" not in case[1] or "-stream" not in how
    ],
)
def test_what_openssl_signs_is_verified(
    files: Path, algorithm: str, options: list[str], how: list[str]
) -> None:
    message = openssl_signs(files, algorithm, "-nodetach", *options, *how)
    assert (message[:2] == b"\x30\x80") == ("-stream" in how)
    signed = verified(message)
    assert signed.content == CONTENT
    assert signed.content_type == cms.DATA
    (signer,) = signed.signers
    assert (signer.signer.key_identifier is not None) == ("-keyid" in how)
    assert (signer.signed is None) == ("-noattr" in how)
    assert signed.certificates == (certificate(algorithm),)


def test_a_detached_signature_needs_its_content(files: Path) -> None:
    message = openssl_signs(files, "P-256")
    assert cms.parse_signed_data(message).content is None
    verified(message, CONTENT)
    assert refusal(message) == "no-content"
    assert refusal(message, CONTENT + b"!") == "bad-digest"


def test_sha1_is_taken_on_request_only(files: Path) -> None:
    for algorithm in ("rsa-2048", "P-256"):
        for how in ([], ["-noattr"]):
            message = openssl_signs(files, algorithm, "-nodetach", "-md", "sha1", *how)
            assert refusal(message) == "bad-signature-algorithm"
            verified(message, legacy=True)
            at = message.index(CONTENT)
            damaged = message[:at] + b"W" + message[at + 1 :]
            assert refusal(damaged, legacy=True) == ("bad-signature" if how else "bad-digest")


def test_md5_is_never_taken(files: Path) -> None:
    message = openssl_signs(files, "rsa-2048", "-nodetach", "-md", "md5")
    assert refusal(message, legacy=True) == "bad-signature-algorithm"


def test_several_signers_are_told_apart(files: Path) -> None:
    more = ["-signer", str(files / "P-384.pem"), "-inkey", str(files / "P-384.key")]
    signed = cms.parse_signed_data(openssl_signs(files, "rsa-2048", "-nodetach", *more))
    found = {cms.find_signer_certificate(signed, signer) for signer in signed.signers}
    assert found == {certificate("rsa-2048"), certificate("P-384")}
    for signer in signed.signers:
        own = key(
            "rsa-2048" if cms.find_signer_certificate(signed, signer) == certificate("rsa-2048") else "P-384"
        )
        other = key("P-384" if own is key("rsa-2048") else "rsa-2048")
        cms.verify_signer(signed, signer, keys.spki_of(own))
        with pytest.raises(CMSError):
            cms.verify_signer(signed, signer, keys.spki_of(other))


def test_crls_and_certificates_come_along(files: Path) -> None:
    openssl("crl2pkcs7", "-nocrl", "-certfile", files / "ca.pem", "-outform", "DER", "-out", files / "c.p7")
    data = (files / "c.p7").read_bytes()
    assert set(cms.certificates_of(data)) == {hierarchy().issuer.certificate, hierarchy().root.certificate}
    assert cms.parse_signed_data(data).signers == ()


def test_what_another_library_signs_is_verified() -> None:
    for algorithm, digest in (("rsa-2048", hashes.SHA256()), ("P-384", hashes.SHA384())):
        private = key(algorithm)
        assert isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey)
        builder = pkcs7.PKCS7SignatureBuilder().set_data(CONTENT)
        holder = x509.load_der_x509_certificate(certificate(algorithm))
        message = builder.add_signer(holder, private, digest).sign(Encoding.DER, [pkcs7.PKCS7Options.Binary])
        assert verified(message).content == CONTENT


# -- what is written here ------------------------------------------------------------------------------------

HOWS: list[dict[str, Any]] = [{}, {"by_key": True}, {"attributes": False}, {"rsa_encryption": True}]


@pytest.mark.parametrize("algorithm", SIGNING_ALGORITHMS)
@pytest.mark.parametrize("how", HOWS)
def test_what_is_written_is_read(algorithm: str, how: dict[str, Any]) -> None:
    message = write(key(algorithm), certificate(algorithm), **how)
    signed = verified(message)
    assert signed.content == CONTENT
    assert set(signed.certificates) == {certificate(algorithm), hierarchy().issuer.certificate}
    (signer,) = signed.signers
    assert signer.attributes.get(cms.SIGNING_TIME, ()) == (
        (der.x509_time(NOW),) if how.get("attributes", True) else ()
    )
    strange, rest = decoder.decode(message, asn1Spec=rfc5652.ContentInfo())
    assert not rest
    inner, rest = decoder.decode(strange["content"], asn1Spec=rfc5652.SignedData())
    assert not rest
    assert encoder.encode(inner) == bytes(strange["content"])
    assert inner["version"] == (3 if "by_key" in how else 1)
    assert bytes(inner["signerInfos"][0]["signature"]) == signer.signature
    rsa_only = algorithm == "rsa-2048" and "rsa_encryption" in how
    oid = str(inner["signerInfos"][0]["signatureAlgorithm"]["algorithm"])
    assert (oid == "1.2.840.113549.1.1.1") == rsa_only


@pytest.mark.parametrize("algorithm", ["rsa-2048", "P-256", "P-384", "P-521"])
@pytest.mark.parametrize("how", HOWS)
def test_openssl_verifies_what_is_written(files: Path, algorithm: str, how: dict[str, Any]) -> None:
    message = write(key(algorithm), certificate(algorithm), **how)
    (files / "ours.der").write_bytes(message)
    openssl(
        *("cms", "-verify", "-binary", "-inform", "DER", "-in", files / "ours.der", "-out", files / "out"),
        *("-CAfile", files / "ca.pem", "-purpose", "any", "-no_check_time"),
    )
    assert (files / "out").read_bytes() == CONTENT


@pytest.mark.parametrize("algorithm", ["rsa-2048", "P-256", "ed25519"])
@pytest.mark.parametrize("how", HOWS[:2])
def test_gnutls_verifies_what_is_written(files: Path, algorithm: str, how: dict[str, Any]) -> None:
    (files / "ours.der").write_bytes(write(key(algorithm), certificate(algorithm), **how))
    signer = ("--load-certificate", files / f"{algorithm}.pem")
    command: list[str | Path] = ["--p7-verify", "--inder", "--infile", files / "ours.der", *signer]
    good, text = said(installed("certtool"), *command)
    assert good, text
    assert "Signature status: ok" in text


# GnuTLS 3.7 signs no attributes with Ed448.
@pytest.mark.parametrize(("algorithm", "timed"), [("ed25519", True), ("ed25519", False), ("ed448", False)])
def test_what_gnutls_signs_is_verified(files: Path, algorithm: str, timed: bool) -> None:
    signer = ("--load-certificate", files / f"{algorithm}.pem", "--load-privkey", files / f"{algorithm}.key")
    out = files / f"{algorithm}-{timed}.p7"
    extra = ["--p7-time"] if timed else []
    command: list[str | Path] = ["--p7-sign", *extra, *signer, "--outder"]
    good, text = said(installed("certtool"), *command, "--infile", files / "content", "--outfile", out)
    assert good, text
    assert verified(out.read_bytes()).content == CONTENT


def test_another_type_of_content_and_other_attributes(files: Path) -> None:
    nonce = cms.attribute(NONCE, der.octet_string(b"12345678"))
    message = write(key(), certificate(), PKI_DATA, more=(nonce,))
    signed = verified(message)
    assert signed.content_type == PKI_DATA
    assert signed.signers[0].attributes[NONCE] == (der.octet_string(b"12345678"),)
    (files / "ours.der").write_bytes(message)
    printed = openssl("cms", "-cmsout", "-print", "-inform", "DER", "-in", files / "ours.der")
    assert PKI_DATA in printed


def test_a_message_without_content_is_signed_over_nothing() -> None:
    message = write(key(), certificate(), content=None)
    assert refusal(message) == "no-content"
    assert verified(message, b"").content is None


def test_signed_data_alone_is_read_and_written() -> None:
    message = write(key(), certificate())
    bare = der.whole(message)
    bare.oid()
    alone = bare.enter(0xA0).raw(der.SEQUENCE)
    assert cms.parse_signed_data(alone) == cms.parse_signed_data(message)
    algorithm, signature = signatures.sign_tbs(key(), CONTENT)
    arguments = (cms.DATA, CONTENT, None, signature, cms.by_issuer_and_serial(certificate()), cms.SHA256)
    whole = cms.assemble_signed_data(*arguments, algorithm)
    alone = cms.assemble_signed_data(*arguments, algorithm, bare=True)
    assert whole.endswith(alone)
    verified_alone = cms.parse_signed_data(alone)
    cms.verify_signer(verified_alone, verified_alone.signers[0], keys.spki_of(key()))


def test_certs_only_is_read() -> None:
    some = [certificate(), hierarchy().root.certificate]
    assert set(cms.certificates_of(containers.certs_only(some))) == set(some)
    assert cms.certificates_of(containers.certs_only([])) == ()


def test_the_digest_of_a_key() -> None:
    expected = {
        "rsa-2048": cms.SHA256,
        "P-256": cms.SHA256,
        "P-384": cms.SHA384,
        "P-521": cms.SHA512,
        "ed25519": cms.SHA512,
        "ed448": cms.SHAKE256_LEN,
        "ml-dsa-44": cms.SHA512,
        "ml-dsa-65": cms.SHA512,
        "ml-dsa-87": cms.SHA512,
    }
    assert {a: cms.digest_for(keys.spki_of(key(a))) for a in SIGNING_ALGORITHMS} == expected
    with pytest.raises(keys.KeyRejected):
        cms.digest_for(keys.spki_of(keys.generate_for_leaf("ml-kem-768")))


# -- what is refused -----------------------------------------------------------------------------------------


def rewritten(message: bytes, **changes: object) -> tuple[SignedData, SignerInfo]:
    signed = cms.parse_signed_data(message)
    fields = {name: getattr(signed.signers[0], name) for name in SignerInfo.__struct_fields__}
    signer = SignerInfo(**(fields | changes))
    return signed, signer


def code_of(signed: SignedData, signer: SignerInfo, algorithm: str = "P-256") -> str:
    with pytest.raises(CMSError) as caught:
        cms.verify_signer(signed, signer, keys.spki_of(key(algorithm)))
    return caught.value.code


def signed_by(private: PrivateKey, attributes: bytes) -> dict[str, object]:
    """Changes to a SignerInfo that has signed these attributes, whatever they are."""
    return {
        "signed": attributes,
        "attributes": cms_syntax.read_attributes(der.whole(attributes, der.SET)),
        "signature": signatures.sign_tbs(private, attributes)[1],
    }


def test_attributes_that_must_be_there_once() -> None:
    message = write(key(), certificate())
    typed = cms.attribute(cms.CONTENT_TYPE, der.oid(cms.DATA))
    other = cms.attribute(cms.CONTENT_TYPE, der.oid(cms.SIGNED_DATA))
    digest = der.octet_string(cms_algorithms.digest(cms.SHA256, CONTENT))
    hashed = cms.attribute(cms.MESSAGE_DIGEST, digest)
    wrong = cms.attribute(cms.MESSAGE_DIGEST, der.octet_string(bytes(32)))
    cms.verify_signer(*rewritten(message, **signed_by(key(), der.set_of(typed, hashed))), keys.spki_of(key()))
    for attributes, code in (
        ([typed], "bad-attributes"),
        ([hashed], "bad-attributes"),
        ([], "bad-attributes"),
        ([other, hashed], "bad-attributes"),
        ([typed, wrong], "bad-digest"),
        ([typed, hashed, hashed], "bad-attributes"),
        ([typed, typed, hashed], "bad-attributes"),
        ([typed, cms.attribute(cms.MESSAGE_DIGEST, digest, digest)], "bad-attributes"),
    ):
        assert code_of(*rewritten(message, **signed_by(key(), der.set_of(*attributes)))) == code


def test_attributes_out_of_order_are_verified_as_sent_or_in_order() -> None:
    message = write(key(), certificate())
    signed = cms.parse_signed_data(message).signers[0].signed
    assert signed is not None
    reader = der.whole(signed, der.SET)
    pieces = []
    while reader.more():
        pieces.append(reader.raw(der.SEQUENCE))
    backwards = der.tlv(der.SET, b"".join(reversed(pieces)))
    assert backwards != signed
    # Signed as sent, against the standard; then signed in order, and sent out of it.
    cms.verify_signer(*rewritten(message, **signed_by(key(), backwards)), keys.spki_of(key()))
    in_order = signed_by(key(), signed)
    cms.verify_signer(*rewritten(message, **(in_order | {"signed": backwards})), keys.spki_of(key()))
    assert code_of(*rewritten(message, signed=backwards, signature=bytes(70))) == "bad-signature"


def test_signed_attributes_shown_as_content_are_refused() -> None:
    """The attributes' signature would else be one over a content that nobody signed."""
    signer = cms.parse_signed_data(write(key(), certificate())).signers[0]
    forged = cms.assemble_signed_data(
        cms.DATA,
        signer.signed,
        None,
        signer.signature,
        cms.by_issuer_and_serial(certificate()),
        signer.digest,
        signer.algorithm,
        [certificate()],
    )
    assert refusal(forged) == "bad-attributes"
    set_of_others = der.set_of(der.integer(1))
    assert verified(write(key(), certificate(), content=set_of_others, attributes=False))


def test_only_data_is_signed_without_attributes() -> None:
    assert refusal(write(key(), certificate(), PKI_DATA, attributes=False)) == "bad-attributes"


def test_a_signature_of_another_hash_function_is_refused() -> None:
    message = write(key("rsa-2048"), certificate("rsa-2048"))
    private = key("rsa-2048")
    assert isinstance(private, rsa.RSAPrivateKey)
    signer = cms.parse_signed_data(message).signers[0]
    assert signer.signed is not None
    sha512 = der.sequence(der.oid("1.2.840.113549.1.1.13"), der.NULL)
    signature = private.sign(signer.signed, padding.PKCS1v15(), hashes.SHA512())
    changed = rewritten(message, algorithm=sha512, signature=signature)
    assert code_of(*changed, "rsa-2048") == "bad-signature-algorithm"
    pss = bytes.fromhex("300b06092a864886f70d01010a")  # without parameters: SHA-1
    assert code_of(*rewritten(message, algorithm=pss), "rsa-2048") == "bad-signature-algorithm"
    named = der.sequence(der.oid("1.2.840.10045.2.1"))
    assert code_of(*rewritten(message, algorithm=named), "rsa-2048") == "bad-signature-algorithm"
    assert code_of(*rewritten(message, digest="1.2.840.113549.2.5"), "rsa-2048") == "bad-signature-algorithm"


def test_an_ec_key_named_as_the_algorithm_is_taken() -> None:
    message = write(key("P-384"), certificate("P-384"))
    named = der.sequence(der.oid("1.2.840.10045.2.1"))
    cms.verify_signer(*rewritten(message, algorithm=named), keys.spki_of(key("P-384")))


def test_another_key_and_no_key() -> None:
    message = write(key(), certificate())
    signed = cms.parse_signed_data(message)
    for spki, code in (
        (keys.spki_of(keys.generate("P-256")), "bad-signature"),
        (keys.spki_of(key("rsa-2048")), "bad-signature-algorithm"),
        (keys.spki_of(keys.generate_for_leaf("ml-kem-768")), "unsupported-key"),
        (b"nothing", "unsupported-key"),
    ):
        with pytest.raises(CMSError) as caught:
            cms.verify_signer(signed, signed.signers[0], spki)
        assert caught.value.code == code


def test_other_messages_are_told_so() -> None:
    enveloped = der.sequence(der.oid("1.2.840.113549.1.7.3"), der.context(0, der.sequence()))
    for data, code in ((enveloped, "wrong-content-type"), (b"", "malformed"), (certificate(), "malformed")):
        with pytest.raises(CMSError) as caught:
            cms.parse_signed_data(data)
        assert caught.value.code == code


def test_choices_that_are_no_certificates_are_passed_over() -> None:
    reader = der.whole(containers.certs_only([certificate()]))
    reader.oid()
    inner = reader.enter(0xA0).enter()
    head = inner.raw(der.INTEGER) + inner.raw(der.SET) + inner.raw(der.SEQUENCE)
    choices = certificate() + der.context(2, der.sequence()) + der.context(3, der.oid("1.2.3"))
    crls = der.context(1, der.sequence() + der.context(1, der.oid("1.2.3")))
    signed_data = der.sequence(head, der.context(0, choices), crls, der.tlv(der.SET, b""))
    signed = cms.parse_signed_data(signed_data)
    assert signed.certificates == (certificate(),)
    assert signed.crls == (der.sequence(),)


def test_many_attributes_cost_in_proportion() -> None:
    attributes = cms.attribute(NONCE, der.NULL) * 50_000
    begin = time.process_time()
    found = cms_syntax.read_attributes(Reader(attributes))
    assert time.process_time() - begin < 2
    assert found == {NONCE: (der.NULL,) * 50_000}


def test_large_certificates_are_read_too() -> None:
    reader = der.whole(certificate())
    tbs = reader.enter()
    head = b"".join(tbs.raw(tbs.peek()) for _ in range(7))
    extension = der.sequence(der.oid("1.2.3"), der.octet_string(bytes(20_000)))
    large = der.sequence(der.sequence(head, der.context(3, der.sequence(extension))))
    assert cms.by_issuer_and_serial(large) == cms.by_issuer_and_serial(certificate())


def test_signers_and_certificates_are_bounded() -> None:
    """Each signer is looked for among all certificates."""

    def message(certificates: int, signers: int) -> bytes:
        own = der.whole(write(key(), certificate()))
        own.oid()
        inner = own.enter(0xA0).enter()
        head = inner.raw(der.INTEGER) + inner.raw(der.SET) + inner.raw(der.SEQUENCE)
        inner.raw(0xA0)
        infos = inner.enter(der.SET).raw(der.SEQUENCE) * signers
        choices = (der.sequence(der.NULL) * certificates) + certificate()
        return der.sequence(head, der.context(0, choices), der.tlv(der.SET, infos))

    signed = cms.parse_signed_data(message(cms.MAX_CERTIFICATES - 1, cms.MAX_SIGNERS))
    begin = time.process_time()
    for signer in signed.signers:
        assert cms.find_signer_certificate(signed, signer) == certificate()
    assert time.process_time() - begin < 1
    for certificates, signers in ((cms.MAX_CERTIFICATES, 1), (1, cms.MAX_SIGNERS + 1)):
        with pytest.raises(CMSError) as caught:
            cms.parse_signed_data(message(certificates, signers))
        assert caught.value.code == "malformed"


# -- any input -----------------------------------------------------------------------------------------------

contents = st.none() | st.binary(max_size=600)


@given(st.sampled_from(["P-256", "ed25519"]), contents, st.booleans(), st.lists(st.binary(max_size=40)))
@settings(max_examples=40)
def test_what_was_written_comes_back(
    algorithm: str, content: bytes | None, by_key: bool, values: list[bytes]
) -> None:
    more = (cms.attribute(NONCE, *map(der.octet_string, values)),)
    message = write(key(algorithm), certificate(algorithm), PKI_DATA, content, by_key=by_key, more=more)
    signed = verified(message, None if content is not None else b"")
    assert (signed.content_type, signed.content) == (PKI_DATA, content)
    assert sorted(signed.signers[0].attributes[NONCE]) == sorted(map(der.octet_string, values))


@given(st.binary(max_size=300))
def test_no_octets_raise_anything_else(data: bytes) -> None:
    try:
        cms.parse_signed_data(data)
    except CMSError:
        return


@given(st.data())
@settings(max_examples=300)
def test_damage_is_refused(data: st.DataObject) -> None:
    """Whatever is changed: either it is told, or what was signed is what was signed."""
    message = bytearray(write(key("ed25519"), certificate("ed25519"), PKI_DATA))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        signed = cms.parse_signed_data(bytes(message))
        for signer in signed.signers:
            cms.verify_signer(signed, signer, keys.spki_of(key("ed25519")))
    except CMSError:
        return
    assert not signed.signers or (signed.content_type, signed.content) == (PKI_DATA, CONTENT)


def test_reading_costs_little() -> None:
    message = write(key(), certificate())
    best = 1.0
    for _ in range(20):
        begin = time.process_time()
        for _ in range(50):
            cms.parse_signed_data(message)
        best = min(best, (time.process_time() - begin) / 50)
    assert best < 0.000_3, f"{best * 1e6:.0f} us"


def test_openssl_reads_the_same(files: Path) -> None:
    message = openssl_signs(files, "rsa-2048", "-nodetach", "-stream")
    strange = subprocess.run(
        ["openssl", "asn1parse", "-inform", "DER"], input=message, capture_output=True, check=True
    ).stdout.decode()
    signer = cms.parse_signed_data(message).signers[0]
    assert signer.signature.hex().upper() in strange
    assert Reader(signer.attributes[cms.MESSAGE_DIGEST][0]).content(der.OCTET_STRING).hex().upper() in strange
