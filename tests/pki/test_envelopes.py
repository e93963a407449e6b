from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given, settings
from hypothesis import strategies as st
from pyasn1.codec.der import decoder, encoder
from pyasn1.type import univ
from pyasn1_alt_modules import rfc5083, rfc5084, rfc5652

from certloom.pki import cms, der, envelopes, key_encryption, signatures
from certloom.pki.cms import CMSError
from certloom.pki.envelopes import (
    EnvelopedData,
    KEKRecipient,
    KeyAgreement,
    KeyAgreementRecipient,
    KeyEncryptionKey,
    KeyTransport,
    KeyTransportRecipient,
    Password,
    PasswordRecipient,
    Recipient,
)
from tests.pki.cms_files import CONTENT, certificate, lay_out
from tests.pki.making import hierarchy, key, openssl

KEY_PACKAGE = "2.16.840.1.101.2.1.2.78.5"
CIPHERS = ["aes-128-cbc", "aes-192-cbc", "aes-256-cbc", "aes-128-gcm", "aes-192-gcm", "aes-256-gcm"]
EC_KEYS = ["P-256", "P-384", "P-521"]
SECRETS = {size: bytes(range(size)) for size in (16, 24, 32)}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("envelopes"))


def private(algorithm: str) -> Any:
    return key(algorithm)


def opened(message: bytes, holder: str, *, legacy: bool = False) -> bytes:
    """What the holder of ``key(holder)`` finds in it."""
    enveloped = envelopes.parse_enveloped_data(message)
    recipient = envelopes.find_recipient(enveloped, certificate(holder))
    assert recipient is not None
    return envelopes.decrypt_content(enveloped, envelopes.unwrap(recipient, private(holder)), legacy=legacy)


def opened_by(message: bytes, secret: bytes, *, legacy: bool = False) -> bytes:
    """What is found with an AES key or a password, by its one recipient."""
    enveloped = envelopes.parse_enveloped_data(message)
    (recipient,) = enveloped.recipients
    return envelopes.decrypt_content(enveloped, envelopes.unwrap(recipient, secret), legacy=legacy)


def code_of(message: bytes, secret: Any, *, legacy: bool = False) -> str:
    with pytest.raises(CMSError) as caught:
        opened_by(message, secret, legacy=legacy)
    return caught.value.code


# -- what openssl encrypts -----------------------------------------------------------------------------------


def openssl_encrypts(there: Path, *options: str | Path) -> bytes:
    out = there / "sealed.der"
    command = ("cms", "-encrypt", "-binary", "-outform", "DER", "-in", there / "content", "-out", out)
    openssl(*command, *options)
    return out.read_bytes()


@pytest.mark.parametrize("cipher", [*CIPHERS, "des3"])
@pytest.mark.parametrize("stream", [[], ["-stream"]])
def test_every_cipher_of_openssl_is_decrypted(files: Path, cipher: str, stream: list[str]) -> None:
    message = openssl_encrypts(files, f"-{cipher}", *stream, files / "rsa-2048.pem")
    assert (message[:2] == b"\x30\x80") == bool(stream)
    assert opened(message, "rsa-2048", legacy=True) == CONTENT
    enveloped = envelopes.parse_enveloped_data(message)
    assert enveloped.cipher == {"des3": "des-ede3-cbc"}.get(cipher, cipher)
    assert (enveloped.mac is not None) == cipher.endswith("gcm")
    if cipher == "des3":
        with pytest.raises(CMSError) as caught:
            opened(message, "rsa-2048")
        assert caught.value.code == "unsupported-cipher"


OAEP = ["-keyopt", "rsa_padding_mode:oaep"]


@pytest.mark.parametrize(
    ("holder", "options", "how"),
    [
        ("rsa-2048", [], "pkcs1"),
        ("rsa-2048", OAEP, "oaep-sha1"),
        ("rsa-2048", [*OAEP, "-keyopt", "rsa_oaep_md:sha256"], "oaep-sha256"),
        ("rsa-2048", [*OAEP, "-keyopt", "rsa_oaep_md:sha512"], ""),
        ("P-256", [], ""),
        ("P-384", ["-keyopt", "ecdh_kdf_md:sha384"], ""),
        ("P-521", ["-keyopt", "ecdh_kdf_md:sha512", "-keyopt", "ecdh_cofactor_mode:1"], ""),
    ],
)
@pytest.mark.parametrize("named", [[], ["-keyid"]])
def test_every_recipient_of_openssl_decrypts(
    files: Path,
    holder: str,
    options: list[str],
    how: str,
    named: list[str],
) -> None:
    message = openssl_encrypts(files, "-aes256", *named, "-recip", files / f"{holder}.pem", *options)
    recipient = envelopes.find_recipient(envelopes.parse_enveloped_data(message), certificate(holder))
    assert recipient is not None
    assert (recipient.recipient.key_identifier is not None) == bool(named)
    if isinstance(recipient, KeyTransportRecipient):
        assert recipient.padding == how
        if not how:
            with pytest.raises(CMSError) as caught:
                opened(message, holder)
            assert caught.value.code == "unsupported-key-encryption"
            return
    assert opened(message, holder) == CONTENT


@pytest.mark.parametrize("size", SECRETS)
def test_a_key_that_both_have_decrypts(files: Path, size: int) -> None:
    secret = ("-secretkey", SECRETS[size].hex(), "-secretkeyid", "C0FFEE")
    message = openssl_encrypts(files, "-aes256", *secret)
    (recipient,) = envelopes.parse_enveloped_data(message).recipients
    assert isinstance(recipient, KEKRecipient)
    assert recipient.identifier == bytes.fromhex("C0FFEE")
    assert opened_by(message, SECRETS[size]) == CONTENT
    assert code_of(message, bytes(size)) == "decryption-failed"
    another = SECRETS[32 if size == 16 else 16]
    assert code_of(message, another) == "unsupported-key-encryption"


@pytest.mark.parametrize("cipher", ["-aes128", "-aes192", "-aes256"])
@pytest.mark.parametrize("stream", [[], ["-stream"]])
def test_a_password_of_openssl_decrypts(files: Path, cipher: str, stream: list[str]) -> None:
    message = openssl_encrypts(files, cipher, *stream, "-pwri_password", "open sesame")
    assert opened_by(message, b"open sesame") == CONTENT
    assert code_of(message, b"open barley") == "decryption-failed"


def test_one_of_several_recipients(files: Path) -> None:
    message = openssl_encrypts(
        files,
        "-aes128",
        "-recip",
        files / "P-256.pem",
        "-recip",
        files / "rsa-2048.pem",
        "-recip",
        files / "P-384.pem",
    )
    for holder in ("P-256", "rsa-2048", "P-384"):
        assert opened(message, holder) == CONTENT
    assert envelopes.find_recipient(envelopes.parse_enveloped_data(message), certificate("P-521")) is None


def test_what_another_library_encrypts_is_decrypted() -> None:
    for cipher in (algorithms.AES128, algorithms.AES256):
        builder = pkcs7.PKCS7EnvelopeBuilder().set_data(CONTENT).set_content_encryption_algorithm(cipher)
        message = builder.add_recipient(x509.load_der_x509_certificate(certificate("rsa-2048"))).encrypt(
            Encoding.DER, [pkcs7.PKCS7Options.Binary]
        )
        assert opened(message, "rsa-2048") == CONTENT


# -- what is encrypted here ----------------------------------------------------------------------------------

CERTIFIED: list[tuple[str, Recipient]] = [
    ("rsa-2048", KeyTransport(certificate("rsa-2048"))),
    ("rsa-2048", KeyTransport(certificate("rsa-2048"), oaep=False, by_key_identifier=True)),
    *((name, KeyAgreement(certificate(name))) for name in EC_KEYS),
    ("P-256", KeyAgreement(certificate("P-256"), by_key_identifier=True)),
]


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize(("holder", "recipient"), CERTIFIED)
def test_openssl_decrypts_what_is_written(
    files: Path, cipher: str, holder: str, recipient: Recipient
) -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [recipient], cipher)
    assert opened(message, holder) == CONTENT
    (files / "ours.der").write_bytes(message)
    openssl(
        *("cms", "-decrypt", "-binary", "-inform", "DER", "-in", files / "ours.der", "-out", files / "out"),
        *("-recip", files / f"{holder}.pem", "-inkey", files / f"{holder}.key"),
    )
    assert (files / "out").read_bytes() == CONTENT


@pytest.mark.parametrize("size", SECRETS)
@pytest.mark.parametrize("cipher", ["aes-128-cbc", "aes-256-cbc", "aes-256-gcm"])
def test_openssl_decrypts_by_a_key_that_both_have(files: Path, cipher: str, size: int) -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [KeyEncryptionKey(b"\xc0\xff\xee", SECRETS[size])], cipher)
    assert opened_by(message, SECRETS[size]) == CONTENT
    (files / "ours.der").write_bytes(message)
    openssl(
        *("cms", "-decrypt", "-binary", "-inform", "DER", "-in", files / "ours.der", "-out", files / "out"),
        *("-secretkey", SECRETS[size].hex(), "-secretkeyid", "C0FFEE"),
    )
    assert (files / "out").read_bytes() == CONTENT


@pytest.mark.parametrize("cipher", ["aes-128-cbc", "aes-192-cbc", "aes-256-cbc"])
def test_openssl_decrypts_by_a_password(files: Path, cipher: str) -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [Password(b"open sesame", iterations=1000)], cipher)
    assert opened_by(message, b"open sesame") == CONTENT
    (files / "ours.der").write_bytes(message)
    openssl(
        *("cms", "-decrypt", "-binary", "-inform", "DER", "-in", files / "ours.der", "-out", files / "out"),
        *("-pwri_password", "open sesame"),
    )
    assert (files / "out").read_bytes() == CONTENT


def test_another_library_decrypts_what_is_written() -> None:
    recipient = KeyTransport(certificate("rsa-2048"), oaep=False)
    message = envelopes.encrypt(cms.DATA, CONTENT, [recipient], "aes-128-cbc")
    holder = x509.load_der_x509_certificate(certificate("rsa-2048"))
    assert pkcs7.pkcs7_decrypt_der(message, holder, private("rsa-2048"), []) == CONTENT


def test_a_password_with_aes_wrap() -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [Password(b"secret", "aes-wrap", 1000)])
    assert opened_by(message, b"secret") == CONTENT
    assert code_of(message, b"Secret") == "decryption-failed"


EVERYBODY: list[Recipient] = [
    *(recipient for _, recipient in CERTIFIED),
    KeyEncryptionKey(b"name", SECRETS[32]),
    Password(b"secret", iterations=1000),
    Password(b"secret", "aes-wrap", 1000),
]


@pytest.mark.parametrize("cipher", CIPHERS)
@pytest.mark.parametrize("content_type", [cms.DATA, cms.SIGNED_DATA])
def test_the_structure_is_the_standards(cipher: str, content_type: str) -> None:
    message = envelopes.encrypt(content_type, CONTENT, EVERYBODY, cipher)
    outer, rest = decoder.decode(message, asn1Spec=rfc5652.ContentInfo())
    assert not rest
    authenticated = cipher.endswith("gcm")
    spec = rfc5083.AuthEnvelopedData() if authenticated else rfc5652.EnvelopedData()
    inner, rest = decoder.decode(outer["content"], asn1Spec=spec)
    assert not rest
    assert encoder.encode(inner) == bytes(outer["content"])
    info = inner["authEncryptedContentInfo" if authenticated else "encryptedContentInfo"]
    assert str(info["contentType"]) == content_type
    if authenticated:
        assert inner["authAttrs"].isValue == (content_type != cms.DATA)  # RFC 5083 section 2.1
    kinds = {KeyTransport: "ktri", KeyAgreement: "kari", KeyEncryptionKey: "kekri", Password: "pwri"}
    written = sorted(info.getName() for info in inner["recipientInfos"])
    assert written == sorted(kinds[type(recipient)] for recipient in EVERYBODY)
    enveloped = envelopes.parse_enveloped_data(message)
    for recipient in enveloped.recipients:
        holder: Any = b"secret" if isinstance(recipient, PasswordRecipient) else SECRETS[32]
        if isinstance(recipient, KeyTransportRecipient | KeyAgreementRecipient):
            (holder,) = (
                private(name)
                for name in ("rsa-2048", *EC_KEYS)
                if recipient.recipient.names(certificate(name))
            )
        assert envelopes.decrypt_content(enveloped, envelopes.unwrap(recipient, holder)) == CONTENT


@pytest.mark.parametrize(
    ("recipient", "version"),
    [
        (KeyTransport(certificate("rsa-2048")), 0),
        (KeyTransport(certificate("rsa-2048"), by_key_identifier=True), 2),
        (KeyAgreement(certificate("P-256")), 2),
        (KeyEncryptionKey(b"name", SECRETS[16]), 2),
        (Password(b"secret", iterations=10), 3),
    ],
)
def test_the_version_is_that_of_section_6_1(recipient: Recipient, version: int) -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [recipient], bare=True)
    assert der.whole(message).integer() == version


def test_enveloped_data_alone_is_read() -> None:
    message = envelopes.encrypt(KEY_PACKAGE, CONTENT, [KeyEncryptionKey(b"name", SECRETS[16])], bare=True)
    assert envelopes.parse_enveloped_data(message).content_type == KEY_PACKAGE
    assert opened_by(message, SECRETS[16]) == CONTENT


def test_openssl_opens_a_signed_content_and_verifies_it(files: Path) -> None:
    """As RFC 7030 section 4.4.2 has a key sent: SignedData, alone, within EnvelopedData."""
    attributes = cms.signed_attributes(KEY_PACKAGE, b"a key", cms.SHA256)
    algorithm, signature = signatures.sign_tbs(private("rsa-2048"), attributes)
    signer = cms.by_issuer_and_serial(certificate("rsa-2048"))
    signed = cms.assemble_signed_data(
        *(KEY_PACKAGE, b"a key", attributes, signature, signer, cms.SHA256, algorithm),
        certificates=[certificate("rsa-2048")],
        bare=True,
    )
    message = envelopes.encrypt(cms.SIGNED_DATA, signed, [KeyAgreement(certificate("P-256"))])
    (files / "ours.der").write_bytes(message)
    openssl(
        *("cms", "-decrypt", "-binary", "-inform", "DER", "-in", files / "ours.der", "-out", files / "out"),
        *("-recip", files / "P-256.pem", "-inkey", files / "P-256.key"),
    )
    found = (files / "out").read_bytes()
    assert found == opened(message, "P-256") == signed
    (files / "signed.der").write_bytes(der.sequence(der.oid(cms.SIGNED_DATA), der.context(0, found)))
    openssl(
        *("cms", "-verify", "-binary", "-inform", "DER", "-in", files / "signed.der", "-out", files / "out"),
        *("-CAfile", files / "ca.pem", "-purpose", "any", "-no_check_time"),
    )
    assert (files / "out").read_bytes() == b"a key"


def test_authenticated_attributes_are_those_of_the_standard() -> None:
    """OpenSSL has them under another tag than RFC 5083, so that it cannot be asked."""
    message = envelopes.encrypt(KEY_PACKAGE, CONTENT, [KeyEncryptionKey(b"n", SECRETS[16])], "aes-256-gcm")
    outer, _ = decoder.decode(message, asn1Spec=rfc5652.ContentInfo())
    inner, _ = decoder.decode(outer["content"], asn1Spec=rfc5083.AuthEnvelopedData())
    info = inner["authEncryptedContentInfo"]
    algorithm = info["contentEncryptionAlgorithm"]
    parameters, _ = decoder.decode(algorithm["parameters"], asn1Spec=rfc5084.GCMParameters())
    wrapped = bytes(inner["recipientInfos"][0]["kekri"]["encryptedKey"])
    attributes = univ.SetOf(componentType=rfc5652.Attribute())
    attributes.extend(inner["authAttrs"])
    assert len(attributes) == 1
    opener = AESGCM(aes_key_unwrap(SECRETS[16], wrapped))
    sealed = bytes(info["encryptedContent"]) + bytes(inner["mac"])
    assert opener.decrypt(bytes(parameters["aes-nonce"]), sealed, encoder.encode(attributes)) == CONTENT


def test_triple_des_is_written_on_request_only(files: Path) -> None:
    to = [KeyTransport(certificate("rsa-2048"), oaep=False)]
    with pytest.raises(CMSError) as caught:
        envelopes.encrypt(cms.DATA, CONTENT, to, "des-ede3-cbc")
    assert caught.value.code == "unsupported-cipher"
    message = envelopes.encrypt(cms.DATA, CONTENT, to, "des-ede3-cbc", legacy=True)
    assert opened(message, "rsa-2048", legacy=True) == CONTENT
    (files / "ours.der").write_bytes(message)
    openssl(
        *("cms", "-decrypt", "-binary", "-inform", "DER", "-in", files / "ours.der", "-out", files / "out"),
        *("-recip", files / "rsa-2048.pem", "-inkey", files / "rsa-2048.key"),
    )
    assert (files / "out").read_bytes() == CONTENT


def test_the_recipient_that_fits_a_key() -> None:
    assert envelopes.recipient_for(certificate("rsa-2048")) == KeyTransport(certificate("rsa-2048"))
    assert envelopes.recipient_for(certificate("P-521")) == KeyAgreement(certificate("P-521"))
    for algorithm in ("ed25519", "ml-dsa-44"):
        with pytest.raises(CMSError) as caught:
            envelopes.recipient_for(certificate(algorithm))
        assert caught.value.code == "unsupported-key"


@pytest.mark.parametrize(
    "recipient",
    [
        KeyTransport(certificate("P-256")),
        KeyAgreement(certificate("rsa-2048")),
        KeyEncryptionKey(b"name", bytes(20)),
    ],
)
def test_a_recipient_whose_key_does_not_fit(recipient: Recipient) -> None:
    with pytest.raises(CMSError) as caught:
        envelopes.encrypt(cms.DATA, CONTENT, [recipient])
    assert caught.value.code == "unsupported-key"


def test_nobody_to_encrypt_to() -> None:
    with pytest.raises(CMSError):
        envelopes.encrypt(cms.DATA, CONTENT, [])


def test_secrets_are_not_shown() -> None:
    assert "secret" not in repr(Password(b"secret"))
    assert "6b6579" not in repr(KeyEncryptionKey(b"name", b"kkkkkkkkkkkkkkkk"))
    assert "kkkk" not in repr(KeyEncryptionKey(b"name", b"kkkkkkkkkkkkkkkk"))


# -- what is refused -----------------------------------------------------------------------------------------


def changed(enveloped: EnvelopedData, **changes: Any) -> EnvelopedData:
    fields = {name: getattr(enveloped, name) for name in EnvelopedData.__struct_fields__}
    return EnvelopedData(**(fields | changes))


@pytest.mark.parametrize("cipher", CIPHERS)
def test_after_the_key_there_is_one_failure(cipher: str) -> None:
    """Wrong key, wrong length, wrong padding, cut off: the sender learns nothing from which."""
    whole = envelopes.parse_enveloped_data(
        envelopes.encrypt(cms.DATA, CONTENT, [KeyEncryptionKey(b"name", SECRETS[16])], cipher)
    )
    right = envelopes.unwrap(whole.recipients[0], SECRETS[16])
    seen = set()
    last = whole.ciphertext[:-1] + bytes((whole.ciphertext[-1] ^ 1,))
    for enveloped, secret in (
        (whole, os.urandom(len(right))),
        (whole, b""),
        (whole, right[:-1]),
        (whole, bytes(7)),
        (changed(whole, ciphertext=last), right),
        (changed(whole, ciphertext=whole.ciphertext[:-1]), right),
        (changed(whole, ciphertext=b""), right),
    ):
        try:
            # A wrong key may by chance give sound padding, and then garbage: one in 256 times.
            assert envelopes.decrypt_content(enveloped, secret) != CONTENT
        except CMSError as error:
            seen.add((error.code, str(error)))
    assert seen == {("decryption-failed", "it cannot be decrypted")}
    if whole.mac is not None:
        for what in (changed(whole, mac=bytes(16)), changed(whole, authenticated=b"\x31\x00")):
            with pytest.raises(CMSError) as caught:
                envelopes.decrypt_content(what, right)
            assert caught.value.code == "decryption-failed"


def test_pkcs1_that_does_not_decrypt_gives_a_key() -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [KeyTransport(certificate("rsa-2048"), oaep=False)])
    enveloped = envelopes.parse_enveloped_data(message)
    (recipient,) = enveloped.recipients
    assert isinstance(recipient, KeyTransportRecipient)
    modulus = private("rsa-2048").public_key().public_numbers().n
    for wrong in (bytes(256), b"\x01", (modulus + 1).to_bytes(256, "big"), os.urandom(256), b""):
        other = KeyTransportRecipient(recipient.recipient, "pkcs1", wrong)
        assert isinstance(envelopes.unwrap(other, private("rsa-2048")), bytes)
        oaep = KeyTransportRecipient(recipient.recipient, "oaep-sha256", wrong)
        with pytest.raises(CMSError) as caught:
            envelopes.unwrap(oaep, private("rsa-2048"))
        assert caught.value.code == "decryption-failed"


def test_a_cipher_without_its_mac_is_refused() -> None:
    """AES-GCM as EnvelopedData, and AES-CBC as AuthEnvelopedData, would skip what protects the content."""
    for cipher, oid in (
        ("aes-256-gcm", "2.16.840.1.101.3.4.1.42"),
        ("aes-256-cbc", "2.16.840.1.101.3.4.1.46"),
    ):
        message = envelopes.encrypt(cms.DATA, CONTENT, [KeyEncryptionKey(b"n", SECRETS[16])], cipher)
        own = "2.16.840.1.101.3.4.1.46" if cipher == "aes-256-gcm" else "2.16.840.1.101.3.4.1.42"
        assert code_of(message.replace(der.oid(own), der.oid(oid)), SECRETS[16]) == "unsupported-cipher"


def test_a_key_of_another_kind_is_refused() -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, EVERYBODY)
    for recipient in envelopes.parse_enveloped_data(message).recipients:
        for other in (private("rsa-2048"), private("P-256"), b"secret"):
            fits = isinstance(recipient, KeyTransportRecipient) == isinstance(
                other, rsa.RSAPrivateKey
            ) and isinstance(recipient, KeyAgreementRecipient) == isinstance(
                other, ec.EllipticCurvePrivateKey
            )
            if not fits:
                with pytest.raises(CMSError) as caught:
                    envelopes.unwrap(recipient, other)
                assert caught.value.code == "unsupported-key-encryption"


def test_an_ephemeral_key_off_the_curve_is_refused() -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [KeyAgreement(certificate("P-256"))])
    (recipient,) = envelopes.parse_enveloped_data(message).recipients
    assert isinstance(recipient, KeyAgreementRecipient)
    for point in (b"\x04" + bytes(64), b"\x00", b"", recipient.originator[:-1] + b"\x00" * 2):
        other = KeyAgreementRecipient(
            recipient.recipient,
            point,
            recipient.ukm,
            recipient.scheme,
            recipient.wrap,
            recipient.encrypted_key,
        )
        with pytest.raises(CMSError) as caught:
            envelopes.unwrap(other, private("P-256"))
        assert caught.value.code == "unsupported-key-encryption"


def test_a_password_costs_no_more_than_is_allowed() -> None:
    message = envelopes.encrypt(cms.DATA, CONTENT, [Password(b"secret", iterations=10)])
    (recipient,) = envelopes.parse_enveloped_data(message).recipients
    assert isinstance(recipient, PasswordRecipient)
    assert recipient.derivation is not None
    for iterations in (0, key_encryption.MAX_ITERATIONS + 1, 1 << 40):
        salt = der.octet_string(bytes(16))
        derivation = der.oid("1.2.840.113549.1.5.12") + der.sequence(salt, der.integer(iterations))
        with pytest.raises(CMSError) as caught:
            envelopes.unwrap(
                PasswordRecipient(derivation, recipient.wrap, recipient.encrypted_key), b"secret"
            )
        assert caught.value.code == "unsupported-key-encryption"


def test_other_messages_are_told_so() -> None:
    signed = der.sequence(der.oid(cms.SIGNED_DATA), der.context(0, der.sequence()))
    for data, code in (
        (signed, "wrong-content-type"),
        (b"", "malformed"),
        (hierarchy().root.certificate, "malformed"),
    ):
        with pytest.raises(CMSError) as caught:
            envelopes.parse_enveloped_data(data)
        assert caught.value.code == code


# -- any input -----------------------------------------------------------------------------------------------


@given(
    st.binary(max_size=200),
    st.sampled_from(CIPHERS),
    st.sampled_from([recipient for recipient in EVERYBODY if not isinstance(recipient, KeyTransport)]),
    st.sampled_from([cms.DATA, KEY_PACKAGE]),
)
@settings(max_examples=60)
def test_what_was_encrypted_comes_back(content: bytes, cipher: str, recipient: Recipient, kind: str) -> None:
    enveloped = envelopes.parse_enveloped_data(envelopes.encrypt(kind, content, [recipient], cipher))
    assert enveloped.content_type == kind
    holder: Any = b"secret" if isinstance(recipient, Password) else SECRETS[32]
    if isinstance(recipient, KeyAgreement):
        (holder,) = (private(name) for name in EC_KEYS if certificate(name) == recipient.certificate)
    assert envelopes.decrypt_content(enveloped, envelopes.unwrap(enveloped.recipients[0], holder)) == content


@given(st.binary(max_size=300))
def test_no_octets_raise_anything_else(data: bytes) -> None:
    try:
        envelopes.parse_enveloped_data(data)
    except CMSError:
        return


WHOLE = {
    cipher: envelopes.encrypt(KEY_PACKAGE, CONTENT, EVERYBODY[:1] + EVERYBODY[2:], cipher)
    for cipher in ("aes-256-cbc", "aes-256-gcm")
}


@given(st.sampled_from(sorted(WHOLE)), st.data())
@settings(max_examples=300, deadline=None)
def test_no_damage_raises_anything_else(cipher: str, data: st.DataObject) -> None:
    message = bytearray(WHOLE[cipher])
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        enveloped = envelopes.parse_enveloped_data(bytes(message))
    except CMSError:
        return
    for recipient in enveloped.recipients:
        holder: Any = b"secret" if isinstance(recipient, PasswordRecipient) else SECRETS[32]
        if isinstance(recipient, KeyAgreementRecipient):
            holder = private("P-256")
        if isinstance(recipient, KeyTransportRecipient):
            continue
        try:
            content = envelopes.decrypt_content(enveloped, envelopes.unwrap(recipient, holder))
        except CMSError:
            continue
        assert content == CONTENT or cipher.endswith("cbc")
