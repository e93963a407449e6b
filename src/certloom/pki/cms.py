"""CMS (RFC 5652): reading SignedData, verifying its signatures, and writing it.

Writing is in two steps, because keys are held elsewhere: ``signed_attributes`` gives the octets to sign,
``assemble_signed_data`` puts the signature where it belongs. ``pki.envelopes`` has what is encrypted.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from certloom.pki import cms_algorithms, der
from certloom.pki.cms_algorithms import SHA1, SHA256, SHA384, SHA512, SHAKE256, SHAKE256_LEN, digest_for
from certloom.pki.cms_syntax import (
    DATA,
    SIGNED_DATA,
    Attributes,
    CMSError,
    EntityIdentifier,
    attribute,
    by_issuer_and_serial,
    by_key_identifier,
    next_tlv,
    open_content_info,
    read,
    read_attributes,
    read_identifier,
)
from certloom.pki.der import DERError, Reader
from certloom.pki.keys import KeyRejected, facts_of, public_key
from certloom.pki.signatures import SignatureError

__all__ = [
    "CONTENT_TYPE",
    "DATA",
    "MESSAGE_DIGEST",
    "SHA1",
    "SHA256",
    "SHA384",
    "SHA512",
    "SHAKE256",
    "SHAKE256_LEN",
    "SIGNED_DATA",
    "SIGNING_TIME",
    "Attributes",
    "CMSError",
    "EntityIdentifier",
    "SignedData",
    "SignerInfo",
    "assemble_signed_data",
    "attribute",
    "by_issuer_and_serial",
    "by_key_identifier",
    "certificates_of",
    "digest_for",
    "find_signer_certificate",
    "parse_signed_data",
    "signed_attributes",
    "verify_signer",
]

CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
SIGNING_TIME = "1.2.840.113549.1.9.5"
"""Attributes of RFC 5652 section 11."""

MAX_SIGNERS = 32
MAX_CERTIFICATES = 256
"""In one message, so that looking for each signer's certificate stays cheap. As many CRLs."""


class SignerInfo(msgspec.Struct, frozen=True):
    """One signature (RFC 5652 section 5.3)."""

    signer: EntityIdentifier
    digest: str
    signed: bytes | None
    """The signed attributes as received, but for their tag, which is SET's; None where there are none."""
    attributes: Attributes
    """What they are; empty where there are none."""
    algorithm: bytes
    """DER AlgorithmIdentifier of the signature."""
    signature: bytes
    unsigned_attributes: Attributes


class SignedData(msgspec.Struct, frozen=True):
    """SignedData (RFC 5652 section 5.1). What is said in it is not verified: see ``verify_signer``."""

    content_type: str
    content: bytes | None
    """None where it is not in the message."""
    certificates: tuple[bytes, ...]
    """DER. Those that are no X.509 public key certificates are passed over."""
    crls: tuple[bytes, ...]
    """DER; likewise."""
    signers: tuple[SignerInfo, ...]


# --- reading ---------------------------------------------------------------------------------


def parse_signed_data(data: bytes) -> SignedData:
    """Read a ContentInfo that holds SignedData, or the SignedData alone, in DER or BER. Raises
    ``CMSError``."""
    return read(data, _signed_data)


def certificates_of(data: bytes) -> tuple[bytes, ...]:
    """The DER certificates in a SignedData, signed or certs-only (RFC 8551 section 3.8). Raises
    ``CMSError``."""
    return parse_signed_data(data).certificates


def _signed_data(data: bytes) -> SignedData:
    _, reader = open_content_info(data, SIGNED_DATA)
    reader.integer()
    reader.content(der.SET)  # the digests of the signers, said again in each of them
    encapsulated = reader.enter()
    content_type = encapsulated.oid()
    content = None
    if encapsulated.more():
        explicit = encapsulated.enter(0xA0)
        content = explicit.content(der.OCTET_STRING)
        explicit.finish()
        encapsulated.finish()
    certificates = _sequences_in(reader, 0xA0)
    crls = _sequences_in(reader, 0xA1)
    infos = reader.enter(der.SET)
    reader.finish()
    signers: list[SignerInfo] = []
    while infos.more():
        if len(signers) == MAX_SIGNERS:
            raise CMSError("malformed", f"more than {MAX_SIGNERS} signers of one message")
        signers.append(_signer_info(infos.enter()))
    return SignedData(content_type, content, certificates, crls, tuple(signers))


def _sequences_in(reader: Reader, tag: int) -> tuple[bytes, ...]:
    """The SEQUENCEs in the set with this tag, if it is here. The other choices have tags of their own."""
    if reader.peek() != tag:
        return ()
    choices = reader.enter(tag)
    found: list[bytes] = []
    while choices.more():
        choice = next_tlv(choices)
        if choice[0] == der.SEQUENCE:
            if len(found) == MAX_CERTIFICATES:
                raise CMSError(
                    "malformed", f"more than {MAX_CERTIFICATES} certificates or CRLs in one message"
                )
            found.append(choice)
    return tuple(found)


def _signer_info(reader: Reader) -> SignerInfo:
    reader.integer()
    signer = read_identifier(reader)
    digest = cms_algorithms.digest_oid(reader.raw(der.SEQUENCE))
    signed = None
    attributes: Attributes = {}
    if reader.peek() == 0xA0:
        signed = b"\x31" + reader.raw(0xA0)[1:]
        attributes = read_attributes(Reader(signed).enter(der.SET))
    algorithm = reader.raw(der.SEQUENCE)
    signature = reader.content(der.OCTET_STRING)
    unsigned = read_attributes(reader.enter(0xA1)) if reader.peek() == 0xA1 else {}
    reader.finish()
    return SignerInfo(signer, digest, signed, attributes, algorithm, signature, unsigned)


def find_signer_certificate(signed: SignedData, signer: SignerInfo) -> bytes | None:
    """The signer's DER certificate, if it is among those in the message."""
    for certificate in signed.certificates:
        if signer.signer.names(certificate):
            return certificate
    return None


# --- verifying -------------------------------------------------------------------------------


def verify_signer(
    signed: SignedData,
    signer: SignerInfo,
    spki: bytes,
    content: bytes | None = None,
    *,
    legacy: bool = False,
) -> None:
    """Raise ``CMSError`` unless this signer signed the content with this key (RFC 5652 section 5.6).

    ``content`` is for a message that has none in it: what was signed apart from it, or ``b""`` where nothing
    was meant to be there. ``legacy`` takes SHA-1. Whose key it is, is not asked here.
    """
    if signed.content is not None:
        if content is not None and content != signed.content:
            raise CMSError("bad-digest", "the message has another content than the one that was to be signed")
        content = signed.content
    if content is None:
        raise CMSError("no-content", "what was signed is not in the message")
    try:
        hashed = cms_algorithms.digest(signer.digest, content, legacy=legacy)
        key = public_key(facts_of(spki))
        if signer.signed is None:
            _check_unattributed(signed.content_type, content)
            cms_algorithms.verify(key, signer.algorithm, signer.digest, signer.signature, content)
            return
        if _one(signer, CONTENT_TYPE) != der.oid(signed.content_type):
            raise CMSError("bad-attributes", "the contentType that was signed is not the content's")
        if _one(signer, MESSAGE_DIGEST) != der.octet_string(hashed):
            raise CMSError("bad-digest", "the digest that was signed is not the content's")
        try:
            cms_algorithms.verify(key, signer.algorithm, signer.digest, signer.signature, signer.signed)
        except SignatureError as error:
            # What is signed is the DER encoding (section 5.4), whatever was sent.
            in_order = _in_order(signer.signed)
            if error.code != "bad-signature" or in_order == signer.signed:
                raise
            cms_algorithms.verify(key, signer.algorithm, signer.digest, signer.signature, in_order)
    except SignatureError as error:
        raise CMSError(error.code, str(error)) from None
    except KeyRejected as error:
        raise CMSError("unsupported-key", str(error)) from None


def _one(signer: SignerInfo, oid: str) -> bytes:
    """The one value of a signed attribute that must be there once, with one value (sections 11.1, 11.2)."""
    values = signer.attributes.get(oid, ())
    if len(values) != 1:
        raise CMSError("bad-attributes", f"{len(values)} values of the signed attribute {oid} instead of one")
    return values[0]


def _check_unattributed(content_type: str, content: bytes) -> None:
    """Whether a signature over the content itself is taken: of type data only (section 5.3).

    The signed attributes of another message, shown as content, would carry that message's signature.
    """
    if content_type != DATA:
        raise CMSError("bad-attributes", f"content of type {content_type} without signed attributes")
    if content[:1] == b"\x31":
        try:
            attributes = read_attributes(der.whole(content, der.SET))
        except DERError:
            return
        if MESSAGE_DIGEST in attributes:
            raise CMSError("bad-attributes", "a content that is the signed attributes of another")


def _in_order(attributes: bytes) -> bytes:
    """The attributes in the order of a DER SET OF."""
    reader = der.whole(attributes, der.SET)
    received = []
    while reader.more():
        received.append(reader.raw(der.SEQUENCE))
    return der.set_of(*received)


# --- writing ---------------------------------------------------------------------------------

_SIGNED_DATA = der.oid(SIGNED_DATA)


def signed_attributes(
    content_type: str,
    content: bytes,
    digest: str,
    *,
    signing_time: int | None = None,
    more: Sequence[bytes] = (),
) -> bytes:
    """DER of the signed attributes, which is what is to be signed (RFC 5652 section 5.4).

    ``content`` is ``b""`` where the message is to have none, ``signing_time`` Unix seconds, ``more`` what
    ``attribute`` makes. Raises ``CMSError`` for a digest that is not used, and ``DERError``.
    """
    try:
        hashed = cms_algorithms.digest(digest, content, legacy=True)
    except SignatureError as error:
        raise CMSError(error.code, str(error)) from None
    written = [
        attribute(CONTENT_TYPE, der.oid(content_type)),
        attribute(MESSAGE_DIGEST, der.octet_string(hashed)),
        *more,
    ]
    if signing_time is not None:
        written.append(attribute(SIGNING_TIME, der.x509_time(signing_time)))
    return der.set_of(*written)


def assemble_signed_data(
    content_type: str,
    content: bytes | None,
    attributes: bytes | None,
    signature: bytes,
    signer: EntityIdentifier,
    digest: str,
    signature_algorithm: bytes,
    certificates: Sequence[bytes] = (),
    *,
    crls: Sequence[bytes] = (),
    rsa_encryption: bool = False,
    bare: bool = False,
) -> bytes:
    """DER of a ContentInfo that holds SignedData with one signer; with ``bare``, of the SignedData alone.

    ``attributes`` is what ``signed_attributes`` made and ``signature`` the one over it, or over ``content``
    without attributes. ``signature_algorithm`` is what ``signatures.algorithm_for`` says of the key; with
    ``rsa_encryption`` an RSA PKCS #1 v1.5 signature is called rsaEncryption (RFC 3370 section 3.2), as some
    readers of SCEP want it.
    """
    if rsa_encryption:
        signature_algorithm = cms_algorithms.as_rsa_encryption(signature_algorithm)
    digest_algorithm = cms_algorithms.digest_identifier(digest)
    by_key = signer.key_identifier is not None
    info = der.sequence(
        der.integer(3 if by_key else 1),
        signer.der,
        digest_algorithm,
        b"" if attributes is None else b"\xa0" + attributes[1:],
        signature_algorithm,
        der.octet_string(signature),
    )
    signed_data = der.sequence(
        der.integer(3 if by_key or content_type != DATA else 1),
        der.set_of(digest_algorithm),
        der.sequence(
            der.oid(content_type), b"" if content is None else der.context(0, der.octet_string(content))
        ),
        der.context(0, b"".join(sorted(certificates))) if certificates else b"",
        der.context(1, b"".join(sorted(crls))) if crls else b"",
        der.set_of(info),
    )
    return signed_data if bare else der.sequence(_SIGNED_DATA, der.context(0, signed_data))
