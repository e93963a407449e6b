"""CMC (RFC 5272, updated by RFC 6402): PKIData and PKIResponse, which are what the CMS around them signs.

Both are read from DER, in which such content is written (RFC 5652 section 5.4 has it hashed as it stands).
Requests and CMS within are handed out raw: nesting, and which body part a bad one is answered for, are the
caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias, TypeVar

import msgspec

from certloom.pki import der
from certloom.pki.crmf import (
    AttributeTypeAndValue,
    CertReqMsg,
    CRMFError,
    KeyAgreement,
    KeyEncipherment,
    POPOSigningKey,
)
from certloom.pki.der import DERError, Reader
from certloom.pki.names import BadName
from certloom.protocols.est.cmc_controls import (
    CMCFailInfo,
    CMCStatus,
    Control,
    PopLinkWitness,
    PopLinkWitnessV2,
)
from certloom.protocols.est.cmc_proofs import (
    CMCError,
    identity_proof,
    identity_proof_v2,
    pop_link_witness,
    pop_link_witness_v2,
)
from certloom.protocols.est.cmc_reading import MAX_BODY_PART_ID, MAX_BODY_PARTS, read_body_part_id
from certloom.protocols.est.cmc_syntax import ID_CMC, encode_control, read_control

__all__ = [
    "ID_CCT_PKI_DATA",
    "ID_CCT_PKI_RESPONSE",
    "ID_CMC",
    "MAX_BODY_PARTS",
    "MAX_BODY_PART_ID",
    "MAX_SIZE",
    "CMCError",
    "CMCFailInfo",
    "CMCStatus",
    "CRMRequest",
    "Control",
    "OtherMsg",
    "OtherRequest",
    "PKIData",
    "PKIResponse",
    "TCRRequest",
    "TaggedAttribute",
    "TaggedContentInfo",
    "TaggedRequest",
    "check_crm",
    "decode_pki_data",
    "decode_pki_response",
    "decode_tagged_request",
    "encode_pki_data",
    "encode_pki_response",
    "encode_req_sequence",
    "encode_tagged_request",
    "identity_proof",
    "identity_proof_v2",
    "pop_link_of_crm",
    "pop_link_of_tcr",
    "pop_link_witness",
    "pop_link_witness_v2",
]

ID_CCT_PKI_DATA = "1.3.6.1.5.5.7.12.2"
ID_CCT_PKI_RESPONSE = "1.3.6.1.5.5.7.12.3"
MAX_SIZE = 1 << 20
"""Octets of a PKIData or PKIResponse."""
_MAX_VALUES = 16
"""Of a control that is not known here."""

_T = TypeVar("_T")


class TaggedAttribute(msgspec.Struct, frozen=True):
    """A control (section 3.2.1.1)."""

    body_part_id: int
    control: Control


class TCRRequest(msgspec.Struct, frozen=True):
    """A PKCS #10 request."""

    body_part_id: int
    der: bytes
    """CertificationRequest, for ``csr.parse_csr``."""


class CRMRequest(msgspec.Struct, frozen=True):
    """A CRMF request. Its certReqId is its body part identifier."""

    body_part_id: int
    der: bytes
    """CertReqMsg, for ``crmf.decode_cert_req_msg`` and ``check_crm``."""


class OtherRequest(msgspec.Struct, frozen=True):
    """A request of another kind."""

    body_part_id: int
    oid: str
    value: bytes
    """A complete TLV."""


TaggedRequest: TypeAlias = TCRRequest | CRMRequest | OtherRequest
"""Section 3.2.1.2."""


class TaggedContentInfo(msgspec.Struct, frozen=True):
    """CMS (section 3.2.1.3)."""

    body_part_id: int
    der: bytes
    """ContentInfo."""


class OtherMsg(msgspec.Struct, frozen=True):
    """Section 3.2.1.4."""

    body_part_id: int
    oid: str
    value: bytes
    """A complete TLV."""


class PKIData(msgspec.Struct, frozen=True):
    """A full PKI request (section 3.2.1)."""

    controls: tuple[TaggedAttribute, ...]
    requests: tuple[TaggedRequest, ...]
    cms: tuple[TaggedContentInfo, ...]
    other: tuple[OtherMsg, ...]
    req_sequence: bytes
    """reqSequence as received, tag and length included: what proofs of identity cover."""


class PKIResponse(msgspec.Struct, frozen=True):
    """A full PKI response (section 4.2)."""

    controls: tuple[TaggedAttribute, ...]
    cms: tuple[TaggedContentInfo, ...] = ()
    other: tuple[OtherMsg, ...] = ()


class _Parts:
    """The body parts of the message that is being read: how many, and that each has a number of its own."""

    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def take(self, number: int) -> int:
        """Raises ``CMCError`` (section 3.2.2)."""
        if number == 0:
            raise CMCError(
                "reserved-body-part", "bodyPartID 0 is the message itself (RFC 5272 section 3.2.2)"
            )
        if number in self.seen:
            raise CMCError("duplicate-body-part", f"bodyPartID {number} is there twice")
        if len(self.seen) == MAX_BODY_PARTS:
            raise CMCError("too-many-body-parts", f"a message has at most {MAX_BODY_PARTS} body parts")
        self.seen.add(number)
        return number


# --- reading ---------------------------------------------------------------------------------


def decode_pki_data(data: bytes) -> PKIData:
    """Read a PKIData. Raises ``CMCError``."""
    return _decoded(_pki_data, data, "PKIData")


def decode_pki_response(data: bytes) -> PKIResponse:
    """Read a PKIResponse. Raises ``CMCError``."""
    return _decoded(_pki_response, data, "PKIResponse")


def decode_tagged_request(data: bytes) -> TaggedRequest:
    """Read the TaggedRequest in an EncryptedPOP. Raises ``CMCError``."""

    def decode(received: bytes) -> TaggedRequest:
        reader = Reader(received)
        request = _request(reader, _Parts())
        reader.finish()
        return request

    return _decoded(decode, data, "TaggedRequest")


def _decoded(decode: Callable[[bytes], _T], data: bytes, kind: str) -> _T:
    if len(data) > MAX_SIZE:
        raise CMCError("too-large", f"a {kind} has at most {MAX_SIZE} octets")
    try:
        return decode(bytes(data))
    except DERError as error:
        raise CMCError("malformed", f"not a {kind} in DER: {error}") from None


def _pki_data(data: bytes) -> PKIData:
    reader = der.whole(data)
    parts = _Parts()
    controls = _controls(reader.enter(), parts)
    req_sequence = reader.raw(der.SEQUENCE)
    requests: list[TaggedRequest] = []
    received = der.whole(req_sequence)
    while received.more():
        requests.append(_request(received, parts))
    cms, other = _cms(reader.enter(), parts), _other(reader.enter(), parts)
    reader.finish()
    return PKIData(controls, tuple(requests), cms, other, req_sequence)


def _pki_response(data: bytes) -> PKIResponse:
    reader = der.whole(data)
    parts = _Parts()
    response = PKIResponse(
        _controls(reader.enter(), parts), _cms(reader.enter(), parts), _other(reader.enter(), parts)
    )
    reader.finish()
    return response


def _controls(reader: Reader, parts: _Parts) -> tuple[TaggedAttribute, ...]:
    found: list[TaggedAttribute] = []
    while reader.more():
        tagged = reader.enter()
        number = parts.take(read_body_part_id(tagged))
        oid = tagged.oid()
        values = tagged.enter(der.SET)
        tagged.finish()
        received: list[bytes] = []
        while values.more():
            if len(received) == _MAX_VALUES:
                raise DERError(f"a control with more than {_MAX_VALUES} values")
            received.append(_any(values))
        found.append(TaggedAttribute(number, _control(number, oid, tuple(received))))
    return tuple(found)


def _control(number: int, oid: str, values: tuple[bytes, ...]) -> Control:
    try:
        return read_control(oid, values)
    except (DERError, BadName, CRMFError) as error:
        raise CMCError("bad-control", f"control {oid}: {error}", body_parts=(number,)) from None


def _request(reader: Reader, parts: _Parts) -> TaggedRequest:
    tag = reader.peek()
    if tag == 0xA0:
        tagged = reader.enter(0xA0)
        number = parts.take(read_body_part_id(tagged))
        request = tagged.raw(der.SEQUENCE)
        tagged.finish()
        return TCRRequest(number, request)
    if tag == 0xA1:
        message = b"\x30" + reader.raw(0xA1)[1:]
        return CRMRequest(parts.take(read_body_part_id(der.whole(message).enter())), message)
    if tag == 0xA2:
        return OtherRequest(*_typed(reader.enter(0xA2), parts))
    raise DERError("a request of no known kind")


def _cms(reader: Reader, parts: _Parts) -> tuple[TaggedContentInfo, ...]:
    found: list[TaggedContentInfo] = []
    while reader.more():
        tagged = reader.enter()
        found.append(TaggedContentInfo(parts.take(read_body_part_id(tagged)), tagged.raw(der.SEQUENCE)))
        tagged.finish()
    return tuple(found)


def _other(reader: Reader, parts: _Parts) -> tuple[OtherMsg, ...]:
    found: list[OtherMsg] = []
    while reader.more():
        found.append(OtherMsg(*_typed(reader.enter(), parts)))
    return tuple(found)


def _typed(tagged: Reader, parts: _Parts) -> tuple[int, str, bytes]:
    number, oid, value = parts.take(read_body_part_id(tagged)), tagged.oid(), _any(tagged)
    tagged.finish()
    return number, oid, value


def _any(reader: Reader) -> bytes:
    """The next TLV, whatever it is."""
    begin = reader.offset
    reader.any()
    return reader.data[begin : reader.offset]


# --- what requests within have to be ---------------------------------------------------------


def check_crm(message: CertReqMsg) -> None:
    """Raise ``CMCError`` unless CMC takes this CRMF request (section 3.2.1.2.2): with subject and public key,
    so without an input to its signature of possession; without regInfo; and not to be proven by decrypting
    the certificate."""
    popo, template = message.popo, message.request.template
    problem = None
    if template.subject is None or template.public_key is None:
        problem = "a CRMF request has a subject, which may be empty, and a public key"
    elif isinstance(popo, POPOSigningKey) and popo.input is not None:
        problem = "a CRMF request's proof of possession has no input"
    elif message.reg_info:
        problem = "a CRMF request has no regInfo"
    elif isinstance(popo, KeyEncipherment | KeyAgreement) and popo.key.subsequent_message == 0:
        problem = "possession is not proven by decrypting the certificate"
    if problem is not None:
        raise CMCError(
            "bad-request", f"{problem} (RFC 5272 section 3.2.1.2.2)", body_parts=(message.request.id,)
        )


def pop_link_of_crm(message: CertReqMsg) -> PopLinkWitness | PopLinkWitnessV2 | None:
    """The witness in a CRMF request's controls that links it to a shared secret (section 6.3.1.1). Raises
    ``CMCError``, also when there are two."""
    items = [c for c in message.request.controls if isinstance(c, AttributeTypeAndValue)]
    return _pop_link([(item.oid, (item.value,)) for item in items], message.request.id)


def pop_link_of_tcr(request: TCRRequest) -> PopLinkWitness | PopLinkWitnessV2 | None:
    """The witness in a PKCS #10 request's attributes that links it to a shared secret (section 6.3.1.1).
    Raises ``CMCError``, also when there are two, or when this is no such request."""
    found: list[tuple[str, tuple[bytes, ...]]] = []

    def collect(data: bytes) -> None:
        info = der.whole(data).enter()
        for tag in (der.INTEGER, der.SEQUENCE, der.SEQUENCE):
            info.raw(tag)
        if not info.more():
            return
        attributes = info.enter(0xA0)
        while attributes.more():
            attribute = attributes.enter()
            oid = attribute.oid()
            values = attribute.enter(der.SET)
            received: list[bytes] = []
            while values.more():
                received.append(_any(values))
            found.append((oid, tuple(received)))

    _decoded(collect, request.der, "PKCS #10 request")
    return _pop_link(found, request.body_part_id)


def _pop_link(
    items: Iterable[tuple[str, tuple[bytes, ...]]], number: int
) -> PopLinkWitness | PopLinkWitnessV2 | None:
    witness: PopLinkWitness | PopLinkWitnessV2 | None = None
    for oid, values in items:
        if oid not in _POP_LINKS:
            continue
        control = _control(number, oid, values)
        if witness is not None:
            raise CMCError("bad-request", "two POP link witnesses in one request", body_parts=(number,))
        assert isinstance(control, PopLinkWitness | PopLinkWitnessV2)
        witness = control
    return witness


_POP_LINKS = (f"{ID_CMC}.23", f"{ID_CMC}.33")


# --- writing ---------------------------------------------------------------------------------


def encode_pki_data(
    controls: Iterable[TaggedAttribute] = (),
    requests: Iterable[TaggedRequest] = (),
    cms: Iterable[TaggedContentInfo] = (),
    other: Iterable[OtherMsg] = (),
) -> bytes:
    """PKIData. Raises ``der.DERError`` and ``names.BadName``."""
    return der.sequence(
        _encode_controls(controls), encode_req_sequence(requests), _encode_cms(cms), _encode_other(other)
    )


def encode_pki_response(
    controls: Iterable[TaggedAttribute],
    cms: Iterable[TaggedContentInfo] = (),
    other: Iterable[OtherMsg] = (),
) -> bytes:
    """PKIResponse. Raises ``der.DERError`` and ``names.BadName``."""
    return der.sequence(_encode_controls(controls), _encode_cms(cms), _encode_other(other))


def encode_req_sequence(requests: Iterable[TaggedRequest]) -> bytes:
    """The reqSequence of a PKIData with these requests: what a proof of identity covers."""
    return der.sequence(*map(encode_tagged_request, requests))


def encode_tagged_request(request: TaggedRequest) -> bytes:
    """TaggedRequest."""
    match request:
        case TCRRequest(number, data):
            return der.context(0, der.integer(number) + data)
        case CRMRequest(_, data):
            return b"\xa1" + data[1:]
        case OtherRequest(number, oid, value):
            return der.context(2, der.integer(number) + der.oid(oid) + value)


def _encode_controls(controls: Iterable[TaggedAttribute]) -> bytes:
    parts = []
    for tagged in controls:
        oid, values = encode_control(tagged.control)
        parts.append(der.sequence(der.integer(tagged.body_part_id), der.oid(oid), der.set_of(*values)))
    return der.sequence(*parts)


def _encode_cms(cms: Iterable[TaggedContentInfo]) -> bytes:
    return der.sequence(*(der.sequence(der.integer(part.body_part_id), part.der) for part in cms))


def _encode_other(other: Iterable[OtherMsg]) -> bytes:
    return der.sequence(
        *(der.sequence(der.integer(part.body_part_id), der.oid(part.oid), part.value) for part in other)
    )
