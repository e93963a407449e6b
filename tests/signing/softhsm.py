"""SoftHSM2 tokens for tests, also behind p11-kit's remoting, where their process can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from certloom.settings.tokens import Token

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
CLIENT = next(iter(Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so")), Path("p11-kit-client.so"))
PIN = "123456"

needs_softhsm = pytest.mark.skipif(
    not MODULE.exists() or shutil.which("softhsm2-util") is None, reason="softhsm2 is not installed"
)
needs_p11_kit = pytest.mark.skipif(
    not CLIENT.exists() or shutil.which("p11-kit") is None, reason="p11-kit is not installed"
)


class SoftHSM:
    """A token in a folder. Its settings are in the environment, as SoftHSM wants it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, label: str = "certloom") -> None:
        self.folder = folder
        self.label = label
        (folder / "tokens").mkdir(parents=True)
        config = folder / "softhsm2.conf"
        config.write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
        monkeypatch.setenv("SOFTHSM2_CONF", str(config))
        self.util("--init-token", "--free", "--label", label, "--so-pin", "654321", "--pin", PIN)
        self.pin_file = folder / "pin"
        self.write_pin(PIN)

    def write_pin(self, pin: str) -> None:
        self.pin_file.write_text(pin + "\n")
        self.pin_file.chmod(0o600)

    def util(self, *arguments: str) -> str:
        done = subprocess.run(
            ["softhsm2-util", *arguments], capture_output=True, text=True, check=False, timeout=30
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def settings(self, module: Path = MODULE, **changes: object) -> Token:
        plain: dict[str, object] = {
            "module": str(module),
            "pin_file": str(self.pin_file),
            "token": self.label,
        }
        return Token(**{**plain, **changes})  # type: ignore[arg-type]


class Remote:
    """The token in a process of its own, reached through ``p11-kit-client.so``."""

    def __init__(self, token: SoftHSM, monkeypatch: pytest.MonkeyPatch) -> None:
        self._socket = token.folder / "p11.sock"
        self._label = token.label
        self._process: subprocess.Popen[bytes] | None = None
        self.address = f"unix:path={self._socket}"
        """What clients find in ``P11_KIT_SERVER_ADDRESS``."""
        monkeypatch.setenv("P11_KIT_SERVER_ADDRESS", self.address)

    def start(self) -> None:
        self._socket.unlink(missing_ok=True)
        command = ["p11-kit", "server", "-f", "-n", str(self._socket), "--provider", str(MODULE)]
        # A session of its own: it forks for each client, and all of them are killed at once.
        self._process = subprocess.Popen(
            [*command, f"pkcs11:token={self._label}"], stdout=subprocess.DEVNULL, start_new_session=True
        )
        deadline = time.monotonic() + 10
        while not self._socket.exists():
            assert self._process.poll() is None, "p11-kit server has ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def kill(self) -> None:
        """The server and the processes it has forked for its clients."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
