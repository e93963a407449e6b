"""Key files and settings for them, used by processes as an operator uses them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

COMMAND = Path(sys.executable).with_name("certloom")

# Seals something under the key that settings lead to, and tells what its process and its children can see.
LOADER = """
import os, subprocess, sys
from pathlib import Path
from certloom.secrets import SecretError, load_key
from certloom.settings import load
settings = load(sys.argv[1])
try:
    key = load_key(settings.secrets, Path(settings.data_dir) / "data.key")
except SecretError as error:
    sys.exit(f"refused: {error}")
print(key.seal("p", b"x").hex())
print(Path("/proc/self/environ").read_bytes().hex())
print(subprocess.run(["env", "-0"], capture_output=True).stdout.hex())
"""


class Loaded:
    """What the loader tells."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.said = done.stderr
        self.ok = done.returncode == 0
        if self.ok:
            sealed, seen, children = done.stdout.split()[-3:]
            self.id = sealed[2:10]
            self.visible = bytes.fromhex(seen) + bytes.fromhex(children)


class Keys:
    """A data directory and its settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(mode=0o700)
        self.file = self.data / "data.key"
        self.config = folder / "certloom.toml"
        self.settings("file")

    def settings(self, source: str, **sections: Mapping[str, object]) -> None:
        lines = [f"data_dir = {json.dumps(str(self.data))}", "[secrets]", f'source = "{source}"']
        for name, values in sections.items():
            lines += [f"[secrets.{name}]"]
            lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        self.config.write_text("\n".join(lines) + "\n")

    def load(self, *, fds: Mapping[int, bytes] | None = None, **environment: str) -> Loaded:
        """Load the key in a process of its own, made if it is not there."""
        return Loaded(self._run([sys.executable, "-c", LOADER, str(self.config)], fds or {}, environment))

    def certloom(
        self, *words: str, status: int = 0, fds: Mapping[int, bytes] | None = None, **environment: str
    ) -> str:
        done = self._run([COMMAND, *words, "-c", str(self.config)], fds or {}, environment)
        assert done.returncode == status, (words, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def _run(
        self, command: Sequence[str | Path], fds: Mapping[int, bytes], environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("CERTLOOM_", "AWS_"))
        }
        passed = []
        for number, text in fds.items():
            read, write = os.pipe()
            os.write(write, text)
            os.close(write)
            os.dup2(read, number, inheritable=True)
            os.close(read)
            passed.append(number)
        try:
            return subprocess.run(
                command,
                env={**kept, **environment},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # no terminal, whoever runs the tests
                pass_fds=passed,
            )
        finally:
            for number in passed:
                os.close(number)
