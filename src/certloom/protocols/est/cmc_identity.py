"""Who sent a full PKI request (RFC 5272 sections 3.2 and 6.2).

The message is signed: with a certificate that counts on this channel, or with the very key that one of its
requests wants certified. The second says nothing of who that is: then a shared secret does (IdentityProofV2
with Identification), or what the client shows of itself to HTTP and TLS.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec

from certloom.identity.credentials import PresentedCredential
from certloom.identity.kinds import CMC_SECRET
from certloom.pki import cms, crmf, der
from certloom.pki.certificates import CertificateError, key_identifier, parse_certificate
from certloom.pki.cms import CMSError, SignedData, SignerInfo
from certloom.pki.csr import CSRError, parse_csr
from certloom.protocols.est.authentication import Authenticated, Peer
from certloom.protocols.est.cmc_controls import (
    CMCFailInfo,
    Identification,
    IdentityProof,
    IdentityProofV2,
    PopLinkRandom,
    PopLinkWitness,
    PopLinkWitnessV2,
)
from certloom.protocols.est.cmc_messages import (
    CMCError,
    CRMRequest,
    PKIData,
    TCRRequest,
    identity_proof_v2,
    pop_link_of_crm,
    pop_link_of_tcr,
    pop_link_witness_v2,
)
from certloom.protocols.est.exchange import Call
from certloom.protocols.est.problems import ESTProblem
from certloom.protocols.est.service import ESTService

_MOST_SIGNERS = 4


class Sender(msgspec.Struct, frozen=True):
    """Who signed a message, before it is asked whether that counts."""

    certificate: bytes | None
    """DER; None where one of the requests' own keys signed."""
    chain: tuple[bytes, ...]


def verify_sender(signed: SignedData, data: PKIData) -> Sender:
    """Verify every signature of a message. Raises ``CMCError`` (badMessageCheck)."""
    if not 1 <= len(signed.signers) <= _MOST_SIGNERS:
        raise _unsigned(f"the message is not signed by one to {_MOST_SIGNERS} (RFC 5272 section 3.2)")
    found: Sender | None = None
    for signer in signed.signers:
        certificate = cms.find_signer_certificate(signed, signer)
        try:
            if certificate is not None:
                spki = parse_certificate(certificate).spki
            else:
                spki = _requested_key(signer, data)
            cms.verify_signer(signed, signer, spki)
        except (CMSError, CertificateError) as error:
            raise _unsigned(str(error)) from None
        if found is None or found.certificate is None:
            others = tuple(c for c in signed.certificates if c != certificate)
            found = Sender(certificate, others)
    assert found is not None
    return found


def _unsigned(why: str) -> CMCError:
    return CMCError("bad-signature", why, CMCFailInfo.badMessageCheck)


def _requested_key(signer: SignerInfo, data: PKIData) -> bytes:
    """The key of the request that the signer names by its key identifier (section 4.1 of RFC 6402)."""
    for request in data.requests:
        spki = _spki(request.der) if isinstance(request, TCRRequest) else b""
        if isinstance(request, CRMRequest):
            try:
                spki = crmf.decode_cert_req_msg(request.der).request.template.public_key or b""
            except crmf.CRMFError:
                continue
        if spki and signer.signer.key_identifier in _identifiers(spki):
            return spki
    raise _unsigned("the signer's certificate is not in the message, nor is its key among the requests'")


def _spki(request: bytes) -> bytes:
    try:
        return parse_csr(request, verify=False).key.spki
    except CSRError:
        return b""


def _identifiers(spki: bytes) -> tuple[bytes, bytes]:
    """What a key's identifier may be (RFC 5280 section 4.2.1.2 method 1, RFC 7093 section 2 method 1)."""
    reader = der.whole(spki)
    reader.enter()
    return hashlib.sha1(reader.bit_string(), usedforsecurity=False).digest(), key_identifier(spki)


async def identify(
    service: ESTService, call: Call, data: PKIData, sender: Sender, outer: Authenticated | None
) -> Authenticated:
    """Who asks: by the signer's certificate, by a shared secret, or as HTTP and TLS know them; within a
    batch, the registration authority that vouches for it. Raises ``CMCError`` (badIdentity)."""
    proven = await _proven(service, call, data)
    linked = any(isinstance(tagged.control, PopLinkRandom) for tagged in data.controls)
    if proven is None and (linked or _has_proof(data)):
        service.count_failure(call.peer)
        raise CMCError("bad-identity", "the proof of identity is not good here", CMCFailInfo.badIdentity)
    peer = call.peer if outer is None else Peer(address=call.peer.address)
    problem: ESTProblem | None = None
    if sender.certificate is not None:
        signing = msgspec.structs.replace(peer, certificate=sender.certificate, chain=sender.chain)
        try:
            return await service.authenticate(call.channel, signing, renewal=True, proven=proven)
        except ESTProblem as error:
            problem = error
    try:
        return await service.authenticate(call.channel, peer, renewal=True, proven=proven)
    except ESTProblem as error:
        if outer is not None:
            return outer
        why = problem or error
        raise CMCError("bad-identity", why.detail, CMCFailInfo.badIdentity) from None


def _has_proof(data: PKIData) -> bool:
    return any(isinstance(tagged.control, IdentityProof | IdentityProofV2) for tagged in data.controls)


async def _proven(service: ESTService, call: Call, data: PKIData) -> PresentedCredential | None:
    """The credential whose secret the message proves to know (section 6.2.1). Raises ``CMCError``."""
    name = proof = None
    for tagged in data.controls:
        if isinstance(tagged.control, Identification):
            name = tagged.control.value
        elif isinstance(tagged.control, IdentityProofV2):
            proof = tagged.control
        elif isinstance(tagged.control, IdentityProof):
            raise CMCError(
                "unsupported-algorithm",
                "IdentityProof is made with SHA-1: send IdentityProofV2",
                CMCFailInfo.badAlg,
                (tagged.body_part_id,),
            )
    if proof is None:
        return None
    service.check_failures(call.peer)
    if name is None:
        raise CMCError("bad-identity", "a proof of identity without Identification", CMCFailInfo.badIdentity)
    found = await service.store.read(
        lambda tx: service.credentials.mac_keys(tx, CMC_SECRET, call.channel.name, name, spent=True)
    )
    credential, secrets = found or (None, (b"",))
    hash, mac = proof.hash_algorithm.oid, proof.mac_algorithm.oid
    good = None
    for secret in secrets:
        # Also for a name that is not known, so that the time does not tell.
        witness = identity_proof_v2(secret.decode(), hash, mac, data.req_sequence, identification=name)
        if hmac.compare_digest(witness, proof.witness):
            good = secret.decode()
    if credential is None or good is None:
        return None
    _check_links(data, good)
    return credential


def _check_links(data: PKIData, secret: str) -> None:
    """Raise ``CMCError`` (popFailed) unless each request is linked to the shared secret, where the message
    says that they are (section 6.3)."""
    random = next((t.control.value for t in data.controls if isinstance(t.control, PopLinkRandom)), None)
    if random is None:
        return
    for request in data.requests:
        link: PopLinkWitness | PopLinkWitnessV2 | None = None
        if isinstance(request, TCRRequest):
            link = pop_link_of_tcr(request)
        elif isinstance(request, CRMRequest):
            try:
                link = pop_link_of_crm(crmf.decode_cert_req_msg(request.der))
            except crmf.CRMFError as error:
                raise CMCError("bad-request", str(error), body_parts=(request.body_part_id,)) from None
        good = False
        if isinstance(link, PopLinkWitnessV2):
            witness = pop_link_witness_v2(secret, link.key_algorithm.oid, link.mac_algorithm.oid, random)
            good = hmac.compare_digest(witness, link.witness)
        if not good:
            raise CMCError(
                "bad-request",
                "the request is not linked to the shared secret (PopLinkWitnessV2)",
                CMCFailInfo.popFailed,
                (request.body_part_id,),
            )
