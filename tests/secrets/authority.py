"""TLS for services on loopback: a certificate made by openssl, which is its own root."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make_tls(folder: Path) -> tuple[Path, Path]:
    """PEM files of a certificate for 127.0.0.1 and its key."""
    certificate, key = folder / "tls.pem", folder / "tls.key"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=service.test"
    subprocess.run(
        [
            "openssl",
            *words.split(),
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            key,
            "-out",
            certificate,
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
