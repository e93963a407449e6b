"""Certificate Transparency with strangers: a log of Boulder's, and OpenSSL as the one that verifies SCTs."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from certloom.audit import SYSTEM
from certloom.enrollment.asks import Ask
from certloom.pki.csr import parse_csr
from certloom.pki.identifiers import parse_dns
from certloom.policy.decisions import Requester
from certloom.server.rooms import Rooms
from certloom.settings import Settings
from certloom.settings.schema import CT, Listen, Logging, Outbound
from certloom.store import authorities as authority_statements
from certloom.store import certificates as certificate_statements
from tests.ct_log import CTLog, ct_logs
from tests.server.conftest import Installation, ask
from tests.server.enrolling import WEB

LOG_SERVER = Path(__file__).parents[2] / ".test-tools" / "go" / "bin" / "ct-test-srv"


def _free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.fixture
def boulders_log(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The settings of a log that is Boulder's test log."""
    if not LOG_SERVER.exists():
        pytest.skip("Boulder's ct-test-srv is not installed: run scripts/install-test-tools where go is")
    key = ec.generate_private_key(ec.SECP256R1())
    port = _free_port()
    private = key.private_bytes(Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    config = tmp_path / "ct-test-srv.json"
    address = f"127.0.0.1:{port}"
    config.write_text(
        json.dumps({"Personalities": [{"Addr": address, "PrivKey": base64.b64encode(private).decode()}]})
    )
    process = subprocess.Popen(
        [LOG_SERVER, "-config", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _until_it_listens(port)
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield {"url": f"http://{address}", "key": base64.b64encode(spki).decode()}
    finally:
        process.kill()
        process.wait()


def _until_it_listens(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


def _issue(tmp_path: Path, logs: dict[str, Any], *own: CTLog) -> tuple[bytes, list[bytes], bytes]:
    """A certificate in all of these logs, its issuers (root last) and its key in PEM."""
    settings = Settings(
        data_dir=str(tmp_path / "data"),
        public_http_url="http://pki.test",
        listen=Listen(https="127.0.0.1:0", http="127.0.0.1:0"),
        logging=Logging(level="error"),
        outbound=Outbound(allow_addresses=("127.0.0.0/8",)),
        ct=msgspec.convert({"logs": logs}, CT),
    )
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())

    async def use(rooms: Rooms) -> tuple[bytes, list[bytes]]:
        rows = {row.name: row for row in await rooms.store.read(authority_statements.every)}
        above = [rows["issuing"].certificate, rows["root"].certificate]
        for log in own:
            log.roots = above[-1:]
        profile = {**WEB, "ct": {"logs": list(logs), "needed": len(logs)}}
        await ask(rooms, "POST", "/declarations", {"document": {"profiles": [profile]}})
        request = await rooms.enrollment.submit(
            Ask(
                protocol="test",
                channel="test",
                profile="web",
                requester=Requester("system", "test"),
                csr=parse_csr(csr.public_bytes(Encoding.DER)),
                identifiers=(parse_dns("www.corp.example"),),
                origin=SYSTEM,
            )
        )
        id = request.certificate_id
        assert id is not None
        stored = await rooms.store.read(lambda tx: certificate_statements.get(tx, id))
        assert stored is not None
        return stored.der, above

    der, above = Installation(settings).within(use)
    return der, above, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)


def test_boulders_log_takes_our_precertificates(tmp_path: Path, boulders_log: dict[str, str]) -> None:
    der, _, _ = _issue(tmp_path, {"boulder": boulders_log})
    certificate = x509.load_der_x509_certificate(der)
    (sct,) = certificate.extensions.get_extension_for_class(
        x509.PrecertificateSignedCertificateTimestamps
    ).value
    assert sct.log_id == hashlib.sha256(base64.b64decode(boulders_log["key"])).digest()


def test_openssl_verifies_the_scts_of_a_server(tmp_path: Path) -> None:
    first, second = CTLog([]), CTLog([])
    with ct_logs(first, second):
        logs = {"one": first.settings, "two": second.settings}
        der, above, key = _issue(tmp_path, logs, first, second)
    (tmp_path / "chain.pem").write_bytes(_pem(der) + _pem(above[0]))
    (tmp_path / "root.pem").write_bytes(_pem(above[1]))
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "logs.cnf").write_text(
        "enabled_logs = one, two\n"
        f"[one]\ndescription = One\nkey = {base64.b64encode(first.spki).decode()}\n"
        f"[two]\ndescription = Two\nkey = {base64.b64encode(second.spki).decode()}\n"
    )
    port = _free_port()
    served = "-cert chain.pem -cert_chain chain.pem -key key.pem"
    server = subprocess.Popen(
        f"openssl s_server -accept 127.0.0.1:{port} {served}".split(),
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _until_it_listens(port)
        time.sleep(1)  # OpenSSL takes an SCT of this very second for one of the future
        said = subprocess.run(
            f"openssl s_client -connect 127.0.0.1:{port} -CAfile root.pem -ct -ctlogfile logs.cnf".split(),
            cwd=tmp_path,
            input=b"",
            capture_output=True,
            timeout=30,
        ).stdout.decode()
    finally:
        server.kill()
        server.wait()
    assert "Verify return code: 0 (ok)" in said
    assert re.findall(r"(?:SCT validation status|Validation status): (\w+)", said) == ["valid", "valid"], said
