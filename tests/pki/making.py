"""What the tests of this room are made of: requests, a small hierarchy, and the openssl command."""

from __future__ import annotations

import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from certloom.pki import ca, keys
from certloom.pki.certificates import IssuerFacts, issuer_facts
from certloom.pki.identifiers import Identifier, parse_dns
from certloom.pki.keys import PrivateKey
from certloom.pki.names import Name, parse_name
from certloom.pki.template import CertificateTemplate

NOW = 1_800_000_000
YEAR = 365 * 86400
SIGNING_ALGORITHMS = (
    "rsa-2048",
    "P-256",
    "P-384",
    "P-521",
    "ed25519",
    "ed448",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
)
OPENSSL_KNOWS = ("rsa-2048", "P-256", "P-384", "P-521", "ed25519", "ed448")
"""ML-DSA came to OpenSSL with 3.5, later than what the tests may find installed."""


_generated = lru_cache(keys.generate)


def key(algorithm: str = "P-256") -> PrivateKey:
    """One key per algorithm, made once."""
    return _generated(algorithm)


class Hierarchy(NamedTuple):
    root: IssuerFacts
    root_key: PrivateKey
    issuer: IssuerFacts
    issuer_key: PrivateKey


def hierarchy(algorithm: str = "P-256") -> Hierarchy:
    """A root and an issuing CA with keys of this algorithm, made once."""
    return _hierarchy(algorithm)


@lru_cache
def _hierarchy(algorithm: str) -> Hierarchy:
    root_key, issuer_key = keys.generate(algorithm), keys.generate(algorithm)
    root = issuer_facts(
        ca.make_root(
            root_key,
            subject=parse_name("CN=Test Root,O=Test"),
            serial=b"\x01",
            not_before=NOW - YEAR,
            not_after=NOW + 20 * YEAR,
        )
    )
    issuing = ca.make_ca(
        issuer_key.public_key(),
        root,
        root_key,
        subject=parse_name("CN=Test Issuing CA,O=Test"),
        serial=b"\xfe" * 16,
        not_before=NOW - YEAR,
        not_after=NOW + 10 * YEAR,
        crl_url="http://ca.test/root.crl",
        issuer_url="http://ca.test/root.cer",
    )
    return Hierarchy(root, root_key, issuer_facts(issuing), issuer_key)


def template(**changes: Any) -> CertificateTemplate:
    """The certificate of a web server, but for what is given."""
    fields: dict[str, Any] = {
        "serial": bytes.fromhex("00c0ffee00000000000000000000000001")[1:],
        "spki": keys.spki_of(key()),
        "subject": Name(),
        "identifiers": dns("www.example.com"),
        "not_before": NOW,
        "not_after": NOW + 90 * 86400 - 1,
        "key_usage": ("digitalSignature",),
        "extended_key_usage": ("1.3.6.1.5.5.7.3.1",),
        "crl_url": "http://ca.test/crl/1/7.crl",
        "issuer_url": "http://ca.test/ca/1.cer",
    }
    return CertificateTemplate(**(fields | changes))


def dns(*names: str) -> tuple[Identifier, ...]:
    return tuple(map(parse_dns, names))


def csr_builder(*dns_names: str, common_name: str | None = None) -> x509.CertificateSigningRequestBuilder:
    """A builder of ``cryptography``'s with these names in it."""
    attributes = [] if common_name is None else [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if dns_names:
        san = x509.SubjectAlternativeName([x509.DNSName(name) for name in dns_names])
        builder = builder.add_extension(san, critical=False)
    return builder


def csr(algorithm: str = "P-256", *dns_names: str) -> bytes:
    """A request for these names (or for www.example.com) by a key of this algorithm."""
    digest = hashes.SHA256() if algorithm[:1] in "rP" else None
    request = csr_builder(*(dns_names or ("www.example.com",))).sign(key(algorithm), digest)
    return request.public_bytes(Encoding.DER)


def openssl(*arguments: str | Path, stdin: bytes = b"") -> str:
    """What the openssl command prints; it must succeed."""
    done = subprocess.run(["openssl", *map(str, arguments)], input=stdin, capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode() + done.stderr.decode()
