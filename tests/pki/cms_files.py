"""What the tests of CMS are made of: keys with certificates, here and as files for openssl."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certloom.pki import keys
from certloom.pki.certificates import build_certificate
from certloom.pki.names import parse_name
from tests.pki.making import NOW, OPENSSL_KNOWS, YEAR, hierarchy, key, template

CONTENT = b"what is said \x00\x31" * 40


@lru_cache
def certificate(algorithm: str = "P-256") -> bytes:
    """The certificate of ``key(algorithm)``."""
    house = hierarchy()
    wanted = template(
        serial=hashlib.sha256(algorithm.encode()).digest()[:16],
        spki=keys.spki_of(key(algorithm)),
        subject=parse_name(f"CN={algorithm}"),
        not_before=NOW - 5 * YEAR,
        not_after=NOW + 10 * YEAR,
    )
    return build_certificate(wanted, house.issuer, house.issuer_key)


def lay_out(there: Path) -> Path:
    """Files for openssl: ``ALGORITHM.key``, ``ALGORITHM.pem``, ``ca.pem``, ``content``."""
    for algorithm in OPENSSL_KNOWS:
        pem = key(algorithm).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (there / f"{algorithm}.key").write_bytes(pem)
        loaded = x509.load_der_x509_certificate(certificate(algorithm))
        (there / f"{algorithm}.pem").write_bytes(loaded.public_bytes(Encoding.PEM))
    authorities = [hierarchy().issuer.certificate, hierarchy().root.certificate]
    pems = [x509.load_der_x509_certificate(c).public_bytes(Encoding.PEM) for c in authorities]
    (there / "ca.pem").write_bytes(b"".join(pems))
    (there / "content").write_bytes(CONTENT)
    return there
