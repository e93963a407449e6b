"""What the first start prints works as it is printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.clients.checks import check
from tests.clients.lab import TOOLS, Program, environment, free_port, run, wait_for
from tests.clients.server import COMMAND


def _start(tmp_path: Path, log: str) -> Program:
    command: list[str | Path] = [COMMAND, "serve", "-c", tmp_path / "ports.toml"]
    return Program(command, log=tmp_path / log, env=environment(tmp_path), cwd=tmp_path)


@pytest.fixture
def first_run(tmp_path: Path) -> Program:
    """A server in an empty folder, with nothing set but free ports."""
    settings = tmp_path / "ports.toml"
    settings.write_text(
        f'[listen]\nhttps = "0.0.0.0:{free_port("0.0.0.0")}"\nhttp = "0.0.0.0:{free_port("0.0.0.0")}"\n'
    )
    return _start(tmp_path, "printed")


def test_the_printed_certbot_command_works_as_printed(first_run: Program, tmp_path: Path) -> None:
    try:
        wait_for("the welcome", lambda: first_run.check() and "certbot certonly" in first_run.output(), 60)
        printed = first_run.output()
        command = re.search(r"(?m)^.*certbot certonly(?:.*\\\n)*.*$", printed)
        assert command, printed
        env = environment(tmp_path)
        env["PATH"] = f"{TOOLS}/certbot/bin:{env['PATH']}"
        run(["sh", "-c", command[0]], env=env, cwd=tmp_path)
        (live,) = (path.parent for path in tmp_path.rglob("fullchain.pem") if path.is_symlink())
        name = re.search(r" --domain (\S+)", command[0])
        assert name
        check(tmp_path / "certloom-data/root.pem", live / "fullchain.pem", live / "privkey.pem", [name[1]])
    finally:
        assert first_run.stop() == 0


def test_the_data_directory_is_the_owners_alone_and_secrets_are_told_once(
    first_run: Program, tmp_path: Path
) -> None:
    data = tmp_path / "certloom-data"
    try:
        wait_for("the welcome", lambda: first_run.check() and "certbot certonly" in first_run.output(), 60)
        assert data.stat().st_mode & 0o777 == 0o700
        assert (data / "data.key").stat().st_mode & 0o777 == 0o600
    finally:
        first_run.stop()
    again = _start(tmp_path, "again")
    try:
        wait_for("the second start", lambda: again.check() and (data / "admin.sock").exists(), 60)
    finally:
        again.stop()
    assert "--eab-hmac-key" in first_run.output()
    assert "--eab-hmac-key" not in again.output()
    assert "admin token" not in again.output().lower()
