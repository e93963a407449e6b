"""The signer and the server as two users, as root starts them: a server that was taken over gets no key and
no CA certificate, whatever it says. What an intruder tries is in ``intruder``, run as the server's user."""

from __future__ import annotations

import json
import os
import pwd
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509

from certloom.clock import ManualClock, SystemClock
from certloom.pki import keys
from certloom.secrets import DataKey, SecretError, load_key
from certloom.settings.key_sources import Secrets
from certloom.signing import records
from certloom.signing.service import Service
from tests.clients.lab import private_mounts
from tests.conftest import run
from tests.signing.making import ca_template

TOP = Path(__file__).parents[2]
COMMAND = str(Path(sys.executable).with_name("certloom"))
SERVER, SIGNER, STRANGER = "games", "news", "list"
"""Users that every Debian has and nobody uses."""
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


class Stage:
    """A folder where every user finds this checkout, its packages and its Python, wherever they
    really are: they are seen there by the processes of the test alone (mount namespaces)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        packages = Path(sysconfig.get_paths()["purelib"])
        seen = {"packages": packages, "src": TOP / "src", "tests": TOP / "tests"}
        python = Path(sys.base_prefix)
        if python != Path("/usr"):
            seen["python"] = python
        for name in seen:
            (folder / name).mkdir()
        self._mounts = private_mounts(*((path, str(folder / name)) for name, path in seen.items()))
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self._python = str((folder / "python" if "python" in seen else python) / "bin" / version)
        self.environment = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "PYTHONPATH": f"{folder}/src:{folder}:{folder}/packages",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LD_LIBRARY_PATH": f"{folder}/python/lib" if "python" in seen else "",
        }

    def command(self, *words: str, user: str = "") -> list[str]:
        """Python with these arguments, as somebody."""
        who = []
        if user:
            found = pwd.getpwnam(user)
            who = ["setpriv", f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups"]
        return [*self._mounts, *who, self._python, *words]

    def as_user(self, user: str, *words: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words, user=user),
            cwd=self.folder,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@dataclass
class Started:
    """The product, started as root."""

    stage: Stage
    process: subprocess.Popen[bytes]
    config: Path

    @property
    def folder(self) -> Path:
        return self.stage.folder

    @property
    def directory(self) -> Path:
        return self.folder / "signer"

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "signer.sock"

    def cli(self, *words: str) -> str:
        done = subprocess.run(
            [COMMAND, *words, "-c", str(self.config)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def signer_pid(self) -> int:
        return int(json.loads(self.cli("signer", "status", "--json"))["pid"])


@pytest.fixture(scope="module")
def started() -> Iterator[Started]:
    # pytest's own folders are closed to other users.
    folder = Path(tempfile.mkdtemp(prefix="certloom-isolation-"))
    folder.chmod(0o755)
    config = folder / "certloom.toml"
    config.write_text(
        f'data_dir = "{folder}/data"\nuser = "{SERVER}"\npublic_http_url = "http://pki.test"\n'
        '[listen]\nhttps = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\n'
        f'[signer]\nuser = "{SIGNER}"\ndirectory = "{folder}/signer"\nsocket = "{folder}/run/signer.sock"\n'
    )
    stage = Stage(folder)
    # As `certloom serve`: what starts the two is run again for the server.
    main = folder / "serve.py"
    main.write_text("from certloom.cli.main import main\nmain()\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            stage.command(str(main), "serve", "-c", str(config)),
            stdout=log,
            stderr=log,
            env=stage.environment,
            cwd=folder,
        )
    deadline = time.monotonic() + 60
    while "CRLs: http" not in (folder / "log").read_text():
        assert process.poll() is None, (folder / "log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield Started(stage, process, config)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0, (folder / "log").read_text()
    shutil.rmtree(folder)


@needs_root
def test_whoever_takes_over_the_server_reads_no_key_and_gets_no_ca_certificate(started: Started) -> None:
    """A CA's key of an hour ago, handed to the signer as a server does; then everything is tried."""
    sealing = load_key(Secrets(), started.directory / "signer.key", create=False)
    clock = ManualClock(SystemClock().now() - 3600)

    async def make() -> tuple[bytes, bytes]:
        service = Service(sealing, clock)
        made = await service.generate("ca", "ca", "issuing", "P-256")
        return made.record, await service.ca_certificate("ca", None, ca_template(made.spki, clock.now()))

    record, issuer = run(make())
    forged = records.seal(
        DataKey(secrets.token_bytes(32)),
        "forged",
        records.of_software("ca", "issuing", keys.generate("P-256"), clock.now(), born=True),
    )
    started.cli("signer", "limits", "set", "issuing", "--name", "example.com", "--longest-days", "400")
    time.sleep(1.1)  # the limits file is looked at once a second
    given = {
        "directory": str(started.directory),
        "socket": str(started.socket),
        "pid": started.signer_pid(),
        "records": {"ca": record.hex()},
        "issuer": issuer.hex(),
        "forged": forged.hex(),
        "tbs": x509.load_der_x509_certificate(issuer).tbs_certificate_bytes.hex(),
    }
    before = (started.directory / "signer-limits.toml").read_bytes()
    done = started.stage.as_user(SERVER, "-m", "tests.signing.intruder", text=json.dumps(given))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("a certificate within its limits").startswith("done: "), "the server itself is served"
    denied = ["read the key", "list the directory", "write the limits", "replace the directory", "trace it"]
    denied += ["read its memory", "read its environment", "kill it", "remove its socket"]
    for what in (*denied, "put a socket in its place"):
        assert found.pop(what).startswith("PermissionError"), what
    for what in ("octets signed with the CA's key", "something decrypted with the CA's key"):
        assert found.pop(what).startswith("wrong-purpose: "), what
    for what in ("a certificate that is a CA's", "a certificate that may sign certificates"):
        assert found.pop(what).startswith("bad-request: "), what
    assert found.pop("a record of its own making").startswith("unknown-key: ")
    refused = {what: said.partition(":")[0] for what, said in found.items()}
    assert set(refused.values()) == {"signer-limit"}, found
    assert len(refused) == 7
    assert (started.directory / "signer-limits.toml").read_bytes() == before
    assert started.signer_pid() == given["pid"]


@needs_root
def test_what_the_server_keeps_of_keys_is_of_no_use_to_it(started: Started) -> None:
    """The sealed records in its database do not open with its own data key, and do with the signer's."""
    data_key = load_key(Secrets(), started.folder / "data" / "data.key", create=False)
    signer_key = load_key(Secrets(), started.directory / "signer.key", create=False)
    with sqlite3.connect(f"file:{started.folder}/data/certloom.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT id, sealed FROM keys WHERE sealed IS NOT NULL").fetchall()
    assert rows
    for id, sealed in rows:
        assert records.unseal(signer_key, id, sealed)
        with pytest.raises(SecretError):
            data_key.open(f"signer-key:{id}", sealed)
        with pytest.raises(Exception, match="does not open"):
            records.unseal(data_key, id, sealed)


@needs_root
def test_it_says_that_it_is_isolated_and_each_runs_as_its_user(started: Started) -> None:
    status = json.loads(started.cli("signer", "status", "--json"))
    assert status["isolated"] is True
    owner = Path(f"/proc/{status['pid']}").stat().st_uid
    # A process that cannot be dumped is root's in /proc; its own status says who it is.
    real = next(
        line for line in Path(f"/proc/{status['pid']}/status").read_text().splitlines() if "Uid:" in line
    )
    assert {int(each) for each in real.split()[1:]} == {pwd.getpwnam(SIGNER).pw_uid}
    assert owner in (0, pwd.getpwnam(SIGNER).pw_uid)
    assert (started.folder / "data" / "certloom.db").stat().st_uid == pwd.getpwnam(SERVER).pw_uid
    assert (started.directory / "signer.key").stat().st_uid == pwd.getpwnam(SIGNER).pw_uid


@needs_root
def test_anybody_else_cannot_even_connect(started: Started) -> None:
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = started.stage.as_user(STRANGER, "-c", script, str(started.socket))
    assert "PermissionError" in done.stderr
    # Nor does it help to be let through to the socket by mistake: the signer asks the kernel who is there.
    os.chmod(started.socket.parent, 0o755)
    os.chmod(started.socket, 0o666)
    try:
        again = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "s.settimeout(5); s.sendall(b'\\0\\0\\0\\4abcd'); print(s.recv(9))"
        )
        done = started.stage.as_user(STRANGER, "-c", again, str(started.socket))
        assert done.stdout.strip() in ("b''", ""), done.stdout
    finally:
        os.chmod(started.socket, 0o660)
        os.chmod(started.socket.parent, 0o2750)


def test_started_without_users_of_their_own_it_says_that_it_is_not_isolated(tmp_path: Path) -> None:
    from tests.cli.shell import Shell

    shell = Shell(tmp_path)
    process = shell.serve()
    try:
        status = shell.json("signer", "status")
        assert status["isolated"] is False
        assert "same user" in status["why"] or "root" in status["why"]
        assert "not isolated" in shell("signer", "status")
        assert "signer is not isolated" in (tmp_path / "stderr").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
