"""Reads the values of CMC's controls (RFC 5272 section 6, with RFC 6402) from DER.

Raises ``der.DERError``, ``names.BadName`` and ``crmf.CRMFError``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from certloom.pki import der, extensions, names
from certloom.pki.crmf_controls import read_general_name, read_publication_info
from certloom.pki.crmf_mac import AlgorithmIdentifier
from certloom.pki.crmf_template import read_serial, read_template
from certloom.pki.der import DERError, Reader
from certloom.protocols.est.cmc_controls import (
    AddExtensions,
    BodyPartReference,
    CMCFailInfo,
    CMCStatus,
    CMCStatusInfo,
    CMCStatusInfoV2,
    ConfirmCertAcceptance,
    ControlsProcessed,
    DecryptedPOP,
    EncryptedPOP,
    ExtendedFailInfo,
    GetCert,
    GetCRL,
    LraPOPWitness,
    ModCertTemplate,
    PendInfo,
    PublishCert,
    PublishTrustAnchors,
    RevokeRequest,
)

MAX_BODY_PARTS = 100
"""Body parts of one message, and references in one control."""
MAX_BODY_PART_ID = 4294967295
_MAX_NUMBER = 64
"""Octets of a transaction identifier."""


def read_body_part_id(reader: Reader) -> int:
    """The next BodyPartID (section 3.2.2). Raises ``DERError``."""
    number = reader.integer()
    if not 0 <= number <= MAX_BODY_PART_ID:
        raise DERError("a bodyPartID that is out of range")
    return number


def read_ids(fields: Reader, least: int = 1) -> tuple[int, ...]:
    found: list[int] = []
    while fields.more():
        if len(found) == MAX_BODY_PARTS:
            raise DERError(f"more than {MAX_BODY_PARTS} body parts in a list")
        found.append(read_body_part_id(fields))
    if len(found) < least:
        raise DERError("a list of no body part")
    return tuple(found)


def read_references(fields: Reader) -> tuple[BodyPartReference, ...]:
    found: list[BodyPartReference] = []
    while fields.more():
        if len(found) == MAX_BODY_PARTS:
            raise DERError(f"more than {MAX_BODY_PARTS} body parts in a list")
        is_path = fields.peek() == der.SEQUENCE
        found.append(read_ids(fields.enter()) if is_path else read_body_part_id(fields))
    if not found:
        raise DERError("a list of no body part")
    return tuple(found)


def read_algorithm(reader: Reader) -> AlgorithmIdentifier:
    return AlgorithmIdentifier.read(reader.enter())


def read_text(reader: Reader) -> str:
    return names.text(der.UTF8_STRING, reader.content(der.UTF8_STRING))


def read_time(reader: Reader) -> int:
    if reader.peek() != der.GENERALIZED_TIME:
        raise DERError("not a GeneralizedTime")
    return reader.time()


def read_raw(reader: Reader) -> bytes:
    begin = reader.offset
    reader.any()
    return reader.data[begin : reader.offset]


def read_hashes(fields: Reader) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while fields.more():
        if len(found) == MAX_BODY_PARTS:
            raise DERError(f"more than {MAX_BODY_PARTS} hashes in a list")
        found.append(fields.content(der.OCTET_STRING))
    return tuple(found)


def read_status(version: int) -> Callable[[Reader], Any]:
    def read(reader: Reader) -> CMCStatusInfo | CMCStatusInfoV2:
        fields = reader.enter()
        try:
            status = CMCStatus(fields.integer())
        except ValueError:
            raise DERError("a CMCStatus that does not exist") from None
        parts = fields.enter()
        ids: Any = read_ids(parts) if version == 1 else read_references(parts)
        text = read_text(fields) if fields.peek() == der.UTF8_STRING else None
        other: Any = None
        if fields.peek() == der.INTEGER:
            other = read_fail_info(fields.integer())
        elif fields.peek() == der.SEQUENCE:
            pending = fields.enter()
            other = PendInfo(pending.content(der.OCTET_STRING), read_time(pending))
            pending.finish()
        elif version == 2 and fields.peek() == 0xA1:
            extended = fields.enter(0xA1)
            other = ExtendedFailInfo(extended.oid(), read_raw(extended))
            extended.finish()
        fields.finish()
        return (CMCStatusInfo if version == 1 else CMCStatusInfoV2)(status, ids, text, other)

    return read


def read_fail_info(number: int) -> int:
    try:
        return CMCFailInfo(number)
    except ValueError:
        # Closed environments have codes of their own (section 6.1.4).
        if not 0 <= number < 2000:
            raise DERError("a CMCFailInfo that does not exist") from None
        return number


def read_add_extensions(reader: Reader) -> AddExtensions:
    fields = reader.enter()
    pki_data = read_body_part_id(fields)
    references = read_ids(fields.enter(), 0)
    added = extensions.decode_all(fields.enter())
    fields.finish()
    return AddExtensions(pki_data, references, added)


def read_encrypted_pop(reader: Reader) -> EncryptedPOP:
    fields = reader.enter()
    request, cms = read_raw(fields), fields.raw(der.SEQUENCE)
    pop, witness = read_algorithm(fields), read_algorithm(fields)
    value = fields.content(der.OCTET_STRING)
    fields.finish()
    return EncryptedPOP(request, cms, pop, witness, value)


def read_decrypted_pop(reader: Reader) -> DecryptedPOP:
    fields = reader.enter()
    found = DecryptedPOP(read_body_part_id(fields), read_algorithm(fields), fields.content(der.OCTET_STRING))
    fields.finish()
    return found


def read_lra_pop_witness(reader: Reader) -> LraPOPWitness:
    fields = reader.enter()
    found = LraPOPWitness(read_body_part_id(fields), read_ids(fields.enter(), 0))
    fields.finish()
    return found


def read_get_cert(reader: Reader) -> GetCert:
    fields = reader.enter()
    found = GetCert(read_general_name(fields), read_serial(fields))
    fields.finish()
    return found


def read_get_crl(reader: Reader) -> GetCRL:
    fields = reader.enter()
    issuer = names.read(fields.enter())
    name = read_general_name(fields) if fields.peek() & 0xC0 == 0x80 else None
    time = read_time(fields) if fields.peek() == der.GENERALIZED_TIME else None
    reasons = fields.named_bits(9) if fields.more() else None
    fields.finish()
    return GetCRL(issuer, name, time, reasons)


def read_revoke_request(reader: Reader) -> RevokeRequest:
    fields = reader.enter()
    issuer, serial = names.read(fields.enter()), read_serial(fields)
    reason = fields.content(0x0A)
    if len(reason) != 1 or reason[0] > 10 or reason[0] == 7:
        raise DERError("a CRLReason that does not exist")
    invalidity_date = read_time(fields) if fields.peek() == der.GENERALIZED_TIME else None
    passphrase = fields.content(der.OCTET_STRING) if fields.peek() == der.OCTET_STRING else None
    comment = read_text(fields) if fields.more() else None
    fields.finish()
    return RevokeRequest(issuer, serial, reason[0], invalidity_date, passphrase, comment)


def read_witness_v2(kind: type[Any]) -> Callable[[Reader], Any]:
    def read(reader: Reader) -> Any:
        fields = reader.enter()
        found = kind(read_algorithm(fields), read_algorithm(fields), fields.content(der.OCTET_STRING))
        fields.finish()
        return found

    return read


def read_confirmation(reader: Reader) -> ConfirmCertAcceptance:
    fields = reader.enter()
    found = ConfirmCertAcceptance(names.read(fields.enter()), read_serial(fields))
    fields.finish()
    return found


def read_trust_anchors(reader: Reader) -> PublishTrustAnchors:
    fields = reader.enter()
    found = PublishTrustAnchors(read_number(fields), read_algorithm(fields), read_hashes(fields.enter()))
    fields.finish()
    return found


def read_number(reader: Reader) -> int:
    number = reader.integer()
    if number.bit_length() > 8 * _MAX_NUMBER:
        raise DERError(f"an INTEGER of more than {_MAX_NUMBER} octets")
    return number


def read_publish_cert(reader: Reader) -> PublishCert:
    fields = reader.enter()
    algorithm, hashes = read_algorithm(fields), read_hashes(fields.enter())
    info = fields.enter()
    fields.finish()
    found = read_publication_info(info)
    info.finish()
    return PublishCert(algorithm, hashes, found)


def read_mod_cert_template(reader: Reader) -> ModCertTemplate:
    fields = reader.enter()
    pki_data, references = read_ids(fields.enter()), read_ids(fields.enter())
    replace = fields.boolean() if fields.peek() == der.BOOLEAN else True
    template = read_template(fields.enter())
    fields.finish()
    return ModCertTemplate(pki_data, references, template, replace)


def read_processed(reader: Reader) -> ControlsProcessed:
    fields = reader.enter()
    found = ControlsProcessed(read_references(fields.enter()))
    fields.finish()
    return found
