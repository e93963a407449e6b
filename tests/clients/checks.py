"""What must be true of a certificate that a client got."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.clients.lab import environment, run

_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----\n?", re.DOTALL)

seen: dict[bytes, tuple[x509.Certificate, ...]] = {}
"""Every leaf checked in this session, by its DER, with the rest of its chain: linted at the end."""


@dataclass(frozen=True)
class Obtained:
    """A certificate as a client keeps it."""

    certificate: x509.Certificate
    chain: tuple[x509.Certificate, ...]
    """What the client stored above the leaf."""

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    def names(self) -> set[str]:
        """DNS names and addresses of the subjectAltName."""
        san = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return {*san.get_values_for_type(x509.DNSName), *map(str, san.get_values_for_type(x509.IPAddress))}


def check(roots: Path, chain: Path, key: Path | None, names: Sequence[str]) -> Obtained:
    """Check a chain file (leaf first) and the key the client made; ``AssertionError`` says what is wrong.

    OpenSSL must build the chain to ``roots`` and to nothing else, the names must be exactly ``names``, and
    the certificate must hold the public half of ``key``.
    """
    blocks = _PEM.findall(chain.read_bytes())
    assert blocks, f"no certificate in {chain}"
    certificates = tuple(x509.load_pem_x509_certificate(block) for block in blocks)
    leaf = certificates[0]
    with tempfile.TemporaryDirectory() as folder:
        leaf_file, rest_file = Path(folder, "leaf.pem"), Path(folder, "rest.pem")
        leaf_file.write_bytes(blocks[0])
        rest_file.write_bytes(b"".join(blocks[1:]) or blocks[0])
        trust = ["-no-CApath", "-no-CAstore", "-CAfile", str(roots), "-x509_strict", "-purpose", "sslserver"]
        run(
            ["openssl", "verify", *trust, "-untrusted", rest_file, leaf_file],
            env=environment(Path(folder)),
        )
    obtained = Obtained(leaf, certificates[1:])
    assert obtained.names() == set(names), f"asked for {sorted(names)}, got {sorted(obtained.names())}"
    if key is not None:
        # OpenSSL also reads the keys that GnuTLS writes, with a private value shorter than the field.
        public = run(["openssl", "pkey", "-in", key, "-pubout"], env=environment(key.parent))
        held = leaf.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        assert public.encode() == held, "the certificate holds another key than the client's"
    seen[leaf.public_bytes(Encoding.DER)] = certificates[1:]
    return obtained
