"""What somebody tries who has taken over the server, as its user: run by ``test_isolation``.

Prints JSON: what came of each attempt. Nothing here is refused by our own client: frames are written by hand
where it would not send them.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec

from certloom.pki import der, extensions, keys
from certloom.pki.extensions import Extension
from certloom.pki.identifiers import parse_dns
from certloom.signing import SigningError
from certloom.signing.client import Client
from tests.signing.making import ca_template, leaf

_PTRACE_ATTACH = 16


def tried(attempt: Callable[[], Any]) -> str:
    try:
        return f"done: {attempt()!r:.80}"
    except OSError as error:
        return f"{type(error).__name__}: {os.strerror(error.errno or 0)}"


async def asked(attempt: Awaitable[Any]) -> str:
    try:
        return f"done: {await attempt!r:.80}"
    except SigningError as error:
        return f"{error.code}: {error}"


def trace(pid: int) -> str:
    library = ctypes.CDLL(None, use_errno=True)
    if library.ptrace(_PTRACE_ATTACH, pid, None, None) == 0:
        return "traced"
    raise OSError(ctypes.get_errno(), "ptrace")


async def main(given: dict[str, Any]) -> dict[str, str]:
    directory, socket, pid = Path(given["directory"]), Path(given["socket"]), int(given["pid"])
    process = Path(f"/proc/{pid}")
    found = {
        "read the key": tried((directory / "signer.key").read_bytes),
        "list the directory": tried(lambda: list(directory.iterdir())),
        "write the limits": tried(lambda: (directory / "signer-limits.toml").write_text("")),
        "replace the directory": tried(lambda: directory.rename(directory.with_name("mine"))),
        "read its memory": tried(lambda: (process / "mem").open("rb").read(1)),
        "read its environment": tried((process / "environ").read_bytes),
        "trace it": tried(lambda: trace(pid)),
        "kill it": tried(lambda: os.kill(pid, signal.SIGKILL)),
        "remove its socket": tried(socket.unlink),
        "put a socket in its place": tried(lambda: (socket.parent / "other.sock").touch()),
    }
    client = Client(socket, patience=2)
    for id, record in given["records"].items():
        client.know(id, bytes.fromhex(record))
    issuer, now = bytes.fromhex(given["issuer"]), int(time.time())
    own = keys.generate("P-256")
    spki = keys.spki_of(own)
    ca = ca_template(spki, now, "CN=Mine")
    to_be_signed = bytes.fromhex(given["tbs"])
    is_ca = Extension(extensions.BASIC_CONSTRAINTS, True, der.sequence(der.TRUE))
    found |= {
        "a certificate within its limits": await asked(client.certificate("ca", issuer, leaf(now))),
        "a CA certificate": await asked(client.ca_certificate("ca", issuer, ca)),
        "a CA certificate of one day": await asked(
            client.ca_certificate("ca", issuer, msgspec.structs.replace(ca, not_after=now + 86_400))
        ),
        "a certificate that is a CA's": await asked(
            client.certificate("ca", issuer, leaf(now, spki=spki, extensions=(is_ca,)))
        ),
        "a certificate that may sign certificates": await asked(
            client.certificate("ca", issuer, leaf(now, spki=spki, key_usage=("keyCertSign",)))
        ),
        "octets signed with the CA's key": await asked(client.sign("ca", [to_be_signed])),
        "something decrypted with the CA's key": await asked(client.decrypt("ca", b"x" * 256, "pkcs1")),
        "a responder for a key of its own": await asked(
            client.certificate(
                "ca", issuer, leaf(now, spki=spki, extended_key_usage=("1.3.6.1.5.5.7.3.9",), identifiers=())
            )
        ),
        "a key that is in a token": await asked(client.attach("mine", "ca", "issuing", "pkcs11:token=x")),
        "a name that is ruled out": await asked(
            client.certificate("ca", issuer, leaf(now, identifiers=(parse_dns("bank.example"),)))
        ),
        "a lifetime that is ruled out": await asked(
            client.certificate("ca", issuer, leaf(now, not_after=now + 4000 * 86_400))
        ),
    }
    # An OCSP key may be of its own making; the signer certifies only those that were made there.
    adopted = keys.private_to_der(own)
    await client.adopt("adopted", "ocsp", "issuing", adopted)
    found["a responder for a key that it brought"] = await asked(
        client.certificate(
            "ca", issuer, leaf(now, spki=spki, extended_key_usage=("1.3.6.1.5.5.7.3.9",), identifiers=())
        )
    )
    # A record of its own making: sealed under another key.
    client.know("forged", bytes.fromhex(given["forged"]))
    found["a record of its own making"] = await asked(client.certificate("forged", issuer, leaf(now)))
    await client.close()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.stdin.read())))))
