"""A Certloom that serves EST, and what strangers' EST clients have in common."""

from __future__ import annotations

import base64
import subprocess
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from tests.clients.lab import ADDRESS, Lab, environment, free_port, run
from tests.clients.test_approvals import MovableCertloom

DEVICE = {
    "name": "device",
    "authority": "issuing",
    "keys": [{"type": "ec"}, {"type": "rsa"}, {"type": "ed25519"}, {"type": "ml-dsa-65"}],
    "subject": [{"type": "O", "value": "{csr.O}"}, {"type": "CN", "value": "{csr.CN}"}],
    "names": {"types": ["dns"], "required": False},
    "extended_key_usage": ["clientAuth"],
    "validity": {"default": "30d", "backdate": "1h"},
    "server_keys": {"algorithms": ["P-256", "rsa-2048"]},
}


class ESTServer(MovableCertloom):
    """Certloom with a listener that asks for client certificates."""

    def __init__(self, folder: Path, lab: Lab, **more: Any) -> None:
        self.client_port = free_port()
        listen = {"https_client": f"{ADDRESS}:{self.client_port}", **more.pop("listen", {})}
        super().__init__(folder, lab, listen=listen, **more)

    @property
    def https(self) -> str:
        """The origin of the listener that asks nobody for a certificate."""
        return f"https://{ADDRESS}:{self.https_port}"

    @property
    def https_client(self) -> str:
        return f"https://{ADDRESS}:{self.client_port}"

    def declare(self, **document: Any) -> None:
        """``certloom apply``, in JSON."""
        self.local("POST", "/declarations", {"document": document})

    def channel(self, **options: Any) -> None:
        self.declare(channels=[{"protocol": "est", "name": "default", "profile": "device", **options}])

    def profile(self, **changes: Any) -> None:
        self.declare(profiles=[{**DEVICE, **changes}])

    def anchors(self, name: str, *pem: str) -> None:
        self.declare(trust_anchors=[{"name": name, "certificates": list(pem)}])

    def user(self, name: str, kind: str = "est-password", **terms: Any) -> str:
        """``NAME:PASSWORD`` of a new user (of other kinds, the secret)."""
        made = self.local("POST", "/credentials", {"kind": kind, "id": name, **terms})
        return f"{name}:{made['secret']}" if kind == "est-password" else str(made["secret"])

    def issued(self) -> int:
        """Certificates of devices that there are."""
        found = self.local("GET", "/certificates?profile=device&limit=1000")
        return len(found["items"])


class Curl:
    """curl, with the certificates that it trusts and shows."""

    def __init__(self, folder: Path, trust: Path) -> None:
        self.folder = folder
        self._trust = trust
        folder.mkdir(parents=True, exist_ok=True)

    def ask(
        self, url: str, *options: str | Path, body: bytes | None = None, media: str = "application/pkcs10"
    ) -> Answer:
        """One request; ``body`` is sent as it is."""
        out, head = self.folder / "out", self.folder / "head"
        for file in (out, head):
            file.unlink(missing_ok=True)
        command: list[str | Path] = ["curl", "-sS", "--max-time", "20", "--cacert", self._trust]
        if body is not None:
            (self.folder / "body").write_bytes(body)
            # "Expect: 100-continue" is what curl would ask for large bodies.
            command += ["--data-binary", f"@{self.folder / 'body'}", "-H", f"Content-Type: {media}"]
        done = subprocess.run(
            [str(part) for part in (*command, "-D", head, "-o", out, *options, url)],
            env=environment(self.folder), capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        if done.returncode != 0:
            return Answer(0, {}, done.stderr.encode(), self)
        # Of several heads (100 Continue) the last counts.
        lines = head.read_text().replace("\r\n", "\n").strip().split("\n\n")[-1].splitlines()
        headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        return Answer(int(lines[0].split()[1]), headers, out.read_bytes() if out.exists() else b"", self)


class Answer:
    """What curl got; ``status`` 0 where there was no answer."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes, curl: Curl) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self._folder = curl.folder

    def __repr__(self) -> str:
        return f"Answer({self.status}, {self.body[:300]!r})"

    @property
    def der(self) -> bytes:
        return base64.b64decode(self.body)

    def certificates(self) -> list[x509.Certificate]:
        """Of a certs-only message, as openssl and another library read it."""
        assert self.status == 200, self
        (self._folder / "p7.der").write_bytes(self.der)
        command: list[str | Path] = [
            "openssl",
            "pkcs7",
            "-inform",
            "DER",
            "-in",
            self._folder / "p7.der",
            "-print_certs",
        ]
        printed = run(command, env=environment(self._folder))
        found = pkcs7.load_der_pkcs7_certificates(self.der)
        assert printed.count("-----BEGIN CERTIFICATE-----") == len(found)
        return found

    def certificate(self) -> x509.Certificate:
        (only,) = self.certificates()
        return only


def openssl(folder: Path, *arguments: str | Path) -> str:
    return run(["openssl", *arguments], env=environment(folder))


def make_key(folder: Path, kind: str, name: str = "key.pem") -> Path:
    """A private key made by openssl: ``P-256``, ``rsa-2048`` or ``ed25519``."""
    folder.mkdir(parents=True, exist_ok=True)
    how = {
        "P-256": ("EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
        "rsa-2048": ("RSA", "-pkeyopt", "rsa_keygen_bits:2048"),
        "ed25519": ("ED25519",),
    }[kind]
    openssl(folder, "genpkey", "-algorithm", *how, "-out", folder / name)
    return folder / name


def make_csr(folder: Path, key: Path, subject: str, *dns: str) -> bytes:
    """DER of a request made by openssl."""
    names = ("-addext", "subjectAltName=" + ",".join(f"DNS:{each}" for each in dns)) if dns else ()
    out = folder / "csr.der"
    openssl(folder, "req", "-new", "-key", key, "-subj", subject, *names, "-outform", "DER", "-out", out)
    return out.read_bytes()


def folded(der: bytes) -> bytes:
    """As ``openssl base64`` writes it."""
    text = base64.b64encode(der)
    return b"".join(text[i : i + 64] + b"\n" for i in range(0, len(text), 64))


def verify(folder: Path, roots: Path, certificate: x509.Certificate, chain: list[x509.Certificate]) -> None:
    """OpenSSL finds the way from a client's certificate to the roots."""
    (folder / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "rest.pem").write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in chain))
    trust = ["-no-CApath", "-no-CAstore", "-CAfile", str(roots), "-purpose", "sslclient", "-no_check_time"]
    openssl(folder, "verify", *trust, "-untrusted", folder / "rest.pem", folder / "leaf.pem")
