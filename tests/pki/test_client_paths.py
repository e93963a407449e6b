"""Which certificates of strangers lead to an anchor; OpenSSL has the second opinion."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from certloom.pki.client_paths import find_client_path
from certloom.pki.paths import PathError
from certloom.pki.pem import to_pem
from tests.strangers import installed

NOW = 1_790_000_000
DAY = 86_400
Build = Callable[[x509.CertificateBuilder], x509.CertificateBuilder]
CLIENT = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")
SERVER = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.1")


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])


class CA:
    """A CA with the extensions it was given."""

    def __init__(
        self, called: str, above: CA | None = None, more: Build | None = None, path: int | None = None
    ) -> None:
        self.name = name(called)
        self.key = ec.generate_private_key(ec.SECP256R1())
        builder = start(self.name, (above or self).name, self.key.public_key(), -1000, 1000)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path), critical=True)
        builder = builder.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
        )
        self.certificate = (more(builder) if more else builder).sign((above or self).key, hashes.SHA256())

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    def leaf(
        self, more: Build | None = None, begin: int = -10, end: int = 10, called: str = "device"
    ) -> bytes:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = start(name(called), self.name, key.public_key(), begin, end)
        return (more(builder) if more else builder).sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)


def start(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, begin: int, end: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begin))
        .not_valid_after(now + datetime.timedelta(days=end))
    )


def usage(*bits: str) -> Build:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    value = x509.KeyUsage(**{bit: bit in bits for bit in every})
    return lambda builder: builder.add_extension(value, critical=True)


def purpose(oid: x509.ObjectIdentifier) -> Build:
    return lambda builder: builder.add_extension(x509.ExtendedKeyUsage([oid]), critical=False)


def unknown(critical: bool) -> Build:
    extension = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    return lambda builder: builder.add_extension(extension, critical=critical)


def leads(leaf: bytes, sent: tuple[bytes, ...], anchors: tuple[bytes, ...], grace: int = 0) -> bool:
    try:
        find_client_path(leaf, sent, anchors, NOW, grace=grace)
    except PathError:
        return False
    return True


def openssl_says(folder: Path, leaf: bytes, sent: tuple[bytes, ...], anchors: tuple[bytes, ...]) -> bool:
    for file, certificates in (("leaf", (leaf,)), ("sent", sent), ("anchors", anchors)):
        (folder / f"{file}.pem").write_bytes(b"".join(map(to_pem, certificates)))
    command = [
        *installed("openssl"), "verify", "-no-CApath", "-no-CAstore", "-partial_chain",
        "-purpose", "sslclient", "-attime", str(NOW), "-CAfile", folder / "anchors.pem",
    ]  # fmt: skip
    if sent:
        command += ["-untrusted", folder / "sent.pem"]
    done = subprocess.run([*map(str, command), str(folder / "leaf.pem")], capture_output=True, check=False)
    return done.returncode == 0


root = CA("Root")
middle = CA("Middle", root)
lower = CA("Lower", middle)
short = CA("Short", root, path=0)
below_short = CA("Below", short)
other = CA("Root")  # of the same name, with another key
constrained = CA(
    "Constrained",
    root,
    lambda builder: builder.add_extension(
        x509.NameConstraints([x509.DNSName("plant.example")], None), critical=True
    ),
)


def dns(text: str) -> Build:
    return lambda builder: builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName(text)]), critical=False
    )


CASES: dict[str, tuple[bytes, tuple[bytes, ...], tuple[bytes, ...], bool]] = {
    "straight": (root.leaf(), (), (root.der,), True),
    "through what was sent": (lower.leaf(), (lower.der, middle.der), (root.der,), True),
    "in another order, with more": (lower.leaf(), (other.der, middle.der, lower.der), (root.der,), True),
    "to an intermediate": (lower.leaf(), (lower.der,), (middle.der,), True),
    "without what is between": (lower.leaf(), (lower.der,), (root.der,), False),
    "to another of that name": (root.leaf(), (), (other.der,), False),
    "self-signed and sent along": (other.leaf(), (other.der,), (root.der,), False),
    "expired": (root.leaf(begin=-20, end=-1), (), (root.der,), False),
    "not yet": (root.leaf(begin=1, end=2), (), (root.der,), False),
    "for clients": (root.leaf(purpose(CLIENT)), (), (root.der,), True),
    "for servers": (root.leaf(purpose(SERVER)), (), (root.der,), False),
    "key usage": (root.leaf(usage("digital_signature")), (), (root.der,), True),
    "another key usage": (root.leaf(usage("key_encipherment")), (), (root.der,), False),
    "an unknown extension": (root.leaf(unknown(False)), (), (root.der,), True),
    "an unknown critical extension": (root.leaf(unknown(True)), (), (root.der,), False),
    "path length": (short.leaf(), (short.der,), (root.der,), True),
    "beyond the path length": (below_short.leaf(), (below_short.der, short.der), (root.der,), False),
    "within name constraints": (
        constrained.leaf(dns("a.plant.example")),
        (constrained.der,),
        (root.der,),
        True,
    ),
    "outside name constraints": (
        constrained.leaf(dns("a.other.example")),
        (constrained.der,),
        (root.der,),
        False,
    ),
    "no anchors": (root.leaf(), (root.der,), (), False),
}


@pytest.mark.parametrize("case", CASES)
def test_paths_that_lead_and_paths_that_do_not(case: str, tmp_path: Path) -> None:
    leaf, sent, anchors, good = CASES[case]
    assert leads(leaf, sent, anchors) is good
    if case != "another key usage" and anchors:
        # OpenSSL lets a key for encipherment be a TLS client's, which in TLS 1.3 it cannot be.
        assert openssl_says(tmp_path, leaf, sent, anchors) is good


def test_a_ca_is_no_client() -> None:
    assert not leads(middle.der, (), (root.der,))


def test_grace_is_for_the_clients_own_certificate_alone() -> None:
    leaf = root.leaf(begin=-20, end=-5)
    assert leads(leaf, (), (root.der,), grace=6 * DAY)
    assert not leads(leaf, (), (root.der,), grace=4 * DAY)


def test_garbage_is_no_path() -> None:
    for junk in (b"", b"\x30\x00", root.leaf()[:-5]):
        assert not leads(junk, (), (root.der,))
    # Nor does garbage that is sent along stand in the way, or do any harm.
    assert leads(lower.leaf(), (b"\x30\x00", b"junk", lower.der, middle.der), (root.der,))
    assert not leads(lower.leaf(), (b"\x30\x00", b"junk"), (root.der,))


def test_circles_end() -> None:
    # Two CAs that certify each other, and nobody who is trusted.
    one, two = CA("One"), CA("Two")
    first = start(one.name, two.name, one.key.public_key(), -5, 5)
    second = start(two.name, one.name, two.key.public_key(), -5, 5)
    circle = tuple(
        builder.add_extension(x509.BasicConstraints(True, None), critical=True)
        .sign(by.key, hashes.SHA256())
        .public_bytes(Encoding.DER)
        for builder, by in ((first, two), (second, one))
    )
    assert not leads(one.leaf(), circle, (root.der,))
