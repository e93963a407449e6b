"""The served OpenAPI document held to what the server answers, by a tool that nobody here wrote.

A real server on real sockets; requests that fit the document, and requests that do not, for every operation,
with everything an administrator may.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest

from certloom.audit import Origin
from certloom.clock import SystemClock
from certloom.identity.principals import Grant
from certloom.server.rooms import Rooms
from certloom.settings import load
from tests.server.conftest import Installation

BIN = Path(sys.executable).parent
EXAMPLES = os.environ.get("CERTLOOM_SCHEMATHESIS_EXAMPLES", "2")
"""Per operation and kind of test; more of them find more, and take longer."""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,missing_required_header,unsupported_method,ignored_auth"
)
CONFIG = """
data_dir = "{folder}/data"
public_http_url = "http://pki.test"
[listen]
https = "127.0.0.1:0"
http = ""
[api]
requests_per_minute = 1000000
failures_per_minute = 1000000
[logging]
level = "info"
"""


class Server:
    """A process of its own, with a token that may everything."""

    def __init__(self, folder: Path) -> None:
        config = folder / "certloom.toml"
        config.write_text(CONFIG.format(folder=folder))
        self.token = run_once(config)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            command: list[str | Path] = [BIN / "certloom", "serve", "-c", config]
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log)
        self.url = self._directory()
        self.root = folder / "data" / "root.pem"

    def _directory(self) -> str:
        """Where it listens, as it says itself."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            for word in line.decode().split():
                if word.startswith("https://"):
                    parts = urlsplit(word)
                    return f"https://{parts.netloc}"
        raise AssertionError(self.log.read_text())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def run_once(config: Path) -> str:
    async def make(rooms: Rooms) -> str:
        _, token = await rooms.store.write(
            lambda tx: rooms.credentials.create_token(
                tx, grants=(Grant(role="admin"),), origin=Origin("local:tester")
            )
        )
        return token

    return Installation(load(config)).within(make, SystemClock())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    yield running
    running.close()


ITS_OWN = "^/credentials/"
"""The tool finds its own token in the listing, and then rotates it: that comes last."""


@pytest.mark.timeout(600)
def test_every_answer_is_as_the_document_says(server: Server, tmp_path: Path) -> None:
    schemathesis(server, tmp_path, "--exclude-path-regex", ITS_OWN)
    context = ssl.create_default_context(cafile=str(server.root))
    request = Request(f"{server.url}/api/v1/whoami", headers={"Authorization": f"Bearer {server.token}"})
    with urlopen(request, context=context) as answer:
        assert answer.status == 200, "most of it was asked without being anybody"
    schemathesis(server, tmp_path, "--include-path-regex", ITS_OWN)
    assert "api.broken" not in server.log.read_text()


def schemathesis(server: Server, folder: Path, *which: str) -> None:
    command: list[str | Path] = [
        BIN / "schemathesis",
        "run",
        f"{server.url}/api/v1/openapi.json",
        "--header",
        f"Authorization: Bearer {server.token}",
        "--tls-verify",
        server.root,
        "--checks",
        CHECKS,
        "--phases",
        "examples,coverage,fuzzing",
        "--max-examples",
        EXAMPLES,
        "--seed",
        "1",
        "--no-color",
        "--continue-on-failure",
        *which,
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr[-2_000:]
