"""Controls of CMC (RFC 5272 section 6, with RFC 6402): one type for each.

Object identifiers are dotted, raw values are complete TLVs, times are Unix seconds, serial numbers are
big-endian without the DER sign octet. ``cmc_syntax`` reads and writes them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeAlias

import msgspec

from certloom.pki import crmf
from certloom.pki.crmf_mac import AlgorithmIdentifier
from certloom.pki.extensions import Extension
from certloom.pki.names import Name


class CMCStatus(IntEnum):
    """How a body part fared (section 6.1.3)."""

    success = 0
    failed = 2
    pending = 3
    noSupport = 4
    confirmRequired = 5
    popRequired = 6
    partial = 7


class CMCFailInfo(IntEnum):
    """Why it failed (section 6.1.4)."""

    badAlg = 0
    badMessageCheck = 1
    badRequest = 2
    badTime = 3
    badCertId = 4
    unsupportedExt = 5
    mustArchiveKeys = 6
    badIdentity = 7
    popRequired = 8
    popFailed = 9
    noKeyReuse = 10
    internalCAError = 11
    tryLater = 12
    authDataFail = 13


BodyPartReference: TypeAlias = int | tuple[int, ...]
"""A body part by its identifier, or by the path of identifiers to it through nested messages."""


class PendInfo(msgspec.Struct, frozen=True):
    """When to ask again, and for what."""

    token: bytes
    time: int


class ExtendedFailInfo(msgspec.Struct, frozen=True):
    """Why it failed, in somebody's own terms."""

    oid: str
    value: bytes


class CMCStatusInfo(msgspec.Struct, frozen=True):
    """Section 6.1.2."""

    status: CMCStatus
    body_parts: tuple[int, ...]
    text: str | None = None
    other: int | PendInfo | None = None
    """A ``CMCFailInfo`` or a private code, or when to ask again."""


class CMCStatusInfoV2(msgspec.Struct, frozen=True):
    """Section 6.1.1."""

    status: CMCStatus
    body_parts: tuple[BodyPartReference, ...]
    text: str | None = None
    other: int | PendInfo | ExtendedFailInfo | None = None
    """A ``CMCFailInfo`` or a private code, when to ask again, or another failure."""


class Identification(msgspec.Struct, frozen=True):
    """Which shared secret is meant (section 6.2.3)."""

    value: str


class IdentityProof(msgspec.Struct, frozen=True):
    """An HMAC with SHA-1 (section 6.2.2)."""

    witness: bytes


class IdentityProofV2(msgspec.Struct, frozen=True):
    """A MAC over the requests (section 6.2.1)."""

    hash_algorithm: AlgorithmIdentifier
    mac_algorithm: AlgorithmIdentifier
    witness: bytes


class DataReturn(msgspec.Struct, frozen=True):
    """What the response returns as it is (section 6.4)."""

    value: bytes


class TransactionID(msgspec.Struct, frozen=True):
    """Section 6.6."""

    value: int


class SenderNonce(msgspec.Struct, frozen=True):
    """Section 6.6."""

    value: bytes


class RecipientNonce(msgspec.Struct, frozen=True):
    """The sender nonce that is answered (section 6.6)."""

    value: bytes


class AddExtensions(msgspec.Struct, frozen=True):
    """Extensions that an RA adds (section 6.5.2)."""

    pki_data: int
    cert_references: tuple[int, ...]
    extensions: tuple[Extension, ...]


class EncryptedPOP(msgspec.Struct, frozen=True):
    """A challenge for a key that cannot sign (section 6.7)."""

    request: bytes
    """TaggedRequest."""
    cms: bytes
    """ContentInfo."""
    pop_algorithm: AlgorithmIdentifier
    witness_algorithm: AlgorithmIdentifier
    witness: bytes


class DecryptedPOP(msgspec.Struct, frozen=True):
    """The answer to the challenge (section 6.7)."""

    body_part_id: int
    pop_algorithm: AlgorithmIdentifier
    pop: bytes


class LraPOPWitness(msgspec.Struct, frozen=True):
    """An RA says that it has seen these proofs (section 6.8)."""

    pki_data: int
    body_parts: tuple[int, ...]


class GetCert(msgspec.Struct, frozen=True):
    """Section 6.9."""

    issuer: bytes
    """GeneralName."""
    serial: bytes


class GetCRL(msgspec.Struct, frozen=True):
    """Section 6.10."""

    issuer: Name
    name: bytes | None = None
    """GeneralName."""
    time: int | None = None
    reasons: int | None = None
    """Of ReasonFlags, bit 0 is the highest of 9."""


class RevokeRequest(msgspec.Struct, frozen=True):
    """Section 6.11."""

    issuer: Name
    serial: bytes
    reason: int
    """CRLReason (RFC 5280 section 5.3.1)."""
    invalidity_date: int | None = None
    passphrase: bytes | None = None
    comment: str | None = None


class RegInfo(msgspec.Struct, frozen=True):
    """Section 6.12."""

    value: bytes


class ResponseInfo(msgspec.Struct, frozen=True):
    """Section 6.12."""

    value: bytes


class QueryPending(msgspec.Struct, frozen=True):
    """Asks again (section 6.13)."""

    token: bytes


class PopLinkRandom(msgspec.Struct, frozen=True):
    """What the witnesses in the requests are MACs over (section 6.3.1.3)."""

    value: bytes


class PopLinkWitness(msgspec.Struct, frozen=True):
    """An HMAC with SHA-1 (section 6.3.1.2)."""

    witness: bytes


class PopLinkWitnessV2(msgspec.Struct, frozen=True):
    """Links the proof in a request to a shared secret (section 6.3.1.1)."""

    key_algorithm: AlgorithmIdentifier
    mac_algorithm: AlgorithmIdentifier
    witness: bytes


class ConfirmCertAcceptance(msgspec.Struct, frozen=True):
    """Section 6.14."""

    issuer: Name
    serial: bytes


class PublishTrustAnchors(msgspec.Struct, frozen=True):
    """Section 6.15."""

    number: int
    hash_algorithm: AlgorithmIdentifier
    hashes: tuple[bytes, ...]


class AuthPublish(msgspec.Struct, frozen=True):
    """Points to AuthenticatedData (section 6.16)."""

    body_part_id: int


class BatchRequests(msgspec.Struct, frozen=True):
    """Requests that an RA has gathered (section 6.17)."""

    body_parts: tuple[int, ...]


class BatchResponses(msgspec.Struct, frozen=True):
    """Their responses (section 6.17)."""

    body_parts: tuple[int, ...]


class PublishCert(msgspec.Struct, frozen=True):
    """CMCPublicationInfo (section 6.18)."""

    hash_algorithm: AlgorithmIdentifier
    hashes: tuple[bytes, ...]
    info: crmf.PKIPublicationInfo


class ModCertTemplate(msgspec.Struct, frozen=True):
    """Fields that an RA changes (section 6.5.1)."""

    pki_data: tuple[int, ...]
    cert_references: tuple[int, ...]
    template: crmf.CertTemplate
    replace: bool = True


class ControlsProcessed(msgspec.Struct, frozen=True):
    """Controls that an RA has dealt with (section 6.19)."""

    body_parts: tuple[BodyPartReference, ...]


class RAIdentityWitness(msgspec.Struct, frozen=True):
    """An RA has verified the proof of identity there (RFC 6402 section 2.9)."""

    path: tuple[int, ...]


class ResponseBody(msgspec.Struct, frozen=True):
    """The response is there (RFC 6402 section 2.10)."""

    path: tuple[int, ...]


class UnknownControl(msgspec.Struct, frozen=True):
    """A control that is not known here."""

    oid: str
    values: tuple[bytes, ...]


Control: TypeAlias = (
    CMCStatusInfo
    | CMCStatusInfoV2
    | Identification
    | IdentityProof
    | IdentityProofV2
    | DataReturn
    | TransactionID
    | SenderNonce
    | RecipientNonce
    | AddExtensions
    | EncryptedPOP
    | DecryptedPOP
    | LraPOPWitness
    | GetCert
    | GetCRL
    | RevokeRequest
    | RegInfo
    | ResponseInfo
    | QueryPending
    | PopLinkRandom
    | PopLinkWitness
    | PopLinkWitnessV2
    | ConfirmCertAcceptance
    | PublishTrustAnchors
    | AuthPublish
    | BatchRequests
    | BatchResponses
    | PublishCert
    | ModCertTemplate
    | ControlsProcessed
    | RAIdentityWitness
    | ResponseBody
    | UnknownControl
)
