"""/serverkeygen (RFC 7030 section 4.4): a key that is made here, for who cannot make a good one.

The request's key and signature mean nothing, except that the key tells which kind is wanted, and whether the
request is a repeat. The private key leaves inside TLS as it is, or, where the client names a key of its own
for that, encrypted to it: the package signed by the registration authority, inside EnvelopedData (section
4.4.2). Asked once more soon after, the same key is given once more; then it is wiped
(``enrollment.server_keys``).
"""

from __future__ import annotations

import hashlib

import msgspec

from certloom.enrollment.errors import EnrollmentError
from certloom.identity.kinds import EST_KEY
from certloom.pki import der, envelopes
from certloom.pki.certificates import CertificateFacts
from certloom.pki.cms import CMSError
from certloom.pki.containers import certs_only
from certloom.pki.csr import CertificateRequest, CSRError
from certloom.pki.envelopes import KeyEncryptionKey, Recipient
from certloom.pki.keys import private_to_der
from certloom.policy.channels import ESTChannel
from certloom.policy.profiles import Profile
from certloom.protocols.est import messages
from certloom.protocols.est.authentication import Authenticated
from certloom.protocols.est.enrolling import ask_of, check_binding, first, read_csr, waiting
from certloom.protocols.est.exchange import Answer, Call
from certloom.protocols.est.problems import ESTProblem, of_enrollment, unauthorized
from certloom.protocols.est.service import ESTService
from certloom.protocols.est.transactions import issued, key_of
from certloom.store.base import Tx
from certloom.store.requests import EnrolmentRequest

DECRYPT_KEY_ID = "1.2.840.113549.1.9.16.2.37"
"""id-aa-decryptKeyID: a symmetric key (section 4.4.1.1)."""
ASYMMETRIC_DECRYPT_KEY_ID = "1.2.840.113549.1.9.16.2.54"
"""id-aa-asymmDecryptKeyID (section 4.4.1.2)."""
_SMIME_CAPABILITIES = "1.2.840.113549.1.9.15"
_ASYMMETRIC_KEY_PACKAGE = "2.16.840.1.101.2.1.2.78.5"
_SIGNED_DATA = "1.2.840.113549.1.7.2"
_CIPHERS = {
    "2.16.840.1.101.3.4.1.42": "aes-256-cbc",
    "2.16.840.1.101.3.4.1.22": "aes-192-cbc",
    "2.16.840.1.101.3.4.1.2": "aes-128-cbc",
}
"""The best first."""


class _Wrapping(msgspec.Struct, frozen=True):
    """How a key leaves encrypted."""

    recipient: Recipient
    cipher: str


async def server_keygen(service: ESTService, call: Call) -> Answer:
    """A certificate and the private key to it."""
    who = await service.authenticate(call.channel, call.peer)
    csr = read_csr(call.body, verify=False)
    check_binding(call.channel, call.peer, csr)
    profile = service.profile(call.channel)
    wrapping = await _wrapping(service, call.channel, who, csr)
    wanted = first(call.channel, who, csr)
    ask = ask_of(call, who, wanted)
    key = key_of(ask, call.operation)
    outcome = await service.transactions.known(call.channel, key)
    if outcome is None:
        if who.credential is not None and who.credential.spent:
            raise unauthorized("the password or token has been used up", counted=False)
        try:
            made = await service.server_keys.make(
                profile, _algorithm(profile, csr), csr.subject, wanted.identifiers
            )
        except EnrollmentError as error:
            raise of_enrollment(error) from error

        def keep(tx: Tx, request: EnrolmentRequest) -> None:
            service.server_keys.keep(tx, request.id, request.certificate_id, made)

        ask = msgspec.structs.replace(ask, csr=made.request)
        outcome = await service.transactions.submit(call.channel, key, ask, who.credential, keep)
    certificate = issued(call.channel, outcome)
    if certificate is None:
        return waiting(call)
    id, origin = outcome.request.id, call.origin(who.requester)
    try:
        private = await service.store.write(lambda tx: service.server_keys.open(tx, id, origin))
    except EnrollmentError as error:
        raise of_enrollment(error) from error
    package = private_to_der(private)
    if wrapping is None:
        first_part = (messages.PKCS8, package)
    else:
        wrapped = await _wrapped(service, profile.authority, package, wrapping)
        first_part = (messages.SERVER_GENERATED_KEY, wrapped)
    second_part = (messages.CERTS_ONLY, certs_only((certificate.der,)))
    type, body = messages.multipart((first_part, second_part), folded=call.folded)
    return Answer(body, type)


def _algorithm(profile: Profile, csr: CertificateRequest) -> str:
    """The kind of key that the request has, if the profile lets such be made, else the profile's first."""
    allowed = profile.server_keys.algorithms
    return csr.key.key_type if csr.key.key_type in allowed or not allowed else allowed[0]


async def _wrapping(
    service: ESTService, channel: ESTChannel, who: Authenticated, csr: CertificateRequest
) -> _Wrapping | None:
    """How the key is to be encrypted; None where it is not. Raises ``ESTProblem``, before anything is
    made."""
    try:
        symmetric = _octets(csr, DECRYPT_KEY_ID)
        asymmetric = _octets(csr, ASYMMETRIC_DECRYPT_KEY_ID)
        cipher = _cipher(csr)
    except CSRError as error:
        raise ESTProblem(400, str(error)) from None
    if symmetric is not None and asymmetric is not None:
        raise ESTProblem(400, "the request names two keys to encrypt to (RFC 7030 section 4.4.1)")
    if symmetric is not None:
        return _Wrapping(await _shared_key(service, channel, symmetric), cipher)
    if asymmetric is not None or channel.encrypt_keys:
        return _Wrapping(_certified_key(who, asymmetric), cipher)
    return None


def _octets(csr: CertificateRequest, oid: str) -> bytes | None:
    values = csr.attribute(oid)
    if values is None:
        return None
    reader = der.Reader(values)
    try:
        octets = reader.content(der.OCTET_STRING)
        reader.finish()
    except der.DERError as error:
        raise CSRError("malformed-csr", f"the attribute {oid}: {error}") from None
    return octets


def _cipher(csr: CertificateRequest) -> str:
    """The best that the request's SMIMECapabilities (RFC 8551 section 2.5.2) and we have in common."""
    values = csr.attribute(_SMIME_CAPABILITIES)
    if values is None:
        return "aes-256-cbc"
    known: set[str] = set()
    try:
        reader = der.whole(values)
        while reader.more():
            known.add(reader.enter().oid())
    except der.DERError as error:
        raise CSRError("malformed-csr", f"the SMIMECapabilities attribute: {error}") from None
    for oid, name in _CIPHERS.items():
        if oid in known:
            return name
    raise CSRError("malformed-csr", "the request takes none of AES-256, AES-192 and AES-128 in CBC mode")


async def _shared_key(service: ESTService, channel: ESTChannel, identifier: bytes) -> KeyEncryptionKey:
    """The key that is registered under this name."""
    name = identifier.decode("ascii", "replace")
    found = await service.store.read(lambda tx: service.credentials.mac_keys(tx, EST_KEY, channel.name, name))
    if found is None:
        raise ESTProblem(400, "the request names a key to encrypt to that is not known here")
    return KeyEncryptionKey(identifier, found[1][0])


def _certified_key(who: Authenticated, identifier: bytes | None) -> Recipient:
    """The key in the client's TLS certificate, if the request names that, or none."""
    held = who.certificate
    if held is None:
        raise ESTProblem(400, "keys leave encrypted: to a client certificate, or a key that is named")
    if identifier is not None and identifier not in _names_of(held.facts):
        raise ESTProblem(400, "the request names another key to encrypt to than the client certificate's")
    try:
        recipient = envelopes.recipient_for(held.facts.der)
    except CMSError as error:
        raise ESTProblem(400, f"nothing can be encrypted to the client certificate: {error}") from None
    needed = "keyEncipherment" if isinstance(recipient, envelopes.KeyTransport) else "keyAgreement"
    if held.facts.key_usage and needed not in held.facts.key_usage:
        raise ESTProblem(400, f"the client certificate cannot be encrypted to: key usage lacks {needed}")
    return recipient


def _names_of(facts: CertificateFacts) -> set[bytes]:
    """What a key may be called: its key identifier, as the certificate has it or as hashes make it."""
    reader = der.whole(facts.spki)
    reader.enter()
    bits = reader.bit_string()
    names = {
        hashlib.sha1(bits, usedforsecurity=False).digest(),
        hashlib.sha256(bits).digest(),
        hashlib.sha256(facts.spki).digest(),
        facts.sha256,
    }
    return names if facts.key_identifier is None else names | {facts.key_identifier}


async def _wrapped(service: ESTService, authority: str, package: bytes, wrapping: _Wrapping) -> bytes:
    """SignedData over an AsymmetricKeyPackage (RFC 5958 section 2), inside EnvelopedData."""
    signed = await service.signer.sign(authority, _ASYMMETRIC_KEY_PACKAGE, der.sequence(package), bare=True)
    return envelopes.encrypt(_SIGNED_DATA, signed, (wrapping.recipient,), wrapping.cipher)
