"""Witnesses of CMC that are made of a shared secret (RFC 5272 sections 6.2 and 6.3).

These are what a witness must be; whoever verifies one compares it in constant time (``hmac.compare_digest``).
"""

from __future__ import annotations

import hashlib
import hmac

from certloom.pki.crmf_mac import HASHES, HMAC_SHA1, HMACS, HMACS_WITH_SHA1, SHA1
from certloom.protocols.est.cmc_controls import CMCFailInfo


class CMCError(ValueError):
    """This is not the CMC that was expected, or what it asks for cannot be done.

    ``code`` is ``too-large``, ``malformed``, ``bad-control``, ``too-many-body-parts``,
    ``reserved-body-part``, ``duplicate-body-part``, ``bad-request`` or ``unsupported-algorithm``.
    ``fail_info`` says the same in a response, about ``body_parts``: 0 is the whole message.
    """

    def __init__(
        self,
        code: str,
        message: str,
        fail_info: CMCFailInfo = CMCFailInfo.badRequest,
        body_parts: tuple[int, ...] = (0,),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.fail_info = fail_info
        self.body_parts = body_parts


def identity_proof_v2(
    secret: str,
    hash_oid: str,
    mac_oid: str,
    req_sequence: bytes,
    *,
    identification: str | None = None,
    allow_sha1: bool = False,
) -> bytes:
    """The witness of an IdentityProofV2 (section 6.2.1): a MAC over the reqSequence as it is encoded, keyed
    with the hash of the secret.

    Where the message has an Identification control, its value is hashed after the secret (section 6.2.3).
    RFC 5274 section 4.2 has SHA-1 mandatory; it takes ``allow_sha1`` here. Raises ``CMCError``.
    """
    data = secret.encode() + (identification or "").encode()
    return _mac(_hash(hash_oid, data, allow_sha1), mac_oid, req_sequence, allow_sha1)


def identity_proof(
    secret: str, req_sequence: bytes, *, identification: str | None = None, allow_sha1: bool = False
) -> bytes:
    """The witness of an IdentityProof (section 6.2.2), which is of SHA-1 always: raises ``CMCError`` unless
    ``allow_sha1``."""
    return identity_proof_v2(
        secret, SHA1, HMAC_SHA1, req_sequence, identification=identification, allow_sha1=allow_sha1
    )


def pop_link_witness_v2(
    secret: str, key_oid: str, mac_oid: str, random: bytes, *, allow_sha1: bool = False
) -> bytes:
    """The witness of a PopLinkWitnessV2 (section 6.3.1.1): a MAC over the value of the PopLinkRandom control,
    keyed with the hash of the secret. Raises ``CMCError``, also for keys that are not made by a hash."""
    return _mac(_hash(key_oid, secret.encode(), allow_sha1), mac_oid, random, allow_sha1)


def pop_link_witness(secret: str, random: bytes, *, allow_sha1: bool = False) -> bytes:
    """The witness of a PopLinkWitness (section 6.3.1.2), which is of SHA-1 always: raises ``CMCError`` unless
    ``allow_sha1``."""
    return pop_link_witness_v2(secret, SHA1, HMAC_SHA1, random, allow_sha1=allow_sha1)


def _hash(oid: str, data: bytes, allow_sha1: bool) -> bytes:
    if allow_sha1 and oid == SHA1:
        return hashlib.sha1(data, usedforsecurity=False).digest()
    if oid not in HASHES:
        raise CMCError("unsupported-algorithm", f"hash {oid} is not accepted", CMCFailInfo.badAlg)
    digest: bytes = HASHES[oid](data).digest()
    return digest


def _mac(key: bytes, oid: str, data: bytes, allow_sha1: bool) -> bytes:
    function = HMACS.get(oid) or (HMACS_WITH_SHA1.get(oid) if allow_sha1 else None)
    if function is None:
        raise CMCError("unsupported-algorithm", f"MAC {oid} is not accepted", CMCFailInfo.badAlg)
    return hmac.digest(key, data, function)
