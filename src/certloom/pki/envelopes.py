"""CMS (RFC 5652 section 6, RFC 5083): encrypting to recipients, and reading what was.

EnvelopedData with AES-CBC, AuthEnvelopedData with AES-GCM (RFC 5084). ``pki.recipients`` has how the
content's key reaches them. What AES-CBC decrypts to is not authenticated: whoever answers the sender says
the same of a content that makes no sense as of one that does not decrypt.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC, GCM
from cryptography.hazmat.primitives.padding import PKCS7

from certloom.pki import der
from certloom.pki.cms import CONTENT_TYPE
from certloom.pki.cms_syntax import (
    AUTH_ENVELOPED_DATA,
    DATA,
    ENVELOPED_DATA,
    CMSError,
    attribute,
    open_content_info,
    read,
    read_attributes,
)
from certloom.pki.der import DERError, Reader
from certloom.pki.key_encryption import decryption_failed
from certloom.pki.recipients import (
    KEKRecipient,
    KeyAgreement,
    KeyAgreementRecipient,
    KeyEncryptionKey,
    KeyTransport,
    KeyTransportRecipient,
    Password,
    PasswordRecipient,
    Recipient,
    RecipientInfo,
    read_recipients,
    recipient_for,
    unwrap,
    write_recipient,
)

__all__ = [
    "AUTH_ENVELOPED_DATA",
    "ENVELOPED_DATA",
    "EnvelopedData",
    "KEKRecipient",
    "KeyAgreement",
    "KeyAgreementRecipient",
    "KeyEncryptionKey",
    "KeyTransport",
    "KeyTransportRecipient",
    "Password",
    "PasswordRecipient",
    "Recipient",
    "RecipientInfo",
    "decrypt_content",
    "encrypt",
    "find_recipient",
    "parse_enveloped_data",
    "recipient_for",
    "unwrap",
]


class _ContentCipher(msgspec.Struct, frozen=True):
    oid: str
    key_size: int
    block: int
    """In octets; 0 for GCM."""
    legacy: bool = False


_TRIPLE_DES = "des-ede3-cbc"
_CIPHERS = {
    "aes-128-cbc": _ContentCipher("2.16.840.1.101.3.4.1.2", 16, 16),
    "aes-192-cbc": _ContentCipher("2.16.840.1.101.3.4.1.22", 24, 16),
    "aes-256-cbc": _ContentCipher("2.16.840.1.101.3.4.1.42", 32, 16),
    "aes-128-gcm": _ContentCipher("2.16.840.1.101.3.4.1.6", 16, 0),
    "aes-192-gcm": _ContentCipher("2.16.840.1.101.3.4.1.26", 24, 0),
    "aes-256-gcm": _ContentCipher("2.16.840.1.101.3.4.1.46", 32, 0),
    _TRIPLE_DES: _ContentCipher("1.2.840.113549.3.7", 24, 8, legacy=True),
}
_NAMES = {cipher.oid: name for name, cipher in _CIPHERS.items()}


class EnvelopedData(msgspec.Struct, frozen=True):
    """EnvelopedData or AuthEnvelopedData, as read."""

    recipients: tuple[RecipientInfo, ...]
    """Of kinds other than these there may be more in the message."""
    content_type: str
    cipher: str
    """``aes-256-cbc`` and so on; an object identifier for one that is not supported."""
    iv: bytes
    """Or nonce; empty for a cipher that is not supported."""
    ciphertext: bytes
    mac: bytes | None
    """None in EnvelopedData."""
    authenticated: bytes
    """What the MAC covers besides: DER of the authenticated attributes, or nothing."""


def _cipher(name: str, legacy: bool) -> _ContentCipher:
    cipher = _CIPHERS.get(name)
    if cipher is None or (cipher.legacy and not legacy):
        raise CMSError("unsupported-cipher", f"content encryption {name} is not accepted")
    return cipher


# --- writing ---------------------------------------------------------------------------------


def encrypt(
    content_type: str,
    content: bytes,
    recipients: Sequence[Recipient],
    cipher: str = "aes-256-cbc",
    *,
    legacy: bool = False,
    bare: bool = False,
) -> bytes:
    """DER of a ContentInfo that holds the content, encrypted to at least one recipient; with ``bare``, of the
    EnvelopedData or AuthEnvelopedData alone.

    ``cipher`` is one of aes-128-cbc, aes-192-cbc, aes-256-cbc (EnvelopedData) and aes-128-gcm, aes-192-gcm,
    aes-256-gcm (AuthEnvelopedData, which not every reader knows, and OpenSSL 3.0 only around content of type
    data); with ``legacy`` also des-ede3-cbc. Raises ``CMSError``.
    """
    found = _cipher(cipher, legacy)
    if not recipients:
        raise CMSError("unsupported-key", "nobody to encrypt to")
    key = os.urandom(found.key_size)
    infos = [write_recipient(recipient, key) for recipient in recipients]
    written = der.set_of(*(info for _, info in infos))
    if not found.block:
        return _authenticated(content_type, content, written, found, key, bare)
    padder = PKCS7(8 * found.block).padder()
    padded = padder.update(content) + padder.finalize()
    iv = os.urandom(found.block)
    encryptor = _in_cbc(found, key, iv).encryptor()
    ciphertext = encryptor.update(padded) + encryptor.finalize()
    # RFC 5652 section 6.1.
    version = 0 if all(v == 0 for v, _ in infos) else 2
    if any(isinstance(recipient, Password) for recipient in recipients):
        version = 3
    parameters = der.octet_string(iv)
    enveloped = der.sequence(
        der.integer(version), written, _encrypted(content_type, found, parameters, ciphertext)
    )
    return enveloped if bare else _content_info(ENVELOPED_DATA, enveloped)


def _authenticated(
    content_type: str, content: bytes, recipients: bytes, cipher: _ContentCipher, key: bytes, bare: bool
) -> bytes:
    nonce = os.urandom(12)
    encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
    attributes = b""
    if content_type != DATA:
        # Then they must be there, and say so (RFC 5083 section 2.1).
        attributes = der.set_of(attribute(CONTENT_TYPE, der.oid(content_type)))
        encryptor.authenticate_additional_data(attributes)
    ciphertext = encryptor.update(content) + encryptor.finalize()
    parameters = der.sequence(der.octet_string(nonce), der.integer(16))
    enveloped = der.sequence(
        der.integer(0),
        recipients,
        _encrypted(content_type, cipher, parameters, ciphertext),
        attributes and b"\xa1" + attributes[1:],
        der.octet_string(encryptor.tag),
    )
    return enveloped if bare else _content_info(AUTH_ENVELOPED_DATA, enveloped)


def _encrypted(content_type: str, cipher: _ContentCipher, parameters: bytes, ciphertext: bytes) -> bytes:
    """EncryptedContentInfo."""
    algorithm = der.sequence(der.oid(cipher.oid), parameters)
    return der.sequence(der.oid(content_type), algorithm, der.context(0, ciphertext, constructed=False))


def _content_info(content_type: str, content: bytes) -> bytes:
    return der.sequence(der.oid(content_type), der.context(0, content))


def _in_cbc(cipher: _ContentCipher, key: bytes, iv: bytes) -> Cipher[CBC]:
    return Cipher(TripleDES(key) if cipher.legacy else AES(key), CBC(iv))


# --- reading ---------------------------------------------------------------------------------


def parse_enveloped_data(data: bytes) -> EnvelopedData:
    """Read a ContentInfo that holds EnvelopedData or AuthEnvelopedData, or the EnvelopedData alone, in DER or
    BER. Raises ``CMSError``."""
    return read(data, _enveloped_data)


def _enveloped_data(data: bytes) -> EnvelopedData:
    kind, reader = open_content_info(data, ENVELOPED_DATA, AUTH_ENVELOPED_DATA)
    reader.integer()
    if reader.peek() == 0xA0:
        reader.content(0xA0)
    recipients = read_recipients(reader.enter(der.SET))
    info = reader.enter()
    content_type = info.oid()
    algorithm = info.enter()
    oid = algorithm.oid()
    cipher = _NAMES.get(oid, oid)
    found = _CIPHERS.get(cipher)
    ciphertext = _ciphertext(info)
    info.finish()
    mac, authenticated = None, b""
    if kind == AUTH_ENVELOPED_DATA:
        if reader.peek() == 0xA1:
            authenticated = b"\x31" + reader.raw(0xA1)[1:]
            attributes = read_attributes(Reader(authenticated).enter(der.SET))
            if attributes.get(CONTENT_TYPE, (der.oid(content_type),)) != (der.oid(content_type),):
                raise DERError("a content of another type than its attributes say")
        mac = reader.content(der.OCTET_STRING)
        if reader.peek() == 0xA2:
            reader.content(0xA2)
    elif reader.peek() == 0xA1:
        reader.content(0xA1)
    reader.finish()
    if found is None or (mac is None) != (found.block > 0):
        # Also AES-GCM without its MAC, and AES-CBC where there should be one.
        return EnvelopedData(recipients, content_type, oid, b"", ciphertext, mac, authenticated)
    iv = _iv(algorithm, found, mac)
    return EnvelopedData(recipients, content_type, cipher, iv, ciphertext, mac, authenticated)


def _ciphertext(info: Reader) -> bytes:
    """The encrypted content: an OCTET STRING under an implicit tag, in one piece or several."""
    if info.peek() != 0xA0:
        return info.content(0x80)
    pieces = info.enter(0xA0)
    found = []
    while pieces.more():
        found.append(pieces.content(der.OCTET_STRING))
    return b"".join(found)


def _iv(algorithm: Reader, cipher: _ContentCipher, mac: bytes | None) -> bytes:
    if mac is None:
        iv = algorithm.content(der.OCTET_STRING)
        if len(iv) != cipher.block:
            raise DERError("an initialization vector of another length than its cipher has")
        return iv
    # GCMParameters (RFC 5084 section 3.2).
    parameters = algorithm.enter()
    iv = parameters.content(der.OCTET_STRING)
    size = parameters.integer() if parameters.more() else 12
    if not 12 <= size <= 16 or len(mac) != size or not 8 <= len(iv) <= 64:
        raise DERError("a nonce or a MAC of a length that AES-GCM does not have here")
    return iv


def find_recipient(
    enveloped: EnvelopedData, certificate: bytes
) -> KeyTransportRecipient | KeyAgreementRecipient | None:
    """The recipient that is this DER certificate's holder, if there is one."""
    for recipient in enveloped.recipients:
        if isinstance(recipient, KeyTransportRecipient | KeyAgreementRecipient) and recipient.recipient.names(
            certificate
        ):
            return recipient
    return None


def decrypt_content(enveloped: EnvelopedData, key: bytes, *, legacy: bool = False) -> bytes:
    """The content, by the key that was unwrapped for one of the recipients.

    ``legacy`` takes 3DES. Raises ``CMSError``: ``unsupported-cipher`` before the key is used,
    ``decryption-failed`` whatever goes wrong then. A key of the wrong length costs as much as one that is
    wrong (RFC 3218 section 2.3.2).
    """
    cipher = _cipher(enveloped.cipher, legacy)
    fits = len(key) == cipher.key_size
    if not fits:
        key = os.urandom(cipher.key_size)
    try:
        if enveloped.mac is not None:
            mode = GCM(enveloped.iv, enveloped.mac, min_tag_length=12)
            decryptor = Cipher(AES(key), mode).decryptor()
            if enveloped.authenticated:
                decryptor.authenticate_additional_data(enveloped.authenticated)
            content = decryptor.update(enveloped.ciphertext) + decryptor.finalize()
        else:
            unlocking = _in_cbc(cipher, key, enveloped.iv).decryptor()
            padded = unlocking.update(enveloped.ciphertext) + unlocking.finalize()
            unpadder = PKCS7(8 * cipher.block).unpadder()
            content = unpadder.update(padded) + unpadder.finalize()
    except (ValueError, InvalidTag):
        raise decryption_failed() from None
    if not fits:
        raise decryption_failed()
    return content
