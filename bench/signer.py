"""What the signer costs: signatures through its socket against signatures in this process.

    .venv-test/bin/python -m bench.signer --certificates 5000

For each kind of key: microseconds of CPU a certificate and certificates a second, one at a time and many at
once, in process and through the signer (CPU of both processes); and where SoftHSM2 is installed, with the key
in a token behind the signer. Issuance as a whole is measured by ``bench.acme`` with the servers
``certloom-sqlite`` and ``certloom-in-process``.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from pathlib import Path

import uvloop

from bench.processes import cpu_seconds
from certloom.clock import SystemClock
from certloom.pki import keys
from certloom.pki.identifiers import parse_dns
from certloom.pki.names import parse_name
from certloom.pki.template import CATemplate, CertificateTemplate
from certloom.secrets import DataKey
from certloom.server.signer import SpawnedSigner
from certloom.settings.tokens import Token
from certloom.signing import Signing
from certloom.signing.client import Client
from certloom.signing.process import SignerTask
from certloom.signing.service import Service

_DAY = 86_400
_SOFTHSM = Path("/usr/lib/softhsm/libsofthsm2.so")
_HEADER = f"{'key':>10} {'at once':>8} {'where':>10} {'CPU us':>9} {'a second':>9}"


async def measure(
    signing: Signing, algorithm: str, at_once: int, count: int, signer: int | None, token: str | None = None
) -> None:
    """Print a line."""
    now = int(time.time())
    key = f"{algorithm}-{at_once}-{'token' if token else 'here'}"
    made = await signing.generate(key, "ca", key, algorithm, token)
    root = CATemplate(b"\x31" * 16, made.spki, parse_name("CN=bench"), now - 60, now + 3650 * _DAY)
    issuer = await signing.ca_certificate(key, None, root)
    leaf = CertificateTemplate(
        serial=b"\x51" * 16,
        spki=keys.spki_of(keys.generate("P-256")),
        subject=parse_name("CN=www.example.com"),
        identifiers=(parse_dns("www.example.com"),),
        not_before=now - 60,
        not_after=now + 90 * _DAY,
        key_usage=("digitalSignature",),
        extended_key_usage=("1.3.6.1.5.5.7.3.1",),
        crl_url="http://pki.example.com/crl/issuing/3.crl",
        issuer_url="http://pki.example.com/ca/issuing.crt",
        ocsp_url="http://pki.example.com/ocsp/issuing",
    )

    async def work(share: int) -> None:
        for _ in range(share):
            await signing.certificate(key, issuer, leaf)

    await work(20)
    cpu, began = _cpu(signer), time.perf_counter()
    await asyncio.gather(*(work(count // at_once) for _ in range(at_once)))
    seconds, used = time.perf_counter() - began, _cpu(signer) - cpu
    where = "token" if token else "signer" if signer else "in process"
    print(f"{algorithm:>10} {at_once:>8} {where:>10} {used / count * 1e6:>9.0f} {count / seconds:>9.0f}")


def _cpu(signer: int | None) -> float:
    own = cpu_seconds(os.getpid(), children=False)
    return own + (cpu_seconds(signer) if signer else 0)


def soft_token(folder: Path) -> dict[str, Token]:
    """A new token of SoftHSM2; none where that is not installed."""
    if not _SOFTHSM.exists():
        return {}
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    os.environ["SOFTHSM2_CONF"] = str(folder / "softhsm2.conf")
    command = ("softhsm2-util", "--init-token", "--free", "--label", "bench", "--so-pin", "654321")
    subprocess.run([*command, "--pin", "123456"], check=True, stdout=subprocess.DEVNULL)
    pin = folder / "pin"
    pin.touch(0o600)
    pin.write_text("123456")
    return {"bench": Token(module=str(_SOFTHSM), pin_file=str(pin))}


async def main(count: int, algorithms: list[str]) -> None:
    """Measure everything."""
    print(_HEADER)
    with tempfile.TemporaryDirectory(prefix="certloom-bench-") as folder:
        path = Path(folder) / "signer.sock"
        tokens = soft_token(Path(folder))
        task = SignerTask(directory=folder, socket=str(path), server_users=(os.geteuid(),), tokens=tokens)
        signer = SpawnedSigner(task)
        await signer.start()
        client = Client(path)
        local = Service(DataKey(bytes(32)), SystemClock())
        for algorithm in algorithms:
            slow = algorithm not in ("P-256", "ed25519")
            for at_once in (1, 64):
                for signing, pid in ((local, None), (client, signer.pid)):
                    await measure(signing, algorithm, at_once, count // 10 if slow else count, pid)
                if tokens and algorithm.startswith(("P-", "rsa-")):
                    await measure(client, algorithm, at_once, count // 10, signer.pid, "pkcs11:token=bench")
        await client.close()
        await signer.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--certificates", type=int, default=5_000)
    parser.add_argument("--keys", default="P-256,P-384,rsa-2048,rsa-4096,ed25519,ml-dsa-65")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.certificates, arguments.keys.split(",")))
