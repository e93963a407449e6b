"""What surrounds the server under test: addresses, a name server that answers at will, running programs.

Everything lives on loopback. Every name resolves to ``ADDRESS``, where the clients answer their challenges.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ADDRESS = "127.77.0.1"
CHECKOUT = Path(__file__).resolve().parents[2]
TOOLS = CHECKOUT / ".test-tools"


def fresh_name() -> str:
    """A DNS name that no other test uses."""
    return f"h{secrets.token_hex(5)}.example.com"


def free_port(address: str = ADDRESS) -> int:
    """A TCP port nobody listens on at the moment (and, as far as can be told, no UDP one either)."""
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind((address, 0))
        port: int = tcp.getsockname()[1]
        udp.bind((address, port))
        return port


def wait_for(what: str, ready: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait until ``ready`` says so; ``AssertionError`` naming ``what`` when it does not in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.02)


def listening(port: int, address: str = ADDRESS) -> bool:
    """Whether a TCP connection to the port is accepted."""
    try:
        socket.create_connection((address, port), timeout=1).close()
    except OSError:
        return False
    return True


def environment(home: Path, **more: str) -> dict[str, str]:
    """The environment a client runs in: nothing of the caller's that could lend it trust or settings."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": str(home),
        "LANG": "C.UTF-8",
        **more,
    }


def run(
    command: Sequence[str | Path],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout: float = 90,
    expect: int | None = 0,
    stdin: str = "",
) -> str:
    """Run a program to its end and return what it printed; its exit status must be ``expect`` (None: any)."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            env=dict(env),
            cwd=cwd,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        output = late.stdout.decode(errors="replace") if isinstance(late.stdout, bytes) else late.stdout or ""
        raise AssertionError(
            f"{command[0]} did not end within {timeout:g} s; it printed:\n{output[-6000:]}"
        ) from None
    if expect is not None:
        assert done.returncode == expect, (
            f"{' '.join(map(str, command))}: exit status {done.returncode}\n{done.stdout[-6000:]}"
        )
    return done.stdout


class Program:
    """A program that runs until it is stopped; its output goes to a file."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str],
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def check(self) -> bool:
        """True while it runs; ``AssertionError`` with the end of its log when it does not."""
        status = self.process.poll()
        assert status is None, f"it ended with status {status}:\n{self.output()[-6000:]}"
        return True

    def stop(self, seconds: float = 25) -> int:
        """Ask it to stop (SIGTERM), insist after ``seconds``, and return its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


@dataclass
class Lab:
    """One test session's surroundings."""

    folder: Path
    http_port: int
    """Where http-01 is asked and clients answer it."""
    tls_port: int
    """Where tls-alpn-01 is asked and clients answer it."""
    dns_port: int
    management: str
    """The name server's management URL (pebble-challtestsrv's): ``/set-txt`` and ``/clear-txt``."""
    _dns: Program

    @classmethod
    def open(cls, folder: Path) -> Lab:
        """Start the name server."""
        dns_port, management_port = free_port(), free_port()
        program = Program(
            [
                "pebble-challtestsrv",
                *("-dns01", f"{ADDRESS}:{dns_port}"),
                *("-management", f"{ADDRESS}:{management_port}"),
                *("-defaultIPv4", ADDRESS),
                *("-defaultIPv6", ""),
                *("-http01", "", "-https01", "", "-tlsalpn01", ""),
            ],
            log=folder / "challtestsrv.log",
            env=environment(folder),
        )
        wait_for("pebble-challtestsrv", lambda: program.check() and listening(management_port))
        return cls(
            folder=folder,
            http_port=free_port(),
            tls_port=free_port(),
            dns_port=dns_port,
            management=f"http://{ADDRESS}:{management_port}",
            _dns=program,
        )

    @property
    def resolver(self) -> str:
        return f"{ADDRESS}:{self.dns_port}"

    def manage(self, command: str, **values: object) -> None:
        """Tell the name server what to answer: ``manage("set-txt", host="a.example.com.", value="x")``."""
        request = urllib.request.Request(
            f"{self.management}/{command}", data=json.dumps(values).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def hook(self, folder: Path, name: str, body: str) -> Path:
        """An executable shell script, which can call ``set_txt HOST VALUE`` and ``clear_txt HOST``."""
        path = folder / name
        path.write_text(
            "#!/bin/sh\n"
            f'post() {{ curl -sf -d "$2" "{self.management}/$1"; }}\n'
            'set_txt() { post set-txt "{\\"host\\":\\"$1\\",\\"value\\":\\"$2\\"}"; }\n'
            'clear_txt() { post clear-txt "{\\"host\\":\\"$1\\"}"; }\n' + body
        )
        path.chmod(0o755)
        return path

    def close(self) -> None:
        self._dns.stop()


class Webroot:
    """Serves a folder at the lab's http-01 port, for clients that only write challenge files."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.challenges = folder / "www" / ".well-known" / "acme-challenge"
        self.challenges.mkdir(parents=True)
        self._program = Program(
            [
                "/usr/bin/python3",
                *("-m", "http.server", "--bind", ADDRESS, "-d", folder / "www", str(lab.http_port)),
            ],
            log=folder / "www.log",
            env=environment(folder),
        )
        wait_for("the web server", lambda: self._program.check() and listening(lab.http_port))

    def __enter__(self) -> Webroot:
        return self

    def __exit__(self, *exc: object) -> None:
        self._program.stop()


def private_mounts(*binds: tuple[Path, str]) -> list[str]:
    """A command prefix under which each path is seen in place of a system file, by that program alone."""
    script = "".join(f'mount --bind "{source}" "{target}" && ' for source, target in binds) + 'exec "$@"'
    who = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", *who, "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
