"""Where a key comes from: files, passphrases, environment variables and programs, in real processes."""

from __future__ import annotations

import base64
import os
import pty
import secrets
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from certloom.secrets import DataKey, SecretError, load_key
from certloom.secrets.key_file import key_id
from certloom.settings import SettingsError, parse
from tests.secrets.keys import LOADER, Keys

GOOD = "correct horse battery staple"
FD = 77


def test_a_key_under_a_passphrase_is_made_at_the_first_start_and_opens_at_the_next(keys: Keys) -> None:
    keys.settings("passphrase", passphrase={"ask": "descriptor", "descriptor": FD})
    made = keys.load(fds={FD: GOOD.encode() + b"\n"})
    assert made.ok, made.said
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600
    assert os.listdir(keys.data) == ["data.key"]
    assert keys.load(fds={FD: GOOD.encode()}).id == made.id
    wrong = keys.load(fds={FD: b"correct horse battery stable\n"})
    assert wrong.said.strip() == f"refused: wrong passphrase for {keys.file}"


def test_a_systemd_credential_holds_the_passphrase(keys: Keys, tmp_path: Path) -> None:
    keys.settings("passphrase", passphrase={"ask": "credential", "credential": "tresor"})
    (tmp_path / "tresor").write_text(GOOD + "\n")
    made = keys.load(CREDENTIALS_DIRECTORY=str(tmp_path))
    assert made.id == keys.load(CREDENTIALS_DIRECTORY=str(tmp_path)).id
    assert "CREDENTIALS_DIRECTORY is not set" in keys.load().said
    assert "No such file" in keys.load(CREDENTIALS_DIRECTORY=str(keys.data)).said


def _at_terminal(keys: Keys, *answers: str) -> tuple[int, str]:
    """Exit status, and everything that was to be seen, of a start at a terminal where this is typed."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", LOADER, str(keys.config)])
    shown = b""
    try:
        for answer in answers:
            end = time.monotonic() + 30
            before = shown.count(b": ")
            while shown.count(b": ") == before and time.monotonic() < end:
                shown += os.read(terminal, 4096)
            os.write(terminal, answer.encode() + b"\n")
        while piece := os.read(terminal, 4096):
            shown += piece
    except OSError:  # the other end is closed
        pass
    finally:
        os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def test_a_person_is_asked_twice_for_a_new_passphrase_and_may_mistype_an_old_one(keys: Keys) -> None:
    keys.settings("passphrase")
    status, shown = _at_terminal(keys, "short", GOOD, "not the same", GOOD, GOOD)
    assert status == 0, shown
    assert "at least 12 characters" in shown
    assert "differ" in shown
    status, shown = _at_terminal(keys, "something else", GOOD)
    assert status == 0, shown
    assert GOOD not in shown
    status, shown = _at_terminal(keys, "one wrong one", "another wrong", "and a third wrong")
    assert status == 1
    assert "refused: wrong passphrase" in shown


def test_without_a_terminal_nobody_is_asked(keys: Keys) -> None:
    keys.settings("passphrase")
    assert "there is no terminal" in keys.load().said
    assert not keys.file.exists()


def test_a_passphrase_typed_in_another_normal_form_is_the_same(tmp_path: Path) -> None:
    settings = parse('[secrets]\nsource = "passphrase"').secrets
    typed = "Schl\u00fcssel f\u00fcr alles"
    made = load_key(settings, tmp_path / "k", ask=lambda _: typed).seal("p", b"x")
    again = load_key(settings, tmp_path / "k", ask=lambda _: "Schlu\u0308ssel fu\u0308r alles")
    assert again.open("p", made) == b"x"


@pytest.mark.parametrize("lanes", [0, 4_000_000_000])
def test_parameters_in_a_key_file_are_not_believed_blindly(tmp_path: Path, lanes: int) -> None:
    from certloom.secrets import passphrase

    sealed = passphrase.seal(GOOD, "p", b"x")
    for field in ("memory_kib", "passes", "lanes"):
        changed = type(sealed)(
            **{name: getattr(sealed, name) for name in sealed.__struct_fields__} | {field: lanes}
        )
        with pytest.raises(SecretError, match="out of bounds"):
            passphrase.unseal(GOOD, "p", changed)


def test_a_key_from_the_environment_cannot_be_seen_there_any_more(keys: Keys) -> None:
    keys.settings("env", env={"variable": "TRESOR"})
    key = secrets.token_bytes(32)
    text = base64.b64encode(key).decode()
    made = keys.load(TRESOR=text)
    assert made.id == key_id(key).hex()
    assert b"PATH=" in made.visible
    assert text.encode() not in made.visible
    assert text not in keys.file.read_text()
    other = base64.b64encode(secrets.token_bytes(32)).decode()
    refused = keys.load(TRESOR=other)
    assert "gives another key than the one" in refused.said
    assert other not in refused.said
    assert "TRESOR is not set" in keys.load().said
    short = keys.load(TRESOR="c2hvcnQ=")
    assert "not the base64 of 32 octets" in short.said
    assert "c2hvcnQ" not in short.said


def _program(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def test_a_program_encrypts_and_decrypts_the_key(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("of openssl's own\n")
    openssl = "openssl enc -aes-256-cbc -pbkdf2 -pass file:" + str(tmp_path / "pass")
    decrypt = _program(tmp_path, "decrypt", f"exec {openssl} -d")
    encrypt = _program(tmp_path, "encrypt", f"exec {openssl}")
    keys.settings("command", command={"decrypt": [decrypt], "encrypt": [encrypt]})
    made = keys.load()
    assert made.ok, made.said
    assert keys.load().id == made.id
    (tmp_path / "pass").write_text("another\n")
    assert "decrypt ended with status 1" in keys.load().said


def test_a_program_that_knows_the_key_prints_it(keys: Keys, tmp_path: Path) -> None:
    key = secrets.token_bytes(32)
    (tmp_path / "kept").write_bytes(base64.b64encode(key))
    keys.settings("command", command={"decrypt": ["/bin/cat", str(tmp_path / "kept")]})
    assert keys.load().id == keys.load().id == key_id(key).hex()
    (tmp_path / "kept").write_bytes(base64.b64encode(bytes(32)))
    assert "gives another key" in keys.load().said
    (tmp_path / "kept").write_text("nonsense")
    refused = keys.load().said
    assert "is not the base64 of 32 octets" in refused
    assert "nonsense" not in refused


def test_a_program_that_hangs_is_ended_with_all_that_it_started(keys: Keys, tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    hang = _program(tmp_path, "hang", f"sleep 300 & echo $! $$ > {pids}; wait")
    keys.settings("command", command={"decrypt": [hang], "seconds": 1})
    assert "did not end within 1 s" in keys.load().said
    for pid in pids.read_text().split():
        for _ in range(100):
            try:
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    break
            except FileNotFoundError:
                break
            time.sleep(0.02)
        else:
            os.kill(int(pid), signal.SIGKILL)
            raise AssertionError(f"{pid} lives on")


def test_a_program_that_is_not_there_or_floods_is_a_clear_error(keys: Keys) -> None:
    keys.settings("command", command={"decrypt": ["/nowhere/at/all"]})
    assert "/nowhere/at/all cannot be started: No such file" in keys.load().said
    keys.settings("command", command={"decrypt": ["/usr/bin/head", "-c", "100000", "/dev/zero"]})
    assert "printed more than" in keys.load().said


def test_the_file_and_the_settings_have_to_agree_on_the_source(keys: Keys, tmp_path: Path) -> None:
    """Whoever can change the file alone cannot put a key of his own in its place."""
    keys.settings("command", command={"decrypt": ["/bin/cat", str(tmp_path / "kept")]})
    (tmp_path / "kept").write_bytes(base64.b64encode(bytes(range(32))))
    assert keys.load().ok
    guarded = keys.file.read_bytes()
    keys.file.unlink()
    DataKey.load_or_create(keys.file)
    assert "is in the clear, but settings name source 'command'" in keys.load().said
    keys.settings("file")
    assert keys.load().ok
    keys.file.write_bytes(guarded)
    assert "wrapped for source 'command', but settings name source 'file'" in keys.load().said


def test_every_damage_of_a_key_file_is_found(keys: Keys) -> None:
    keys.settings("passphrase", passphrase={"ask": "descriptor", "descriptor": FD})
    assert keys.load(fds={FD: GOOD.encode()}).ok
    settings = parse(keys.config.read_text()).secrets
    whole = keys.file.read_bytes()
    for at in range(0, len(whole) - 1, 7):
        keys.file.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        with pytest.raises(SecretError, match=r"damaged|does not hold a data key"):
            load_key(settings, keys.file)
    for length in (0, 30, len(whole) // 2, len(whole) - 5):
        keys.file.write_bytes(whole[:length])
        with pytest.raises(SecretError, match=r"damaged|does not hold a data key"):
            load_key(settings, keys.file)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[secrets]\nsource = "vault"', "$.secrets.vault.address"),
        (
            '[secrets]\nsource = "vault"\n[secrets.vault]\naddress = "http://v.test"',
            "$.secrets.vault.address",
        ),
        (
            '[secrets]\nsource = "vault"\n[secrets.vault]\naddress = "https://v.test"\nrole_id = "x"',
            "$.secrets.vault.secret_id_file",
        ),
        (
            '[secrets]\nsource = "vault"\n[secrets.vault]\naddress = "https://v"\ntoken_file = "t"\n'
            'key = "../sys"',
            "$.secrets.vault.key",
        ),
        ('[secrets]\nsource = "aws-kms"', "$.secrets.aws_kms.key"),
        ('[secrets]\nsource = "command"', "$.secrets.command.decrypt"),
        ('[secrets]\nsource = "command"\n[secrets.command]\ndecrypt = ["cat"]', "$.secrets.command.decrypt"),
        ('[secrets]\nsource = "env"\n[secrets.env]\nvariable = "A=B"', "$.secrets.env.variable"),
        ('[signer.secrets]\nsource = "env"', "$.signer.secrets.source"),
        ('[signer.secrets]\nsource = "passphrase"', "$.signer.secrets.passphrase.ask"),
        ('[signer.secrets]\nsource = "aws-kms"', "$.signer.secrets.aws_kms.key"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_their_path(text: str, where: str) -> None:
    with pytest.raises(SettingsError) as refused:
        parse(text)
    assert any(problem.startswith(f"{where}:") for problem in refused.value.problems), refused.value.problems


def test_a_server_starts_with_a_key_from_the_environment_and_keeps_it_to_itself(keys: Keys) -> None:
    keys.settings("env")
    text = base64.b64encode(secrets.token_bytes(32)).decode()
    keys.config.write_text(
        'public_http_url = "http://pki.test"\n'
        + keys.config.read_text()
        + '[listen]\nhttps = "127.0.0.1:0"\nhttp = "127.0.0.1:0"\n'
    )
    log = keys.folder / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [Path(sys.executable).with_name("certloom"), "serve", "-c", keys.config],
            env={"PATH": os.environ["PATH"], "CERTLOOM_DATA_KEY": text},
            stdout=output,
            stderr=output,
        )
    try:
        for _ in range(400):
            if b"CRLs: http" in log.read_bytes():
                break
            assert server.poll() is None, log.read_text()
            time.sleep(0.05)
        family = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(server.pid)], capture_output=True, text=True, check=False
        )
        for pid in [str(server.pid), *family.stdout.split()]:
            assert text.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
            assert text.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert text not in log.read_text()
    finally:
        server.terminate()
        server.wait(20)
