"""A Certificate Transparency log (RFC 6962) of our own for tests, strict about what it takes.

It shares no code with the product: ``cryptography`` reads and verifies certificates, ``pyasn1`` takes the
poison out of a precertificate. It can also misbehave in the ways that a log might.
"""

from __future__ import annotations

import base64
import hashlib
import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pyasn1.codec.der.decoder import decode
from pyasn1.codec.der.encoder import encode
from pyasn1_alt_modules import rfc5280

POISON = "1.3.6.1.4.1.11129.2.4.3"


class Refused(Exception):
    """What the log has against a chain."""


class CTLog:
    """One log. ``behaviour`` says how the next submissions are answered."""

    def __init__(self, roots: list[bytes], *, key: Any = None) -> None:
        self.roots = roots
        """DER; chains must end at one of them, or be issued by one."""
        self.key = key or ec.generate_private_key(ec.SECP256R1())
        self.behaviour = "good"
        self.entries: list[tuple[x509.Certificate, bytes]] = []
        """What was logged: precertificates, and the TBSCertificates that were signed for them."""
        self.asked = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.released = threading.Event()
        """Set to let go of who waits for a log that is slow."""

    @property
    def spki(self) -> bytes:
        spki: bytes = self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return spki

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.spki).digest()

    @property
    def settings(self) -> dict[str, str]:
        """As ``[ct.logs.NAME]`` has it."""
        return {
            "url": f"http://127.0.0.1:{self._server.server_address[1]}/log/",
            "key": base64.b64encode(self.spki).decode(),
        }

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def add_pre_chain(self, body: bytes) -> dict[str, Any]:
        """Section 4.2. Raises ``Refused``."""
        chain = [x509.load_der_x509_certificate(base64.b64decode(one)) for one in json.loads(body)["chain"]]
        self._verify(chain)
        tbs = _without_poison(chain[0])
        self.entries.append((chain[0], tbs))
        moment = int(time.time() * 1000)
        if self.behaviour == "future":
            moment += 3_600_000
        issuer = chain[1].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        extensions = b"\x00\x00\x05\x00\x00\x00\x00\x07" if self.behaviour == "extended" else b""
        signed = struct.pack(">BBQH", 0, 0, moment, 1) + hashlib.sha256(issuer).digest()
        signed += len(tbs).to_bytes(3, "big") + tbs + struct.pack(">H", len(extensions)) + extensions
        signature = self._sign(b"another" if self.behaviour == "wrong-signature" else signed)
        return {
            "sct_version": 1 if self.behaviour == "another-version" else 0,
            "id": base64.b64encode(bytes(32) if self.behaviour == "another-log" else self.id).decode(),
            "timestamp": moment,
            "extensions": base64.b64encode(extensions).decode(),
            "signature": base64.b64encode(signature).decode(),
        }

    def _sign(self, data: bytes) -> bytes:
        if isinstance(self.key, rsa.RSAPrivateKey):
            algorithm, made = 1, self.key.sign(data, padding.PKCS1v15(), hashes.SHA256())
        else:
            algorithm, made = 3, self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        return struct.pack(">BBH", 4, algorithm, len(made)) + made

    def _verify(self, chain: list[x509.Certificate]) -> None:
        if len(chain) < 2:
            raise Refused("no chain")
        poisons = [e for e in chain[0].extensions if e.oid.dotted_string == POISON]
        if (
            len(poisons) != 1
            or not poisons[0].critical
            or not isinstance(poisons[0].value, x509.PrecertPoison)
        ):
            raise Refused("no poison, or one that is not critical")
        for below, above in pairwise(chain):
            if not above.extensions.get_extension_for_class(x509.BasicConstraints).value.ca:
                raise Refused("an issuer that is no CA")
            below.verify_directly_issued_by(above)
        roots = [x509.load_der_x509_certificate(root) for root in self.roots]
        if chain[-1] not in roots:
            if not any(root.subject == chain[-1].issuer for root in roots):
                raise Refused("the chain does not end at a root of this log")
            chain[-1].verify_directly_issued_by(next(r for r in roots if r.subject == chain[-1].issuer))


def _without_poison(precertificate: x509.Certificate) -> bytes:
    tbs, rest = decode(precertificate.tbs_certificate_bytes, asn1Spec=rfc5280.TBSCertificate())
    assert not rest
    kept = [extension for extension in tbs["extensions"] if str(extension["extnID"]) != POISON]
    tbs["extensions"].clear()
    tbs["extensions"].extend(kept)
    written: bytes = encode(tbs)
    return written


def _handler(log: CTLog) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            log.asked += 1
            status, said = 200, b""
            if log.behaviour == "slow":
                log.released.wait(30)
            if log.behaviour == "hangs-up":
                self.close_connection = True
                return
            try:
                if self.path != "/log/ct/v1/add-pre-chain":
                    raise Refused(f"no such place: {self.path}")
                said = json.dumps(log.add_pre_chain(body)).encode()
            except (Refused, ValueError, TypeError, KeyError) as error:
                status, said = 400, repr(error).encode()
            if log.behaviour == "refuses":
                status, said = 400, b"not this one"
            elif log.behaviour == "fails":
                status, said = 503, b"later"
            elif log.behaviour == "babbles":
                said = b"{"
            elif log.behaviour == "floods":
                said = b" " * 1_000_000
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    return Handler


@contextmanager
def ct_logs(*logs: CTLog) -> Iterator[None]:
    """Run these logs."""
    for log in logs:
        log.start()
    try:
        yield
    finally:
        for log in logs:
            log.stop()
