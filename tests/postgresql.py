"""A private PostgreSQL server for tests: made, started and removed by them.

It listens on a Unix socket only, in a directory of its own. Started by root, it runs as the system user
``postgres``, since PostgreSQL refuses root. It dies with the process that started it. It syncs what it
promises to have on disk (the product refuses a server that does not), so its data is in memory where
possible. The default collation is a linguistic one on purpose: what must be sorted by bytes has to say so.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

_PR_SET_PDEATHSIG = 1


class Cluster:
    """One running server.

    ``parent`` is where its data goes (memory, where there is room); ``options`` are server settings that
    differ from its defaults.
    """

    def __init__(self, parent: Path | None = None, **options: str) -> None:
        self._bin = _binaries()
        self._user = "postgres" if os.geteuid() == 0 else None
        shm = Path("/dev/shm")
        self.directory = Path(
            tempfile.mkdtemp(prefix="certloom-pg-", dir=parent or (shm if _roomy(shm) else None))
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._options = options
        try:
            if self._user:
                account = pwd.getpwnam(self._user)
                os.chown(self.directory, account.pw_uid, account.pw_gid)
            self._initdb()
            self.start()
        except BaseException:
            self.remove()
            raise

    def _initdb(self) -> None:
        command: list[str | Path] = [
            self._bin / "initdb",
            "-D",
            self.directory / "data",
            "-U",
            "postgres",
            "-A",
            "trust",
        ]
        command += [
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C.UTF-8",
            "--locale-provider=icu",
            "--icu-locale=en-US",
        ]
        done = subprocess.run(command, capture_output=True, text=True, user=self._user, cwd="/", check=False)
        if done.returncode:
            raise RuntimeError(f"initdb failed: {done.stdout}{done.stderr}")

    def start(self) -> None:
        """Start the server and wait until it answers."""
        libc = ctypes.CDLL(None)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            "shared_buffers": "64MB",
            "autovacuum_naptime": "5s",
            **self._options,
        }
        command = [str(self._bin / "postgres"), "-D", str(self.directory / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                user=self._user,
                cwd="/",
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT),
            )
        deadline = time.monotonic() + 30
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()) from None
                time.sleep(0.05)

    @property
    def pid(self) -> int:
        """The postmaster's process id."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Stop the server as a crash would: nothing is flushed, recovery follows at the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop the server and delete its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def url(self, database: str, user: str = "postgres") -> str:
        """A connection URI for one database."""
        return f"postgresql://{user}@/{database}?host={self.directory}"

    def run(self, *statements: str, database: str = "postgres") -> None:
        """Run statements as the administrator, each on its own."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())

    def create(self, template: str = "template0", **options: str) -> str:
        """Make a fresh database and return its name."""
        name = f"certloom_{next(self._numbers)}"
        extra = "".join(f" {key} {value}" for key, value in options.items())
        self.run(f"CREATE DATABASE {name} TEMPLATE {template}{extra} STRATEGY file_copy")
        return name

    def drop(self, name: str) -> None:
        """Delete a database, whoever is still connected."""
        self.run(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def _binaries() -> Path:
    """Where the newest installed server's programs are. Missing ones are an error: tests must not skip."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    raise RuntimeError(
        "PostgreSQL's server programs are missing: run the script that installs what tests need"
    )


def _roomy(directory: Path) -> bool:
    return directory.is_dir() and shutil.disk_usage(directory).free > 1 << 30
