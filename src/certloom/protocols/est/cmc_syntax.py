"""How the controls of CMC (RFC 5272 section 6, with RFC 6402) stand in DER.

What is read raises ``der.DERError``, ``names.BadName`` and ``crmf.CRMFError``; what is written, the first
two, for values that have no encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from certloom.pki import crmf, der, extensions, names
from certloom.pki.crmf_controls import encode_publication_info, read_general_name, read_publication_info
from certloom.pki.crmf_mac import AlgorithmIdentifier
from certloom.pki.crmf_template import read_serial, read_template
from certloom.pki.der import DERError, Reader
from certloom.pki.extensions import Extension
from certloom.protocols.est.cmc_controls import (
    AddExtensions,
    AuthPublish,
    BatchRequests,
    BatchResponses,
    BodyPartReference,
    CMCFailInfo,
    CMCStatus,
    CMCStatusInfo,
    CMCStatusInfoV2,
    ConfirmCertAcceptance,
    Control,
    ControlsProcessed,
    DataReturn,
    DecryptedPOP,
    EncryptedPOP,
    ExtendedFailInfo,
    GetCert,
    GetCRL,
    Identification,
    IdentityProof,
    IdentityProofV2,
    LraPOPWitness,
    ModCertTemplate,
    PendInfo,
    PopLinkRandom,
    PopLinkWitness,
    PopLinkWitnessV2,
    PublishCert,
    PublishTrustAnchors,
    QueryPending,
    RAIdentityWitness,
    RecipientNonce,
    RegInfo,
    ResponseBody,
    ResponseInfo,
    RevokeRequest,
    SenderNonce,
    TransactionID,
    UnknownControl,
)

ID_CMC = "1.3.6.1.5.5.7.7"

MAX_BODY_PARTS = 100
"""Body parts of one message, and references in one control."""
MAX_BODY_PART_ID = 4294967295
_MAX_NUMBER = 64
"""Octets of a transaction identifier."""


# --- reading ---------------------------------------------------------------------------------


def read_body_part_id(reader: Reader) -> int:
    """The next BodyPartID (section 3.2.2). Raises ``DERError``."""
    number = reader.integer()
    if not 0 <= number <= MAX_BODY_PART_ID:
        raise DERError("a bodyPartID that is out of range")
    return number


def _read_ids(fields: Reader, least: int = 1) -> tuple[int, ...]:
    found: list[int] = []
    while fields.more():
        if len(found) == MAX_BODY_PARTS:
            raise DERError(f"more than {MAX_BODY_PARTS} body parts in a list")
        found.append(read_body_part_id(fields))
    if len(found) < least:
        raise DERError("a list of no body part")
    return tuple(found)


def _read_references(fields: Reader) -> tuple[BodyPartReference, ...]:
    found: list[BodyPartReference] = []
    while fields.more():
        if len(found) == MAX_BODY_PARTS:
            raise DERError(f"more than {MAX_BODY_PARTS} body parts in a list")
        is_path = fields.peek() == der.SEQUENCE
        found.append(_read_ids(fields.enter()) if is_path else read_body_part_id(fields))
    if not found:
        raise DERError("a list of no body part")
    return tuple(found)


def _read_algorithm(reader: Reader) -> AlgorithmIdentifier:
    return AlgorithmIdentifier.read(reader.enter())


def _read_text(reader: Reader) -> str:
    return names.text(der.UTF8_STRING, reader.content(der.UTF8_STRING))


def _read_time(reader: Reader) -> int:
    if reader.peek() != der.GENERALIZED_TIME:
        raise DERError("not a GeneralizedTime")
    return reader.time()


def _read_raw(reader: Reader) -> bytes:
    begin = reader.offset
    reader.any()
    return reader.data[begin : reader.offset]


def _read_hashes(fields: Reader) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while fields.more():
        if len(found) == MAX_BODY_PARTS:
            raise DERError(f"more than {MAX_BODY_PARTS} hashes in a list")
        found.append(fields.content(der.OCTET_STRING))
    return tuple(found)


def _read_status(version: int) -> Callable[[Reader], Any]:
    def read(reader: Reader) -> CMCStatusInfo | CMCStatusInfoV2:
        fields = reader.enter()
        try:
            status = CMCStatus(fields.integer())
        except ValueError:
            raise DERError("a CMCStatus that does not exist") from None
        parts = fields.enter()
        ids: Any = _read_ids(parts) if version == 1 else _read_references(parts)
        text = _read_text(fields) if fields.peek() == der.UTF8_STRING else None
        other: Any = None
        if fields.peek() == der.INTEGER:
            other = _fail_info(fields.integer())
        elif fields.peek() == der.SEQUENCE:
            pending = fields.enter()
            other = PendInfo(pending.content(der.OCTET_STRING), _read_time(pending))
            pending.finish()
        elif version == 2 and fields.peek() == 0xA1:
            extended = fields.enter(0xA1)
            other = ExtendedFailInfo(extended.oid(), _read_raw(extended))
            extended.finish()
        fields.finish()
        return (CMCStatusInfo if version == 1 else CMCStatusInfoV2)(status, ids, text, other)

    return read


def _fail_info(number: int) -> int:
    try:
        return CMCFailInfo(number)
    except ValueError:
        # Closed environments have codes of their own (section 6.1.4).
        if not 0 <= number < 2000:
            raise DERError("a CMCFailInfo that does not exist") from None
        return number


def _read_add_extensions(reader: Reader) -> AddExtensions:
    fields = reader.enter()
    pki_data = read_body_part_id(fields)
    references = _read_ids(fields.enter(), 0)
    added = extensions.decode_all(fields.enter())
    fields.finish()
    return AddExtensions(pki_data, references, added)


def _read_encrypted_pop(reader: Reader) -> EncryptedPOP:
    fields = reader.enter()
    request, cms = _read_raw(fields), fields.raw(der.SEQUENCE)
    pop, witness = _read_algorithm(fields), _read_algorithm(fields)
    value = fields.content(der.OCTET_STRING)
    fields.finish()
    return EncryptedPOP(request, cms, pop, witness, value)


def _read_decrypted_pop(reader: Reader) -> DecryptedPOP:
    fields = reader.enter()
    found = DecryptedPOP(read_body_part_id(fields), _read_algorithm(fields), fields.content(der.OCTET_STRING))
    fields.finish()
    return found


def _read_lra_pop_witness(reader: Reader) -> LraPOPWitness:
    fields = reader.enter()
    found = LraPOPWitness(read_body_part_id(fields), _read_ids(fields.enter(), 0))
    fields.finish()
    return found


def _read_get_cert(reader: Reader) -> GetCert:
    fields = reader.enter()
    found = GetCert(read_general_name(fields), read_serial(fields))
    fields.finish()
    return found


def _read_get_crl(reader: Reader) -> GetCRL:
    fields = reader.enter()
    issuer = names.read(fields.enter())
    name = read_general_name(fields) if fields.peek() & 0xC0 == 0x80 else None
    time = _read_time(fields) if fields.peek() == der.GENERALIZED_TIME else None
    reasons = fields.named_bits(9) if fields.more() else None
    fields.finish()
    return GetCRL(issuer, name, time, reasons)


def _read_revoke_request(reader: Reader) -> RevokeRequest:
    fields = reader.enter()
    issuer, serial = names.read(fields.enter()), read_serial(fields)
    reason = fields.content(0x0A)
    if len(reason) != 1 or reason[0] > 10 or reason[0] == 7:
        raise DERError("a CRLReason that does not exist")
    invalidity_date = _read_time(fields) if fields.peek() == der.GENERALIZED_TIME else None
    passphrase = fields.content(der.OCTET_STRING) if fields.peek() == der.OCTET_STRING else None
    comment = _read_text(fields) if fields.more() else None
    fields.finish()
    return RevokeRequest(issuer, serial, reason[0], invalidity_date, passphrase, comment)


def _read_witness_v2(kind: type[Any]) -> Callable[[Reader], Any]:
    def read(reader: Reader) -> Any:
        fields = reader.enter()
        found = kind(_read_algorithm(fields), _read_algorithm(fields), fields.content(der.OCTET_STRING))
        fields.finish()
        return found

    return read


def _read_confirmation(reader: Reader) -> ConfirmCertAcceptance:
    fields = reader.enter()
    found = ConfirmCertAcceptance(names.read(fields.enter()), read_serial(fields))
    fields.finish()
    return found


def _read_trust_anchors(reader: Reader) -> PublishTrustAnchors:
    fields = reader.enter()
    found = PublishTrustAnchors(_read_number(fields), _read_algorithm(fields), _read_hashes(fields.enter()))
    fields.finish()
    return found


def _read_number(reader: Reader) -> int:
    number = reader.integer()
    if number.bit_length() > 8 * _MAX_NUMBER:
        raise DERError(f"an INTEGER of more than {_MAX_NUMBER} octets")
    return number


def _read_publish_cert(reader: Reader) -> PublishCert:
    fields = reader.enter()
    algorithm, hashes = _read_algorithm(fields), _read_hashes(fields.enter())
    info = fields.enter()
    fields.finish()
    found = read_publication_info(info)
    info.finish()
    return PublishCert(algorithm, hashes, found)


def _read_mod_cert_template(reader: Reader) -> ModCertTemplate:
    fields = reader.enter()
    pki_data, references = _read_ids(fields.enter()), _read_ids(fields.enter())
    replace = fields.boolean() if fields.peek() == der.BOOLEAN else True
    template = read_template(fields.enter())
    fields.finish()
    return ModCertTemplate(pki_data, references, template, replace)


def _read_processed(reader: Reader) -> ControlsProcessed:
    fields = reader.enter()
    found = ControlsProcessed(_read_references(fields.enter()))
    fields.finish()
    return found


# --- writing ---------------------------------------------------------------------------------


def _ids(numbers: Iterable[int]) -> bytes:
    return der.sequence(*map(der.integer, numbers))


def _references(parts: Iterable[BodyPartReference]) -> bytes:
    return der.sequence(*(der.integer(part) if isinstance(part, int) else _ids(part) for part in parts))


def _text(value: str | None) -> bytes:
    return b"" if value is None else der.tlv(der.UTF8_STRING, value.encode())


def _octets(value: bytes | None) -> bytes:
    return b"" if value is None else der.octet_string(value)


def _time(seconds: int | None) -> bytes:
    return b"" if seconds is None else der.generalized_time(seconds)


def _extensions(items: Iterable[Extension]) -> bytes:
    return der.sequence(*(extensions.encode(e.oid, e.critical, e.value) for e in items))


def _status(c: Any) -> bytes:
    other = b""
    if isinstance(c.other, PendInfo):
        other = der.sequence(der.octet_string(c.other.token), der.generalized_time(c.other.time))
    elif isinstance(c.other, ExtendedFailInfo):
        other = der.context(1, der.oid(c.other.oid) + c.other.value)
    elif c.other is not None:
        other = der.integer(c.other)
    return der.sequence(der.integer(c.status), _references(c.body_parts), _text(c.text), other)


def _witness_v2(first: AlgorithmIdentifier, mac: AlgorithmIdentifier, witness: bytes) -> bytes:
    return der.sequence(first.encode(), mac.encode(), der.octet_string(witness))


class _Form(msgspec.Struct, frozen=True):
    """How one type of control stands in DER."""

    oid: str
    read: Callable[[Reader], Any]
    write: Callable[[Any], bytes]


def _form(arc: int, read: Callable[[Reader], Any], write: Callable[[Any], bytes]) -> _Form:
    return _Form(f"{ID_CMC}.{arc}", read, write)


def _octets_form(arc: int, kind: type[Any], field: str = "value") -> _Form:
    return _form(
        arc,
        lambda reader: kind(reader.content(der.OCTET_STRING)),
        lambda control: der.octet_string(getattr(control, field)),
    )


def _ids_form(arc: int, kind: type[Any], field: str) -> _Form:
    return _form(
        arc, lambda reader: kind(_read_ids(reader.enter())), lambda control: _ids(getattr(control, field))
    )


_FORMS: dict[type[Any], _Form] = {
    CMCStatusInfo: _form(1, _read_status(1), _status),
    Identification: _form(2, lambda r: Identification(_read_text(r)), lambda c: _text(c.value)),
    IdentityProof: _octets_form(3, IdentityProof, "witness"),
    DataReturn: _octets_form(4, DataReturn),
    TransactionID: _form(5, lambda r: TransactionID(_read_number(r)), lambda c: der.integer(c.value)),
    SenderNonce: _octets_form(6, SenderNonce),
    RecipientNonce: _octets_form(7, RecipientNonce),
    AddExtensions: _form(
        8,
        _read_add_extensions,
        lambda c: der.sequence(der.integer(c.pki_data), _ids(c.cert_references), _extensions(c.extensions)),
    ),
    EncryptedPOP: _form(
        9,
        _read_encrypted_pop,
        lambda c: der.sequence(
            c.request,
            c.cms,
            c.pop_algorithm.encode(),
            c.witness_algorithm.encode(),
            der.octet_string(c.witness),
        ),
    ),
    DecryptedPOP: _form(
        10,
        _read_decrypted_pop,
        lambda c: der.sequence(
            der.integer(c.body_part_id), c.pop_algorithm.encode(), der.octet_string(c.pop)
        ),
    ),
    LraPOPWitness: _form(
        11, _read_lra_pop_witness, lambda c: der.sequence(der.integer(c.pki_data), _ids(c.body_parts))
    ),
    GetCert: _form(15, _read_get_cert, lambda c: der.sequence(c.issuer, der.unsigned(c.serial))),
    GetCRL: _form(
        16,
        _read_get_crl,
        lambda c: der.sequence(
            names.encode(c.issuer),
            c.name or b"",
            _time(c.time),
            b"" if c.reasons is None else der.named_bits(c.reasons, 9),
        ),
    ),
    RevokeRequest: _form(
        17,
        _read_revoke_request,
        lambda c: der.sequence(
            names.encode(c.issuer),
            der.unsigned(c.serial),
            der.tlv(0x0A, bytes((c.reason,))),
            _time(c.invalidity_date),
            _octets(c.passphrase),
            _text(c.comment),
        ),
    ),
    RegInfo: _octets_form(18, RegInfo),
    ResponseInfo: _octets_form(19, ResponseInfo),
    QueryPending: _octets_form(21, QueryPending, "token"),
    PopLinkRandom: _octets_form(22, PopLinkRandom),
    PopLinkWitness: _octets_form(23, PopLinkWitness, "witness"),
    ConfirmCertAcceptance: _form(
        24, _read_confirmation, lambda c: der.sequence(names.encode(c.issuer), der.unsigned(c.serial))
    ),
    CMCStatusInfoV2: _form(25, _read_status(2), _status),
    PublishTrustAnchors: _form(
        26,
        _read_trust_anchors,
        lambda c: der.sequence(
            der.integer(c.number),
            c.hash_algorithm.encode(),
            der.sequence(*map(der.octet_string, c.hashes)),
        ),
    ),
    AuthPublish: _form(
        27, lambda r: AuthPublish(read_body_part_id(r)), lambda c: der.integer(c.body_part_id)
    ),
    BatchRequests: _ids_form(28, BatchRequests, "body_parts"),
    BatchResponses: _ids_form(29, BatchResponses, "body_parts"),
    PublishCert: _form(
        30,
        _read_publish_cert,
        lambda c: der.sequence(
            c.hash_algorithm.encode(),
            der.sequence(*map(der.octet_string, c.hashes)),
            encode_publication_info(c.info),
        ),
    ),
    ModCertTemplate: _form(
        31,
        _read_mod_cert_template,
        lambda c: der.sequence(
            _ids(c.pki_data),
            _ids(c.cert_references),
            b"" if c.replace else b"\x01\x01\x00",
            crmf.encode_template(c.template),
        ),
    ),
    ControlsProcessed: _form(
        32,
        _read_processed,
        lambda c: der.sequence(_references(c.body_parts)),
    ),
    PopLinkWitnessV2: _form(
        33,
        _read_witness_v2(PopLinkWitnessV2),
        lambda c: _witness_v2(c.key_algorithm, c.mac_algorithm, c.witness),
    ),
    IdentityProofV2: _form(
        34,
        _read_witness_v2(IdentityProofV2),
        lambda c: _witness_v2(c.hash_algorithm, c.mac_algorithm, c.witness),
    ),
    RAIdentityWitness: _ids_form(35, RAIdentityWitness, "path"),
    ResponseBody: _ids_form(37, ResponseBody, "path"),
}
_READ = {form.oid: form.read for form in _FORMS.values()}


def read_control(oid: str, values: tuple[bytes, ...]) -> Control:
    """The control in these values of a TaggedAttribute or of an attribute in a request. The known ones have
    exactly one."""
    read = _READ.get(oid)
    if read is None:
        return UnknownControl(oid, values)
    if len(values) != 1:
        raise DERError("a control that has not one value")
    reader = Reader(values[0])
    control: Control = read(reader)
    reader.finish()
    return control


def encode_control(control: Control) -> tuple[str, tuple[bytes, ...]]:
    """The object identifier and the values of a control."""
    if isinstance(control, UnknownControl):
        return control.oid, control.values
    form = _FORMS[type(control)]
    return form.oid, (form.write(control),)
