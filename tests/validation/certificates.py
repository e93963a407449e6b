"""Self-signed certificates, right and wrong ones, for servers in tests."""

from __future__ import annotations

import datetime
import hashlib
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.validation.lab import KEY_AUTHORIZATION

ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")


def acme_identifier(key_authorization: str = KEY_AUTHORIZATION) -> bytes:
    """The extension's value for a key authorization."""
    return b"\x04\x20" + hashlib.sha256(key_authorization.encode()).digest()


def server_context(
    *names: str,
    general_names: Sequence[x509.GeneralName] | None = None,
    extension: bytes | None = None,
    critical: bool = True,
    alpn: Sequence[str] = (),
) -> ssl.SSLContext:
    """A server's TLS context with a certificate made as told; no subjectAltName if there are no names."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "challenge")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
    )
    alternatives = [x509.DNSName(n) for n in names] if general_names is None else list(general_names)
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    if extension is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, extension), critical)
    certificate = builder.sign(key, hashes.SHA256())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "both.pem"
        path.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        context.load_cert_chain(path)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context
