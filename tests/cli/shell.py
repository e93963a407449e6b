"""The command line as people use it: processes, on a configuration of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

COMMAND = Path(sys.executable).with_name("certloom")


class Shell:
    """Commands on one configuration; ``remote`` ones ask a server elsewhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "certloom.toml"
        self.config.write_text(
            f'data_dir = "{folder}/data"\npublic_http_url = "http://pki.test"\n'
            '[listen]\nhttps = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\n'
        )
        self.remote: dict[str, str] = {}

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CERTLOOM_")}
        own = {
            "CERTLOOM_CONFIG": str(self.config),
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "XDG_CONFIG_HOME": str(self.folder / "xdg"),
        }
        return {**kept, **own, **self.remote}

    def __call__(self, *words: str, status: int = 0, text: str | None = None) -> str:
        done = subprocess.run(
            [COMMAND, *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            input=text,
            check=False,
        )
        assert done.returncode == status, (words, done.stdout + done.stderr)
        return done.stdout if status == 0 else done.stdout + done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def serve(self) -> subprocess.Popen[bytes]:
        output = self.folder / "stdout"
        with output.open("wb") as stdout, (self.folder / "stderr").open("wb") as stderr:
            process = subprocess.Popen(
                [COMMAND, "serve", "-c", self.config], stdout=stdout, stderr=stderr, env=self.environment()
            )
        for _ in range(400):
            if "CRLs: http" in output.read_text():
                return process
            assert process.poll() is None, (self.folder / "stderr").read_text()
            time.sleep(0.05)
        raise AssertionError("the server did not start")

    def elsewhere(self, folder: Path, **more: str) -> Shell:
        """Another user's shell, who reaches this server over HTTPS alone."""
        folder.mkdir(exist_ok=True)
        other = Shell(folder)
        other.config.unlink()
        other.remote = {
            "CERTLOOM_CONFIG": "",
            "CERTLOOM_SERVER": self.json("status")["url"],
            "CERTLOOM_CA_FILE": str(self.folder / "data/root.pem"),
            **more,
        }
        return other
