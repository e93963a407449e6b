"""A profile, and certificates by it, for tests that need some."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certloom.audit import SYSTEM
from certloom.enrollment.asks import Ask
from certloom.pki.csr import parse_csr
from certloom.pki.identifiers import parse_dns
from certloom.policy.decisions import Requester
from certloom.server.rooms import Rooms
from certloom.store.requests import EnrolmentRequest

WEB = {
    "name": "web",
    "authority": "issuing",
    "keys": [{"type": "ec"}],
    "names": {"types": ["dns"], "dns": {"allow": ["**.corp.example"]}},
    "extended_key_usage": ["serverAuth"],
    "validity": {"default": "30d"},
    "lint": {"mode": "off"},
}


async def enrol(rooms: Rooms, name: str, profile: str = "web") -> EnrolmentRequest:
    """Ask the pipeline for a certificate, as a protocol would."""
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    return await rooms.enrollment.submit(
        Ask(
            protocol="test",
            channel="test",
            profile=profile,
            requester=Requester("system", "test"),
            csr=parse_csr(csr),
            identifiers=(parse_dns(name),),
            origin=SYSTEM,
        )
    )
