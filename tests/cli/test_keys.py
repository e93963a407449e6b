"""``certloom key compromised``, ``proof`` and ``blocked``."""

from __future__ import annotations

import signal
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from certloom.pki import keys
from tests.cli.shell import Shell
from tests.strangers import installed, said


def test_compromised_keys_by_proof_by_file_and_by_certificate(tmp_path: Path) -> None:
    shell = Shell(tmp_path)
    process = shell.serve()
    try:
        for algorithm in ("P-256", "rsa-2048", "ed25519", "ml-dsa-44"):
            key = tmp_path / f"{algorithm}.key"
            made = keys.generate(algorithm)
            key.write_bytes(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            proof = tmp_path / f"{algorithm}.proof"
            proof.write_text(shell("key", "proof", str(key)))
            if algorithm != "ml-dsa-44":
                openssl = [*installed("openssl"), "req", "-in", str(proof), "-noout", "-verify", "-subject"]
                fine, text = said(openssl)
                assert fine, text
                assert "Proof of key compromise" in text
            told = shell.json("key", "compromised", "--proof", str(proof))
            assert told["spki_sha256"] == shell("key", "digest", str(key)).strip()
            # What the private key's file says is the same key.
            again = shell.json("key", "compromised", "--spki", str(key))
            assert (again["spki_sha256"], again["why"]) == (told["spki_sha256"], "reported as compromised")
        assert len(shell.json("key", "blocked")) == 4
        shell("key", "compromised", status=1)
        shell("key", "compromised", "--csr", str(tmp_path / "P-256.key"), status=1)

        (listener,) = shell.json("certificate", "list", "--profile", "tls-server")
        found = tmp_path / "listener.pem"
        found.write_text(shell("certificate", "download", str(listener["id"])))
        said_so = shell("key", "compromised", "--certificate", str(found), "--reason", "test")
        assert "; 1 certificate revoked" in said_so
        assert shell.json("certificate", "show", str(listener["id"]))["state"] == "revoked"
        (ca, *_) = shell.json("certificate", "list", "--profile", "ca")
        ca_file = tmp_path / "ca.pem"
        ca_file.write_text(shell("certificate", "download", str(ca["id"])))
        assert "--authorities revokes them too" in shell("key", "compromised", "--certificate", str(ca_file))
        assert shell.json("certificate", "show", str(ca["id"]))["state"] == "valid"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
