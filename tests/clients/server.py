"""Certloom itself, as a process: started on a folder, told what a test needs, stopped or killed."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.clients.checks import Obtained
from tests.clients.lab import ADDRESS, Lab, Program, environment, free_port, run, wait_for
from tests.clients.target import EAB, Target

COMMAND = Path(sys.executable).with_name("certloom")

_REASONS = {1: x509.ReasonFlags.key_compromise, 4: x509.ReasonFlags.superseded}
"""By their numbers (RFC 5280 section 5.3.1)."""

Section = Mapping[str, object]


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_value(each)}" for name, each in value.items()) + " }"
    return json.dumps(value)


def toml(settings: Mapping[str, object]) -> str:
    """Settings as TOML: plain values first, then one table per section."""
    plain = [
        f"{key} = {json.dumps(value)}\n" for key, value in settings.items() if not isinstance(value, Mapping)
    ]
    tables = [
        f"\n[{key}]\n" + "".join(f"{name} = {_value(value)}\n" for name, value in section.items())
        for key, section in settings.items()
        if isinstance(section, Mapping)
    ]
    return "".join(plain + tables)


class Certloom:
    """One server with a data directory and ports of its own; it can be started again after it ended."""

    def __init__(
        self,
        folder: Path,
        lab: Lab,
        *,
        database_url: str = "",
        plain: bool = False,
        **sections: Section,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.data = folder / "data"
        self.https_port, self.http_port, self.plain_port = (free_port() for _ in range(3))
        self._settings = folder / "certloom.toml"
        settings: dict[str, Any] = {
            "data_dir": str(self.data),
            "public_url": f"https://{ADDRESS}:{self.https_port}",
            "public_http_url": f"http://{ADDRESS}:{self.http_port}",
            "listen": {
                "https": f"{ADDRESS}:{self.https_port}",
                "http": f"{ADDRESS}:{self.http_port}",
                "acme_plain": f"{ADDRESS}:{self.plain_port}" if plain else "",
            },
            "database": {"url": database_url},
            "validation": {
                "http_port": lab.http_port,
                "tls_alpn_port": lab.tls_port,
                "resolvers": [lab.resolver],
                "allow_addresses": ["127.77.0.0/16"],
                "retries": [1, 2],
            },
        }
        for name, section in sections.items():
            settings[name] = {**settings.get(name, {}), **section}
        self._settings.write_text(toml(settings))
        self.database_url = database_url
        self.program: Program | None = None
        self.starts = 0
        self.variables: dict[str, str] = {}
        """What it finds in its environment beside the usual."""

    # The process.

    def environment(self) -> dict[str, str]:
        return environment(self.folder, **self.variables)

    def serve_command(self) -> list[str]:
        return [str(COMMAND), "serve", "-c", str(self._settings)]

    def start(self) -> Certloom:
        """Start it and wait until it answers."""
        self.starts += 1
        self.program = Program(
            self.serve_command(), log=self.folder / f"serve-{self.starts}.log", env=self.environment()
        )
        wait_for("certloom", self._answers, 60)
        return self

    def _answers(self) -> bool:
        assert self.program is not None
        self.program.check()
        try:
            with urllib.request.urlopen(f"http://{ADDRESS}:{self.http_port}/health/ready", timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

    def refuses_to_start(self) -> str:
        """Start it, see it end by itself with an error, and return what it printed."""
        done = subprocess.run(
            self.serve_command(),
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode != 0, done.stdout
        return done.stdout

    @property
    def pid(self) -> int:
        assert self.program is not None
        return self.program.pid

    def printed(self) -> str:
        """What it has printed since its (last) start."""
        assert self.program is not None
        return self.program.output()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.program is not None
        return self.program.stop()

    def kill(self) -> None:
        """SIGKILL."""
        assert self.program is not None
        self.program.kill()

    def signer_pid(self) -> int | None:
        """The process id of the signer that it has started, while one runs."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        for child in children:
            if b"certloom.signing.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
        return None

    def kill_signer(self) -> None:
        """SIGKILL, if it runs just now."""
        pid = self.signer_pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> Certloom:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        if self.program is not None:
            self.program.stop()

    # Its command line.

    def cli(self, *arguments: str | Path, expect: int | None = 0) -> str:
        """Run ``certloom ARGUMENTS`` against this server."""
        command: list[str | Path] = [COMMAND, *arguments, "-c", self._settings]
        return run(command, env=self.environment(), expect=expect)

    def apply(self, declared: str) -> None:
        """``certloom apply -f`` of TOML."""
        path = self.folder / "declared.toml"
        path.write_text(declared)
        self.cli("apply", "-f", path)

    # The API, as the local operator and as others.

    def local(self, method: str, path: str, body: Any = None) -> Any:
        """Ask through the admin socket."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(self.data / "admin.sock"))
        headers = {"content-type": "application/json"} if body is not None else {}
        connection.request(method, f"/api/v1{path}", json.dumps(body) if body is not None else None, headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        assert answer.status < 300, (answer.status, text)
        return json.loads(text)

    def token(self, service: str, role: str) -> str:
        """A token of a service that holds a role everywhere."""
        made = self.local(
            "POST",
            "/credentials",
            {"kind": "api-token", "service": service, "grants": [{"role": role}]},
        )
        secret: str = made["secret"]
        return secret

    def ask(self, token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask over HTTPS with a token."""
        request = urllib.request.Request(
            f"https://{ADDRESS}:{self.https_port}/api/v1{path}",
            data=json.dumps(body).encode() if body is not None else None,
            method=method,
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=self.trust()) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    # What clients need.

    @property
    def root(self) -> Path:
        return self.data / "root.pem"

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))

    def target(self, channel: str = "default", eab: EAB | None = None) -> Target:
        return Target(
            directory=f"https://{ADDRESS}:{self.https_port}/acme/{channel}/directory",
            tls_ca=self.root,
            roots=self.root,
            eab=eab,
        )

    def plain_directory(self, channel: str = "default") -> str:
        """The directory on the listener without TLS."""
        return f"http://{ADDRESS}:{self.plain_port}/acme/{channel}/directory"

    def new_eab(self, channel: str, *arguments: str) -> EAB:
        """A new credential for a channel, by ``certloom credential create``."""
        made = json.loads(self.cli("credential", "create", "--json", "--channel", channel, *arguments))
        return EAB(made["id"], made["secret"])

    def assert_revoked(self, obtained: Obtained, reason: int | None) -> None:
        """The certificate is on the CRL that it names, with this reason (any, for None), in time."""
        wait_for("the CRL with the certificate", lambda: self._entry(obtained) is not None, 15)
        entry = self._entry(obtained)
        assert entry is not None
        try:
            told = entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
        except x509.ExtensionNotFound:
            told = x509.ReasonFlags.unspecified
        assert reason is None or told is _REASONS[reason]

    def _entry(self, obtained: Obtained) -> x509.RevokedCertificate | None:
        points = obtained.certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert points[0].full_name is not None
        (name,) = points[0].full_name
        with urllib.request.urlopen(name.value, timeout=10) as answer:
            crl = x509.load_der_x509_crl(answer.read())
        issuer = obtained.chain[0]
        public_key = issuer.public_key()
        assert isinstance(public_key, ec.EllipticCurvePublicKey)
        assert crl.issuer == issuer.subject
        assert crl.is_signature_valid(public_key)
        return crl.get_revoked_certificate_by_serial_number(obtained.serial)

    def replace(self, obtained: Obtained) -> None:
        """``certloom certificate replace``."""
        self.cli("certificate", "replace", f"{obtained.serial:x}", "--reason", "tests")

    def count_certificates(self, name: str) -> int:
        """How many certificates for a name the inventory lists."""
        return len(json.loads(self.cli("certificate", "list", "--json", "--name", name)))

    def https_certificate(self) -> bytes:
        """DER of what the HTTPS listener presents."""
        with (
            socket.create_connection((ADDRESS, self.https_port), timeout=10) as plain,
            self.trust().wrap_socket(plain, server_hostname=ADDRESS) as stream,
        ):
            der = stream.getpeercert(binary_form=True)
        assert der is not None
        return der
