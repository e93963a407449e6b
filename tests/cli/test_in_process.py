"""The API asked within the command's own process: whole answers, streams, and what is wrong."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from certloom.cli.carriers import Unreachable
from certloom.cli.client import Client, Problem
from certloom.cli.in_process import InProcess
from certloom.settings import load
from tests.cli.shell import COMMAND, Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """An installation that was started once."""
    shell = Shell(tmp_path_factory.mktemp("installation"))
    process = shell.serve()
    process.terminate()
    assert process.wait(timeout=20) == 0
    return shell


@pytest.fixture
def client(shell: Shell) -> Iterator[Client]:
    client = Client(InProcess(load(shell.config)))
    yield client
    client.close()


def test_answers_problems_and_pages_are_those_of_the_api(client: Client) -> None:
    assert client.get("/whoami")["kind"] == "local"
    assert [row["name"] for row in client.rows("/profiles", 2)] == ["device", "tls-client"]
    with pytest.raises(Problem, match="no profile 'none'") as caught:
        client.get("/profiles/none")
    assert caught.value.code == "not-found"


def test_a_stream_is_read_piece_by_piece_and_can_be_left(client: Client) -> None:
    lines = client.raw_lines("/audit/events")
    assert json.loads(next(lines))["type"] == "start"
    # The next request ends what is left of it.
    assert client.get("/whoami")["kind"] == "local"
    assert len(list(client.raw_lines("/audit/events"))) > 5
    (*_, last) = client.lines("POST", "/plans", None, {"profiles": []})
    assert "summary" in last


def test_a_change_stays(shell: Shell) -> None:
    client = Client(InProcess(load(shell.config)))
    made = client.create("/credentials", {"kind": "acme-eab", "channel": "default"}).value
    client.close()
    assert made["credential"]["id"] in shell("credential", "list")


def test_a_database_that_is_in_use_exits_with_4(client: Client, shell: Shell) -> None:
    assert client.get("/whoami")
    with pytest.raises(Unreachable):
        InProcess(load(shell.config))
    shell("profile", "list", status=4)


def test_commands_print_no_logs(shell: Shell, tmp_path: Path) -> None:
    done = subprocess.run(
        [COMMAND, "profile", "show", "none"],
        env=shell.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "certloom: there is no profile 'none'\n"
    (tmp_path / "site.toml").write_text('[[channels]]\nname = "late"\nprofiles = ["device"]\n')
    assert "created    channel late" in shell("apply", "-f", str(tmp_path / "site.toml"))
