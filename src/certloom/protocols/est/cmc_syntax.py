"""How the controls of CMC (RFC 5272 section 6, with RFC 6402) stand in DER.

What is read raises ``der.DERError``, ``names.BadName`` and ``crmf.CRMFError``; what is written, the first
two, for values that have no encoding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from certloom.pki import crmf, der, extensions, names
from certloom.pki.crmf_controls import encode_publication_info
from certloom.pki.crmf_mac import AlgorithmIdentifier
from certloom.pki.der import DERError, Reader
from certloom.pki.extensions import Extension
from certloom.protocols.est.cmc_controls import (
    AddExtensions,
    AuthPublish,
    BatchRequests,
    BatchResponses,
    BodyPartReference,
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
from certloom.protocols.est.cmc_reading import (
    read_add_extensions,
    read_body_part_id,
    read_confirmation,
    read_decrypted_pop,
    read_encrypted_pop,
    read_get_cert,
    read_get_crl,
    read_ids,
    read_lra_pop_witness,
    read_mod_cert_template,
    read_number,
    read_processed,
    read_publish_cert,
    read_revoke_request,
    read_status,
    read_text,
    read_trust_anchors,
    read_witness_v2,
)

ID_CMC = "1.3.6.1.5.5.7.7"


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
        arc, lambda reader: kind(read_ids(reader.enter())), lambda control: _ids(getattr(control, field))
    )


_FORMS: dict[type[Any], _Form] = {
    CMCStatusInfo: _form(1, read_status(1), _status),
    Identification: _form(2, lambda r: Identification(read_text(r)), lambda c: _text(c.value)),
    IdentityProof: _octets_form(3, IdentityProof, "witness"),
    DataReturn: _octets_form(4, DataReturn),
    TransactionID: _form(5, lambda r: TransactionID(read_number(r)), lambda c: der.integer(c.value)),
    SenderNonce: _octets_form(6, SenderNonce),
    RecipientNonce: _octets_form(7, RecipientNonce),
    AddExtensions: _form(
        8,
        read_add_extensions,
        lambda c: der.sequence(der.integer(c.pki_data), _ids(c.cert_references), _extensions(c.extensions)),
    ),
    EncryptedPOP: _form(
        9,
        read_encrypted_pop,
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
        read_decrypted_pop,
        lambda c: der.sequence(
            der.integer(c.body_part_id), c.pop_algorithm.encode(), der.octet_string(c.pop)
        ),
    ),
    LraPOPWitness: _form(
        11, read_lra_pop_witness, lambda c: der.sequence(der.integer(c.pki_data), _ids(c.body_parts))
    ),
    GetCert: _form(15, read_get_cert, lambda c: der.sequence(c.issuer, der.unsigned(c.serial))),
    GetCRL: _form(
        16,
        read_get_crl,
        lambda c: der.sequence(
            names.encode(c.issuer),
            c.name or b"",
            _time(c.time),
            b"" if c.reasons is None else der.named_bits(c.reasons, 9),
        ),
    ),
    RevokeRequest: _form(
        17,
        read_revoke_request,
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
        24, read_confirmation, lambda c: der.sequence(names.encode(c.issuer), der.unsigned(c.serial))
    ),
    CMCStatusInfoV2: _form(25, read_status(2), _status),
    PublishTrustAnchors: _form(
        26,
        read_trust_anchors,
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
        read_publish_cert,
        lambda c: der.sequence(
            c.hash_algorithm.encode(),
            der.sequence(*map(der.octet_string, c.hashes)),
            encode_publication_info(c.info),
        ),
    ),
    ModCertTemplate: _form(
        31,
        read_mod_cert_template,
        lambda c: der.sequence(
            _ids(c.pki_data),
            _ids(c.cert_references),
            b"" if c.replace else b"\x01\x01\x00",
            crmf.encode_template(c.template),
        ),
    ),
    ControlsProcessed: _form(
        32,
        read_processed,
        lambda c: der.sequence(_references(c.body_parts)),
    ),
    PopLinkWitnessV2: _form(
        33,
        read_witness_v2(PopLinkWitnessV2),
        lambda c: _witness_v2(c.key_algorithm, c.mac_algorithm, c.witness),
    ),
    IdentityProofV2: _form(
        34,
        read_witness_v2(IdentityProofV2),
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
