"""CRMF (RFC 4211): certificate request messages, with proof that the sender holds the private key.

They are read from DER (RFC 4211 section 2). What a proof covers is kept as received: the CertRequest, and the
input of a proof that has one of its own. Object identifiers are dotted, and raw values are complete TLVs
unless it says otherwise. ``pki.crmf_mac`` has the MAC for senders that nobody has authenticated.

What is written here raises ``der.DERError`` or ``names.BadName`` for values that have no encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

import msgspec

from certloom.pki import der, names, signatures
from certloom.pki.crmf_controls import (
    AttributeTypeAndValue,
    Authenticator,
    Control,
    OldCertID,
    PKIArchiveOptions,
    PKIPublicationInfo,
    ProtocolEncrKey,
    RegToken,
    SinglePubInfo,
    encode_attribute,
    encode_attributes,
    encode_control,
    general_name,
    read_attributes,
    read_control,
    read_general_name,
)
from certloom.pki.crmf_mac import AlgorithmIdentifier, CRMFError, PKMACValue, verify_mac
from certloom.pki.crmf_template import CertTemplate, encode_template, read_template
from certloom.pki.der import DERError, Reader
from certloom.pki.keys import KeyRejected, PublicKeyFacts, facts_of, public_key
from certloom.pki.names import BadName, Name

__all__ = [
    "MAX_MESSAGES",
    "MAX_SIZE",
    "AlgorithmIdentifier",
    "AttributeTypeAndValue",
    "Authenticator",
    "CRMFError",
    "CertReqMsg",
    "CertRequest",
    "CertTemplate",
    "Control",
    "KeyAgreement",
    "KeyEncipherment",
    "OldCertID",
    "PKIArchiveOptions",
    "PKIPublicationInfo",
    "PKMACValue",
    "POPOPrivKey",
    "POPOSigningKey",
    "POPOSigningKeyInput",
    "Popo",
    "ProtocolEncrKey",
    "RAVerified",
    "RegToken",
    "SinglePubInfo",
    "decode_cert_req_messages",
    "decode_cert_req_msg",
    "decode_cert_request",
    "decode_template",
    "directory_name",
    "encode_cert_req_messages",
    "encode_cert_req_msg",
    "encode_cert_request",
    "encode_popo_signing_key_input",
    "encode_template",
    "general_name",
    "signed_octets",
    "verify_possession",
]

MAX_SIZE = 1 << 18
"""Octets of what is decoded here at once."""
MAX_MESSAGES = 100
"""CertReqMsg in one CertReqMessages."""

_T = TypeVar("_T")


# --- proofs of possession (section 4) --------------------------------------------------------


class RAVerified(msgspec.Struct, frozen=True):
    """A registration authority says that it has seen the proof."""


class POPOSigningKeyInput(msgspec.Struct, frozen=True):
    """What is signed where the template has no subject (section 4.1)."""

    der: bytes
    """As SEQUENCE, which is what the signature covers."""
    public_key: bytes
    """SubjectPublicKeyInfo."""
    sender: bytes | None = None
    """GeneralName; who has been authenticated by other means. One of this and ``public_key_mac`` is there."""
    public_key_mac: PKMACValue | None = None


class POPOSigningKey(msgspec.Struct, frozen=True):
    """A signature with the key (section 4.1)."""

    algorithm: bytes
    """DER AlgorithmIdentifier."""
    signature: bytes
    input: POPOSigningKeyInput | None = None
    """Absent when the CertRequest is what is signed."""


class POPOPrivKey(msgspec.Struct, frozen=True):
    """How a key that cannot sign is proven (section 4.2)."""

    choice: str
    """``thisMessage``, ``subsequentMessage``, ``dhMAC``, ``agreeMAC`` or ``encryptedKey``."""
    value: bytes
    """The contents of the tagged value, as received."""

    @property
    def subsequent_message(self) -> int | None:
        """0 for encrCert, 1 for challengeResp; nothing for the other choices."""
        return self.value[0] if self.choice == "subsequentMessage" else None


class KeyEncipherment(msgspec.Struct, frozen=True):
    """Proof for a key that encrypts keys."""

    key: POPOPrivKey


class KeyAgreement(msgspec.Struct, frozen=True):
    """Proof for a key that agrees on keys."""

    key: POPOPrivKey


Popo: TypeAlias = RAVerified | POPOSigningKey | KeyEncipherment | KeyAgreement

_CHOICES = {
    0x80: "thisMessage",
    0x81: "subsequentMessage",
    0x82: "dhMAC",
    0xA3: "agreeMAC",
    0xA4: "encryptedKey",
}
_CHOICE_TAGS = {choice: tag for tag, choice in _CHOICES.items()}


# --- messages (section 3) --------------------------------------------------------------------


class CertRequest(msgspec.Struct, frozen=True):
    """What is asked for."""

    der: bytes
    """As received."""
    id: int
    """certReqId: at least -1, which CMP uses, and less than 2^32."""
    template: CertTemplate
    controls: tuple[Control, ...] = ()


class CertReqMsg(msgspec.Struct, frozen=True):
    """A request with its proof."""

    der: bytes
    """As received."""
    request: CertRequest
    popo: Popo | None = None
    reg_info: tuple[AttributeTypeAndValue, ...] = ()


def decode_cert_req_messages(data: bytes) -> tuple[CertReqMsg, ...]:
    """Read CertReqMessages: at least one. Raises ``CRMFError``."""
    return _decoded(_messages, data)


def decode_cert_req_msg(data: bytes) -> CertReqMsg:
    """Read one CertReqMsg. Raises ``CRMFError``."""
    return _decoded(lambda received: _message(received, der.whole(received)), data)


def decode_cert_request(data: bytes) -> CertRequest:
    """Read one CertRequest. Raises ``CRMFError``."""
    return _decoded(_request, data)


def decode_template(data: bytes) -> CertTemplate:
    """Read a CertTemplate that is not a request, so that any field may be there. Raises ``CRMFError``."""
    return _decoded(lambda received: read_template(der.whole(received)), data)


def _decoded(decode: Callable[[bytes], _T], data: bytes) -> _T:
    if len(data) > MAX_SIZE:
        raise CRMFError("too-large", f"a certificate request message has at most {MAX_SIZE} octets")
    try:
        return decode(bytes(data))
    except DERError as error:
        raise CRMFError("malformed", f"not the CRMF expected here: {error}") from None
    except BadName as error:
        raise CRMFError("bad-name", f"not a name: {error}") from None


def _messages(data: bytes) -> tuple[CertReqMsg, ...]:
    reader = der.whole(data)
    messages: list[CertReqMsg] = []
    while reader.more():
        if len(messages) == MAX_MESSAGES:
            raise CRMFError("too-many-messages", f"more than {MAX_MESSAGES} requests in one message")
        received = reader.raw(der.SEQUENCE)
        messages.append(_message(received, der.whole(received)))
    if not messages:
        raise DERError("no request at all")
    return tuple(messages)


def _message(received: bytes, reader: Reader) -> CertReqMsg:
    request = _request(reader.raw(der.SEQUENCE))
    popo = None
    if reader.peek() not in (-1, der.SEQUENCE):
        popo = _popo(*reader.any())
    reg_info = read_attributes(reader.enter()) if reader.more() else ()
    reader.finish()
    return CertReqMsg(received, request, popo, reg_info)


def _request(data: bytes) -> CertRequest:
    reader = der.whole(data)
    number = reader.integer()
    if not -1 <= number < 1 << 32:
        raise DERError("a certReqId that is out of range")
    template = read_template(reader.enter())
    # Section 5 has these assigned by the CA, or out of use.
    if template.version not in (None, 2):
        raise CRMFError("bad-template", "a certificate template's version is 2 (RFC 4211 section 5)")
    for field, value in (
        ("serialNumber", template.serial),
        ("signingAlg", template.signing_algorithm),
        ("issuerUID", template.issuer_unique_id),
        ("subjectUID", template.subject_unique_id),
    ):
        if value is not None:
            raise CRMFError("bad-template", f"a request's template has no {field} (RFC 4211 section 5)")
    controls = tuple(map(read_control, read_attributes(reader.enter()))) if reader.more() else ()
    reader.finish()
    return CertRequest(data, number, template, controls)


def directory_name(general: bytes) -> Name | None:
    """The name in a GeneralName of the form directoryName; nothing for other forms. Raises ``CRMFError``."""
    if general[:1] != b"\xa4":
        return None

    def decode(data: bytes) -> Name:
        outer = der.whole(data, 0xA4)
        name = names.read(outer.enter())
        outer.finish()
        return name

    return _decoded(decode, general)


def _popo(tag: int, content: bytes) -> Popo:
    reader = Reader(content)
    if tag == 0x80:
        reader.finish()
        return RAVerified()
    if tag == 0xA1:
        given = _signing_input(b"\x30" + reader.raw(0xA0)[1:]) if reader.peek() == 0xA0 else None
        algorithm = reader.raw(der.SEQUENCE)
        signature = reader.bit_string()
        reader.finish()
        return POPOSigningKey(algorithm, signature, given)
    if tag not in (0xA2, 0xA3):
        raise DERError("a proof of possession of no known kind")
    # A CHOICE has no tag of its own to replace, so this one stands around it.
    inner, value = reader.any()
    reader.finish()
    if inner not in _CHOICES or (inner == 0x81 and value not in (b"\x00", b"\x01")):
        raise DERError("a proof of possession of no known kind")
    key = POPOPrivKey(_CHOICES[inner], value)
    return KeyEncipherment(key) if tag == 0xA2 else KeyAgreement(key)


def _signing_input(data: bytes) -> POPOSigningKeyInput:
    reader = der.whole(data)
    sender = mac = None
    if reader.peek() == 0xA0:
        explicit = reader.enter(0xA0)
        sender = read_general_name(explicit)
        explicit.finish()
    else:
        mac = PKMACValue.read(reader.enter())
    spki = reader.raw(der.SEQUENCE)
    reader.finish()
    return POPOSigningKeyInput(data, spki, sender, mac)


# --- verifying -------------------------------------------------------------------------------


def signed_octets(message: CertReqMsg) -> bytes:
    """What this message's signature of possession covers (section 4.1). Raises ``CRMFError``."""
    template = message.request.template
    if not isinstance(message.popo, POPOSigningKey):
        raise CRMFError("no-signature", "no signature that proves possession of the private key")
    if template.public_key is None:
        raise CRMFError("no-public-key", "a certificate template without public key")
    given = message.popo.input
    if given is None:
        if template.subject is None:
            raise CRMFError("bad-proof", "without a subject, the proof has an input (RFC 4211 section 4.1)")
        return message.request.der
    if template.subject is not None:
        raise CRMFError("bad-proof", "with subject and key, the proof has no input (RFC 4211 section 4.1)")
    if given.public_key != template.public_key:
        raise CRMFError("bad-proof", "the proof is for another public key than the template's")
    return given.der


def verify_possession(message: CertReqMsg, secret: bytes | None = None) -> PublicKeyFacts:
    """Verify the signature of possession (section 4.1), and say what the key is; not whether it is fit.

    A proof that names its sender says who that is in ``popo.input.sender``: whether that sender has been
    authenticated is for the caller to know. One with a MAC takes the ``secret`` that was shared.

    Raises ``CRMFError``: ``no-signature``, ``no-public-key``, ``bad-proof``, ``no-secret``, ``bad-mac``, what
    else ``verify_mac`` raises, ``bad-signature``, ``bad-signature-algorithm``, and ``KeyRejected``'s codes.
    """
    covered = signed_octets(message)
    popo = message.popo
    assert isinstance(popo, POPOSigningKey)
    if popo.input is not None and popo.input.public_key_mac is not None:
        if secret is None:
            raise CRMFError("no-secret", "a proof with a MAC, and no shared secret to verify it with")
        verify_mac(popo.input.public_key_mac, secret, popo.input.public_key)
    try:
        facts = facts_of(message.request.template.public_key or b"")
        signatures.verify(public_key(facts), popo.algorithm, popo.signature, covered)
    except (KeyRejected, signatures.SignatureError) as error:
        raise CRMFError(error.code, f"no proof of possession: {error}") from None
    return facts


# --- writing ---------------------------------------------------------------------------------


def encode_cert_req_messages(messages: Iterable[bytes]) -> bytes:
    """CertReqMessages, of complete CertReqMsg."""
    return der.sequence(*messages)


def encode_cert_req_msg(
    request: bytes, popo: Popo | None = None, reg_info: Iterable[AttributeTypeAndValue] = ()
) -> bytes:
    """CertReqMsg, of a complete CertRequest."""
    return der.sequence(
        request,
        b"" if popo is None else _encode_popo(popo),
        encode_attributes(map(encode_attribute, reg_info)),
    )


def encode_cert_request(number: int, template: CertTemplate, controls: Iterable[Control] = ()) -> bytes:
    """CertRequest: what a proof of possession without input signs."""
    pairs = encode_attributes(map(encode_control, controls))
    return der.sequence(der.integer(number), encode_template(template), pairs)


def encode_popo_signing_key_input(spki: bytes, identity: bytes | PKMACValue) -> POPOSigningKeyInput:
    """What a proof of possession with input signs: ``identity`` is the sender's GeneralName, or a MAC over
    ``spki``."""
    if isinstance(identity, PKMACValue):
        data = der.sequence(identity.encode(), spki)
        return POPOSigningKeyInput(data, spki, public_key_mac=identity)
    return POPOSigningKeyInput(der.sequence(der.context(0, identity), spki), spki, identity)


def _encode_popo(popo: Popo) -> bytes:
    match popo:
        case RAVerified():
            return der.context(0, b"", constructed=False)
        case POPOSigningKey(algorithm, signature, given):
            tagged = b"" if given is None else b"\xa0" + given.der[1:]
            return der.context(1, tagged + algorithm + der.bit_string(signature))
        case KeyEncipherment(key):
            return der.context(2, der.tlv(_CHOICE_TAGS[key.choice], key.value))
        case KeyAgreement(key):
            return der.context(3, der.tlv(_CHOICE_TAGS[key.choice], key.value))
