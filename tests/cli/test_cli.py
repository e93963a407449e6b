"""The command line, as a process: what it prints, what it returns, with and without a running server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest

from certloom.cli.approvals import ApprovalState as ShownApprovalState
from certloom.cli.certificates import CertificateState
from certloom.cli.credentials import Kind
from certloom.cli.requests import RequestState
from certloom.enrollment.states import ApprovalState, State
from certloom.identity.kinds import KINDS
from certloom.pki.pem import to_pem
from certloom.store import certificate_search
from tests.cli.shell import Shell
from tests.protocols.est.lab import Manufacturer, der_of


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """With a running server."""
    shell = Shell(tmp_path_factory.mktemp("served"))
    process = shell.serve()
    yield shell
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0


def test_help_imports_nothing_heavy(shell: Shell) -> None:
    code = (
        "import sys, certloom.cli.main;"
        "heavy = {'cryptography', 'asyncio', 'msgspec', 'psycopg', 'aiohttp', 'uvloop', 'ssl', 'http.client'}"
        " & set(sys.modules);"
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Exit status:" in shell("--help")
    assert shell("version").strip()
    assert shell("--version") == shell("version")


def test_config_check_names_what_is_wrong_and_exits_with_3(shell: Shell) -> None:
    assert shell("config", "check").endswith("good\n")
    shell.config.write_text("[listen]\nhttps = 'x'\nhttp = 'y'\n")
    output = shell("config", "check", status=3)
    assert "$.listen.https: 'x': expected host:port" in output
    assert "$.listen.http: 'y': expected host:port" in output
    assert "$.listen.https" in shell("serve", status=3)
    assert "$.listen.https" in shell("profile", "list", status=3)


def test_config_show_prints_settings_that_can_be_read_again_without_the_password(shell: Shell) -> None:
    shell.config.write_text('[database]\nurl = "postgresql://me:geheim@db/certloom?sslmode=require"\n')
    shown = shell("config", "show")
    assert "geheim" not in shown
    assert "me:***@db" in shown
    (shell.folder / "again.toml").write_text(shown)
    assert shell("config", "check", "-c", str(shell.folder / "again.toml")).endswith("good\n")
    shell.config.write_text('[database]\nurl = "postgresql:///certloom?password=geheim"\n')
    assert "geheim" not in shell("config", "show")
    assert shell.json("config", "show")["limits"]["header_count"] == 64


def test_without_an_installation_commands_say_so_and_make_none(shell: Shell) -> None:
    assert "no installation" in shell("profile", "list", status=4)
    assert not (shell.folder / "data").exists()


def test_wrong_usage_exits_with_2(shell: Shell) -> None:
    shell("nonsense", status=2)
    shell("certificate", "list", "--limit", "0", status=2)
    shell("credential", "create", "--expires-in", "soon", status=2)
    assert "awaiting_approval" in shell("request", "list", "--state", "open", status=2)


def test_commands_reach_the_running_server(served: Shell) -> None:
    assert "tls-server" in served("profile", "list")
    assert served.json("profile", "show", "device")["version"] == 1
    assert served.json("channel", "list")[0]["url"].startswith("https://localhost:")
    assert served.json("channel", "show", "default")["channel"]["profiles"] == ["tls-server"]
    assert {a["name"] for a in served.json("authority", "list")} == {"root", "issuing"}
    assert "BEGIN CERTIFICATE" in served("authority", "show", "root")
    made = served.json("credential", "create", "--name", "a.example", "--uses", "1", "--expires-in", "12h")
    assert made["id"] in served("credential", "list")
    assert made["secret"] not in served("credential", "list")
    served("credential", "revoke", made["id"])
    assert "is revoked" in served("credential", "revoke", made["id"], status=1)
    assert made["id"] not in served("credential", "list")
    assert made["id"] in served("credential", "list", "--all")
    (listener,) = served.json("certificate", "list", "--profile", "tls-server")
    assert "dns:localhost" in served("certificate", "show", listener["serial"])
    assert "to-be-replaced" in served("certificate", "replace", str(listener["id"]), "--reason", "test")
    assert served.json("certificate", "list", "--state", "to-be-replaced", "--under", "localhost")
    assert served.json("certificate", "list", "--serial", listener["serial"], "--sort", "expires")
    assert "no certificates" in served("certificate", "list", "--expires-before", "1d")
    assert "valid" in served("certificate", "replace", str(listener["id"]), "--undo")
    assert "no open requests" in served("request", "list")
    assert "no such requests" in served("request", "list", "--state", "denied")
    assert "there is no such thing" in served("request", "approve", "none", status=1)
    assert "nothing waits" in served("approval", "list")
    assert "events checked" in served("audit", "verify")
    assert "0 failed" in served("status")
    assert "no jobs" in served("job", "list", "--state", "failed")
    assert "no webhooks" in served("webhook", "list")


def test_apply_reads_toml_json_and_standard_input(served: Shell, tmp_path: Path) -> None:
    toml = """
        [[channels]]
        protocol = "acme"
        name = "corp"
        profiles = ["tls-server", "device"]

        [[credentials]]
        id = "robots"
        channel = "corp"
        names = ["**.corp.example"]
        expires = 2100-01-01T00:00:00Z
    """
    (tmp_path / "corp.toml").write_text(toml)
    file = str(tmp_path / "corp.toml")
    planned = served("apply", "-f", file, "--dry-run")
    assert "created    channel corp" in planned
    assert "Nothing was changed" in planned
    applied = served("apply", "-f", file)
    assert "(acme-eab), shown once" in applied
    assert "unchanged" in served("apply", "-f", "-", text=toml)
    document = {"channels": [{"protocol": "acme", "name": "corp", "profiles": ["tls-server"]}]}
    (tmp_path / "corp.json").write_text(json.dumps(document))
    assert 'profiles: ["tls-server","device"] -> ["tls-server"]' in served(
        "apply", "-f", str(tmp_path / "corp.json")
    )
    (tmp_path / "bad.toml").write_text("[[channels]]\nname = 3")
    assert "$.channels[0]" in served("apply", "-f", str(tmp_path / "bad.toml"), status=1)
    (tmp_path / "pattern.toml").write_text(toml.replace("**.corp", "**corp"))
    output = served("apply", "-f", str(tmp_path / "pattern.toml"), status=1)
    assert "'**corp.example' is not a DNS name" in output
    assert "`$.credentials[0].names[0]`" in output
    several = toml.replace("**.corp", "**corp") + '[[channels]]\nname = "x"\nprofiles = ["none", "nor"]\n'
    unreadable = several + '[[channels]]\nname = 3\n[[profiles]]\nname = "y"\n'
    output = served("apply", "-f", "-", text=unreadable, status=1)
    assert "2 things cannot be as declared" in output
    assert "`$.channels[2].name`" in output
    assert "`$.profiles[0].authority`" in output
    output = served("apply", "-f", "-", text=several, status=1)
    assert "no profile 'none' - at `$.channels[1].profiles`" in output
    assert "`$.credentials[0].names[0]`" in output
    assert "declares nothing" in served("apply", "-f", "-", text="")
    (tmp_path / "worse.toml").write_text("[[")
    served("apply", "-f", str(tmp_path / "worse.toml"), status=1)
    served("apply", "-f", str(tmp_path / "none.toml"), status=1)


def test_a_row_is_one_line_where_no_terminal_shows_it(served: Shell) -> None:
    name = "a" * 60 + "." + "b" * 60 + "." + "c" * 60 + ".example"
    made = served.json("credential", "create", "--name", name)
    (line,) = (line for line in served("credential", "list").splitlines() if made["id"] in line)
    assert name in line


@pytest.mark.parametrize(
    ("shown", "meant"),
    [
        # One that ends in the transaction it begins in is never found.
        (RequestState, {*State} - {State.RECEIVED}),
        (ShownApprovalState, {*ApprovalState}),
        (CertificateState, {*certificate_search.State}),
        (Kind, {*KINDS}),
    ],
)
def test_words_of_the_command_line_are_those_of_the_product(shown: type[StrEnum], meant: set[str]) -> None:
    assert {str(word) for word in shown} == {str(word) for word in meant}


def test_a_key_is_blocked_by_its_digest_or_by_a_file_that_holds_it(served: Shell, tmp_path: Path) -> None:
    pem = served.json("certificate", "show", "1")
    (tmp_path / "leaf.pem").write_text(pem["certificate_pem"])
    blocked = served.json("key", "block", str(tmp_path / "leaf.pem"), "--reason", "test")
    assert blocked["spki_sha256"] == pem["spki_sha256"]
    assert served.json("key", "block", pem["spki_sha256"], "--reason", "again")["why"] == "test"
    assert served("key", "digest", str(tmp_path / "leaf.pem")).strip() == pem["spki_sha256"]
    assert served.json("key", "show", pem["spki_sha256"])["unrevoked_certificates"] == [1]
    (tmp_path / "text.pem").write_text("nothing")
    served("key", "block", str(tmp_path / "text.pem"), "--reason", "test", status=1)


def test_without_a_server_commands_do_the_same_themselves_and_backup_restores(
    shell: Shell, tmp_path: Path
) -> None:
    process = shell.serve()
    archive = str(tmp_path / "backup.tar")
    assert "Whoever can read it" in shell("backup", archive)
    assert "in use by process" in shell(
        "restore", archive, "--force", status=1
    ) or "already running" in shell("restore", archive, "--force", status=1)
    process.terminate()
    assert process.wait(timeout=20) == 0
    assert "tls-server" in shell("profile", "list")
    made = shell.json("credential", "create")
    assert "--force" in shell("restore", archive, status=1)
    assert "Put aside" in shell("restore", archive, "--force")
    assert made["id"] not in shell("credential", "list")
    assert shell.json("audit", "verify")["intact"] is True


def test_an_altered_audit_log_exits_with_5(shell: Shell) -> None:
    import sqlite3

    process = shell.serve()
    process.terminate()
    assert process.wait(timeout=20) == 0
    with sqlite3.connect(shell.folder / "data" / "certloom.db") as database:
        database.execute("UPDATE events SET kind = 'nothing.happened' WHERE sequence = 2")
    assert "event 2: changed" in shell("audit", "verify", status=5)


def test_trust_anchors_come_from_files(tmp_path: Path, served: Shell) -> None:
    acme = Manufacturer()
    pem = b"".join(to_pem(der_of(c)) for c in (acme.root, acme.intermediate))
    (tmp_path / "cas.pem").write_bytes(pem)
    (tmp_path / "root.der").write_bytes(der_of(acme.root))
    assert "2 CAs" in served("anchors", "put", "acme", str(tmp_path / "cas.pem"))
    assert "1 CAs" in served("anchors", "put", "acme", str(tmp_path / "root.der"), "--description", "new")
    assert "CN=Acme Root" in served("anchors", "show", "acme")
    assert "acme" in served("anchors", "list")
    declared = """
        [[trust_anchors]]
        name = "both"
        files = ["cas.pem"]
        [[channels]]
        protocol = "est"
        name = "plant"
        profile = "device"
        anchors = ["both"]
    """
    (tmp_path / "plant.toml").write_text(declared)
    assert "created    trust-anchors both" in served("apply", "-f", str(tmp_path / "plant.toml"))
    assert "no certificate in it" in served("anchors", "put", "x", str(tmp_path / "plant.toml"), status=1)
    assert "est/plant" in served("anchors", "delete", "both", status=1)
    served("anchors", "delete", "acme")
