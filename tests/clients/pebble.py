"""Pebble in place of Certloom: shows that the client drivers are right, and is a baseline of the bench."""

from __future__ import annotations

import datetime
import ipaddress
import json
import ssl
import urllib.request
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.clients.lab import ADDRESS, Lab, Program, environment, free_port, listening, wait_for
from tests.clients.target import EAB, Target

_KID, _HMAC = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


def self_signed(address: str, certificate: Path, key: Path) -> None:
    """Write a self-signed server certificate for an IP address, and its key."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test server")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


class Pebble:
    """One pebble process, with or without EAB."""

    def __init__(self, lab: Lab, folder: Path, *, eab: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port, management = free_port(), free_port()
        self._tls = folder / "tls.pem"
        self_signed(ADDRESS, self._tls, folder / "tls.key")
        settings = {
            "listenAddress": f"{ADDRESS}:{port}",
            "managementListenAddress": f"{ADDRESS}:{management}",
            "certificate": str(self._tls),
            "privateKey": str(folder / "tls.key"),
            "httpPort": lab.http_port,
            "tlsPort": lab.tls_port,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": eab,
            "externalAccountMACKeys": {_KID: _HMAC} if eab else {},
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        self.program = Program(
            ["pebble", "-config", folder / "pebble.json", "-dnsserver", lab.resolver],
            log=folder / "pebble.log",
            env=environment(folder, PEBBLE_VA_NOSLEEP="1", PEBBLE_WFE_NONCEREJECT="0"),
        )
        wait_for("pebble", lambda: self.program.check() and listening(port) and listening(management))
        context = ssl.create_default_context(cafile=str(self._tls))
        with urllib.request.urlopen(f"https://{ADDRESS}:{management}/roots/0", context=context) as answer:
            (folder / "root.pem").write_bytes(answer.read())
        self.target = Target(
            directory=f"https://{ADDRESS}:{port}/dir",
            tls_ca=self._tls,
            roots=folder / "root.pem",
            eab=EAB(_KID, _HMAC) if eab else None,
        )

    def stop(self) -> None:
        self.program.stop()
