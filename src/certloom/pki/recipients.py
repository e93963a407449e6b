"""RecipientInfo (RFC 5652 section 6.2): to whom the key of an encrypted content goes, and how.

By an RSA key (RSAES-OAEP or PKCS #1 v1.5), an EC key (ephemeral-static ECDH, RFC 5753), an AES key that both
have (RFC 3565), or a password (PBKDF2 with RFC 3211's wrapping or with AES-wrap, RFC 9481 section 4.4).
"""

from __future__ import annotations

import hashlib
import os
from typing import Literal, TypeAlias

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from certloom.pki import der
from certloom.pki.cms_syntax import (
    CMSError,
    EntityIdentifier,
    by_issuer_and_serial,
    by_key_identifier,
    next_tlv,
    parts_of,
    read_identifier,
)
from certloom.pki.der import DERError, Reader
from certloom.pki.key_encryption import (
    AES_256_CBC,
    AES_CBC,
    AES_WRAPS,
    EC_PUBLIC_KEY,
    ECDH,
    ECDH_SHA256,
    HMAC_SHA256,
    MGF1,
    PADDINGS,
    PBKDF2,
    PWRI_KEK,
    RSA_ENCRYPTION,
    RSAES_OAEP,
    SHA1,
    SHA256,
    WRAP_SIZES,
    agreed_key,
    algorithm_identifier,
    decryption_failed,
    derivation,
    unsupported,
    unwrap_aes,
    unwrap_pwri,
    wrap_pwri,
)
from certloom.pki.keys import KeyRejected, PublicKey, facts_of, public_key


class KeyTransport(msgspec.Struct, frozen=True):
    """To the RSA key in a certificate."""

    certificate: bytes
    """DER."""
    oaep: bool = True
    """RSAES-OAEP with SHA-256 (RFC 4055); else PKCS #1 v1.5, which some readers know alone."""
    by_key_identifier: bool = False
    """Name it by its subjectKeyIdentifier; else by issuer and serial number."""


class KeyAgreement(msgspec.Struct, frozen=True):
    """To the EC key in a certificate."""

    certificate: bytes
    by_key_identifier: bool = False


class KeyEncryptionKey(msgspec.Struct, frozen=True):
    """To who has this key."""

    identifier: bytes
    key: bytes
    """16, 24 or 32 octets, for AES-wrap (RFC 3394)."""

    def __repr__(self) -> str:
        return f"KeyEncryptionKey({self.identifier!r})"


class Password(msgspec.Struct, frozen=True):
    """To who knows this password."""

    password: bytes
    wrap: Literal["pwri-kek", "aes-wrap"] = "pwri-kek"
    """``pwri-kek`` is RFC 3211's, the one that RFC 3370 section 4.3.1 asks everyone to have; ``aes-wrap`` is
    CMP's."""
    iterations: int = 100_000

    def __repr__(self) -> str:
        return "Password(...)"


Recipient: TypeAlias = KeyTransport | KeyAgreement | KeyEncryptionKey | Password


class KeyTransportRecipient(msgspec.Struct, frozen=True):
    """KeyTransRecipientInfo, as read."""

    recipient: EntityIdentifier
    padding: Literal["pkcs1", "oaep-sha1", "oaep-sha256", ""]
    """As ``Signing.decrypt`` calls it; empty for one that is not supported."""
    encrypted_key: bytes


class KeyAgreementRecipient(msgspec.Struct, frozen=True):
    """One of those in a KeyAgreeRecipientInfo."""

    recipient: EntityIdentifier
    originator: bytes
    """The sender's point; empty where it is not in the message, which is not supported."""
    ukm: bytes | None
    scheme: str
    """Object identifier of the key agreement and its key derivation."""
    wrap: bytes
    """DER AlgorithmIdentifier."""
    encrypted_key: bytes


class KEKRecipient(msgspec.Struct, frozen=True):
    """KEKRecipientInfo."""

    identifier: bytes
    wrap: bytes
    encrypted_key: bytes


class PasswordRecipient(msgspec.Struct, frozen=True):
    """PasswordRecipientInfo."""

    derivation: bytes | None
    """Contents of the DER AlgorithmIdentifier; None where there is none, which is not supported."""
    wrap: bytes
    encrypted_key: bytes


RecipientInfo: TypeAlias = KeyTransportRecipient | KeyAgreementRecipient | KEKRecipient | PasswordRecipient

# --- writing ---------------------------------------------------------------------------------


def recipient_for(certificate: bytes, *, oaep: bool = True) -> KeyTransport | KeyAgreement:
    """Whichever fits the key in this DER certificate. Raises ``CMSError``."""
    key = _key_of(certificate)
    if isinstance(key, rsa.RSAPublicKey):
        return KeyTransport(certificate, oaep)
    if isinstance(key, ec.EllipticCurvePublicKey):
        return KeyAgreement(certificate)
    raise CMSError("unsupported-key", "nothing can be encrypted to the key in this certificate")


def write_recipient(recipient: Recipient, key: bytes) -> tuple[int, bytes]:
    """The version and the DER of the RecipientInfo that gives ``key`` to this recipient. Raises
    ``CMSError``."""
    match recipient:
        case KeyTransport():
            return _write_key_transport(recipient, key)
        case KeyAgreement():
            return 3, _write_key_agreement(recipient, key)
        case KeyEncryptionKey():
            if len(recipient.key) not in AES_WRAPS:
                raise CMSError("unsupported-key", "a key-encryption key of another length than AES has")
            wrap = algorithm_identifier(AES_WRAPS[len(recipient.key)])
            wrapped = der.octet_string(aes_key_wrap(recipient.key, key))
            name = der.sequence(der.octet_string(recipient.identifier))
            return 4, der.context(2, der.integer(4) + name + wrap + wrapped)
        case Password():
            return 0, _write_password(recipient, key)


def _key_of(certificate: bytes) -> PublicKey:
    try:
        return public_key(facts_of(parts_of(certificate).spki))
    except KeyRejected as error:
        raise CMSError("unsupported-key", str(error)) from None


def _write_key_transport(recipient: KeyTransport, key: bytes) -> tuple[int, bytes]:
    public = _key_of(recipient.certificate)
    if not isinstance(public, rsa.RSAPublicKey):
        raise CMSError("unsupported-key", "key transport to a key that is not RSA")
    if recipient.oaep:
        sha256 = algorithm_identifier(SHA256, der.NULL)
        mask = der.context(1, algorithm_identifier(MGF1, sha256))
        algorithm = algorithm_identifier(RSAES_OAEP, der.sequence(der.context(0, sha256), mask))
    else:
        algorithm = algorithm_identifier(RSA_ENCRYPTION, der.NULL)
    encrypted = public.encrypt(key, PADDINGS["oaep-sha256" if recipient.oaep else "pkcs1"])
    version, name = 0, by_issuer_and_serial(recipient.certificate).der
    if recipient.by_key_identifier:
        version, name = 2, by_key_identifier(_key_identifier(recipient.certificate)).der
    return version, der.sequence(der.integer(version), name, algorithm, der.octet_string(encrypted))


def _key_identifier(certificate: bytes) -> bytes:
    key_identifier = parts_of(certificate).key_identifier
    if key_identifier is None:
        raise CMSError("unsupported-key", "a certificate without a subjectKeyIdentifier")
    return key_identifier


def _write_key_agreement(recipient: KeyAgreement, key: bytes) -> bytes:
    public = _key_of(recipient.certificate)
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise CMSError("unsupported-key", "key agreement with a key that is not EC")
    ephemeral = ec.generate_private_key(public.curve)
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    # The curve is the recipient's; an absent parameter says so (RFC 5753 section 7.1.2).
    originator = der.context(1, algorithm_identifier(EC_PUBLIC_KEY) + der.bit_string(point))
    wrap = algorithm_identifier(AES_WRAPS[32])
    kek = agreed_key(ephemeral.exchange(ec.ECDH(), public), ECDH_SHA256, wrap, None, 32)
    if recipient.by_key_identifier:
        name = der.context(0, der.octet_string(_key_identifier(recipient.certificate)))
    else:
        name = by_issuer_and_serial(recipient.certificate).der
    encrypted = der.sequence(der.sequence(name, der.octet_string(aes_key_wrap(kek, key))))
    return der.context(
        1, der.integer(3) + der.context(0, originator) + algorithm_identifier(ECDH_SHA256, wrap) + encrypted
    )


def _write_password(recipient: Password, key: bytes) -> bytes:
    salt = os.urandom(16)
    kek = hashlib.pbkdf2_hmac("sha256", recipient.password, salt, recipient.iterations, 32)
    prf = algorithm_identifier(HMAC_SHA256, der.NULL)
    parameters = der.sequence(der.octet_string(salt), der.integer(recipient.iterations), prf)
    derivation = der.context(0, der.oid(PBKDF2) + parameters)
    if recipient.wrap == "aes-wrap":
        wrap, wrapped = algorithm_identifier(AES_WRAPS[32]), aes_key_wrap(kek, key)
    else:
        iv = os.urandom(16)
        wrap = algorithm_identifier(PWRI_KEK, algorithm_identifier(AES_256_CBC, der.octet_string(iv)))
        wrapped = wrap_pwri(kek, iv, key)
    return der.context(3, der.integer(0) + derivation + wrap + der.octet_string(wrapped))


# --- reading ---------------------------------------------------------------------------------


def read_recipients(reader: Reader) -> tuple[RecipientInfo, ...]:
    """What is in a RecipientInfos. Other kinds of recipients are passed over. Raises ``DERError``."""
    found: list[RecipientInfo] = []
    while reader.more():
        match reader.peek():
            case der.SEQUENCE:
                found.append(_read_key_transport(reader.enter()))
            case 0xA1:
                found.extend(_read_key_agreement(reader.enter(0xA1)))
            case 0xA2:
                found.append(_read_kek(reader.enter(0xA2)))
            case 0xA3:
                found.append(_read_password(reader.enter(0xA3)))
            case _:
                next_tlv(reader)
    return tuple(found)


def _read_key_transport(reader: Reader) -> KeyTransportRecipient:
    reader.integer()
    recipient = read_identifier(reader)
    scheme = _padding(reader.enter())
    encrypted = reader.content(der.OCTET_STRING)
    reader.finish()
    return KeyTransportRecipient(recipient, scheme, encrypted)


def _padding(algorithm: Reader) -> Literal["pkcs1", "oaep-sha1", "oaep-sha256", ""]:
    oid = algorithm.oid()
    if oid == RSA_ENCRYPTION:
        return "pkcs1"
    if oid != RSAES_OAEP:
        return ""
    # RFC 4055 section 4.1; everything is SHA-1 unless it says otherwise.
    digest, mask = SHA1, SHA1
    parameters = algorithm.enter() if algorithm.more() else algorithm
    if parameters.peek() == 0xA0:
        digest = parameters.enter(0xA0).enter().oid()
    if parameters.peek() == 0xA1:
        function = parameters.enter(0xA1).enter()
        mask = function.enter().oid() if function.oid() == MGF1 else ""
    if mask != digest or parameters.more():
        return ""
    return "oaep-sha1" if digest == SHA1 else "oaep-sha256" if digest == SHA256 else ""


def _read_key_agreement(reader: Reader) -> list[KeyAgreementRecipient]:
    reader.integer()
    choice = reader.enter(0xA0)
    originator = b""
    if choice.peek() == 0xA1:
        public = choice.enter(0xA1)
        public.raw(der.SEQUENCE)
        originator = public.bit_string()
    ukm = None
    if reader.peek() == 0xA1:
        ukm = reader.enter(0xA1).content(der.OCTET_STRING)
    algorithm = reader.enter()
    scheme = algorithm.oid()
    wrap = next_tlv(algorithm) if algorithm.more() else b""
    keys = reader.enter()
    reader.finish()
    found = []
    while keys.more():
        one = keys.enter()
        if one.peek() == 0xA0:
            raw = one.raw(0xA0)
            name = Reader(raw).enter(0xA0).content(der.OCTET_STRING)
            recipient = EntityIdentifier(raw, key_identifier=name)
        else:
            recipient = read_identifier(one)
        encrypted = one.content(der.OCTET_STRING)
        one.finish()
        found.append(KeyAgreementRecipient(recipient, originator, ukm, scheme, wrap, encrypted))
    return found


def _read_kek(reader: Reader) -> KEKRecipient:
    reader.integer()
    identifier = reader.enter().content(der.OCTET_STRING)
    wrap = reader.raw(der.SEQUENCE)
    encrypted = reader.content(der.OCTET_STRING)
    reader.finish()
    return KEKRecipient(identifier, wrap, encrypted)


def _read_password(reader: Reader) -> PasswordRecipient:
    reader.integer()
    derivation = reader.content(0xA0) if reader.peek() == 0xA0 else None
    wrap = reader.raw(der.SEQUENCE)
    encrypted = reader.content(der.OCTET_STRING)
    reader.finish()
    return PasswordRecipient(derivation, wrap, encrypted)


# --- unwrapping ------------------------------------------------------------------------------


def unwrap(recipient: RecipientInfo, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | bytes) -> bytes:
    """The content-encryption key, by what this recipient has: a private key, an AES key or a password.

    Raises ``CMSError``: ``unsupported-key-encryption`` before the key is used, ``decryption-failed`` after.
    PKCS #1 v1.5 that does not decrypt answers random octets (RFC 3218 section 2.3.2). A password costs what
    the message asks for: not in the event loop.
    """
    try:
        match recipient:
            case KeyTransportRecipient() if isinstance(key, rsa.RSAPrivateKey):
                return _unwrap_key_transport(recipient, key)
            case KeyAgreementRecipient() if isinstance(key, ec.EllipticCurvePrivateKey):
                return _unwrap_key_agreement(recipient, key)
            case KEKRecipient() if isinstance(key, bytes):
                if len(key) != WRAP_SIZES.get(der.whole(recipient.wrap).oid()):
                    raise unsupported("a key-encryption algorithm that does not fit the key")
                return unwrap_aes(key, recipient.encrypted_key)
            case PasswordRecipient() if isinstance(key, bytes):
                return _unwrap_password(recipient, key)
    except DERError as error:
        raise unsupported(f"malformed parameters: {error}") from None
    raise unsupported("a key of another kind than the recipient's")


def _unwrap_key_transport(recipient: KeyTransportRecipient, key: rsa.RSAPrivateKey) -> bytes:
    if recipient.padding not in PADDINGS:
        raise unsupported("a key transport algorithm that is not supported")
    try:
        return key.decrypt(recipient.encrypted_key, PADDINGS[recipient.padding])
    except ValueError:
        if recipient.padding == "pkcs1":
            return os.urandom(32)
        raise decryption_failed() from None


def _unwrap_key_agreement(recipient: KeyAgreementRecipient, key: ec.EllipticCurvePrivateKey) -> bytes:
    size = WRAP_SIZES.get(der.whole(recipient.wrap).oid()) if recipient.wrap else None
    if recipient.scheme not in ECDH or size is None or not recipient.originator:
        raise unsupported("a key agreement algorithm that is not supported")
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(key.curve, recipient.originator)
    except ValueError:
        raise unsupported("an ephemeral key that is not on the recipient's curve") from None
    secret = key.exchange(ec.ECDH(), public)
    return unwrap_aes(
        agreed_key(secret, recipient.scheme, recipient.wrap, recipient.ukm, size), recipient.encrypted_key
    )


def _unwrap_password(recipient: PasswordRecipient, password: bytes) -> bytes:
    wrap = der.whole(recipient.wrap)
    oid = wrap.oid()
    iv = None
    if oid == PWRI_KEK:
        cipher = wrap.enter()
        size = AES_CBC.get(cipher.oid())
        iv = cipher.content(der.OCTET_STRING)
    else:
        size = WRAP_SIZES.get(oid)
    if size is None or recipient.derivation is None or (iv is not None and len(iv) != 16):
        raise unsupported("a password encryption that is not supported")
    kek = derivation(recipient.derivation, size)(password)
    if iv is None:
        return unwrap_aes(kek, recipient.encrypted_key)
    return unwrap_pwri(kek, iv, recipient.encrypted_key)
