"""Moving a key from one source to another."""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from certloom.secrets import DataKey, SecretError, key_file, load_key
from certloom.secrets.protect import protect
from certloom.settings import parse
from tests.secrets.keys import Keys

FD = 77
UNDER_PASSPHRASE = {"ask": "descriptor", "descriptor": FD}
OLD, NEW = b"the passphrase of yesterday\n", b"the passphrase of tomorrow\n"


def test_a_key_goes_from_the_clear_to_a_passphrase_to_another_and_back(keys: Keys) -> None:
    sealed = DataKey.load_or_create(keys.file).seal("p", b"secret")
    plain = keys.file.read_bytes()
    keys.settings("file", passphrase=UNDER_PASSPHRASE)
    said = keys.certloom("key", "protect", "--with", "passphrase", fds={FD: OLD})
    assert 'Set source = "passphrase" in [secrets]' in said
    assert stat.S_IMODE(keys.file.stat().st_mode) == 0o600
    assert plain[-40:-2] not in keys.file.read_bytes()
    assert "settings name source 'file'" in keys.load().said

    keys.settings("passphrase", passphrase=UNDER_PASSPHRASE)
    assert keys.load(fds={FD: OLD}).ok
    keys.certloom("key", "protect", "--with", "passphrase", fds={FD: OLD + NEW})
    assert "wrong passphrase" in keys.load(fds={FD: OLD}).said
    assert keys.load(fds={FD: NEW}).ok
    told = json.loads(keys.certloom("key", "source", "--json"))
    assert told == {"file": str(keys.file), "source": "passphrase", "settings": "passphrase"}

    keys.certloom("key", "protect", "--with", "file", fds={FD: NEW})
    assert keys.file.read_bytes() == plain
    keys.settings("file")
    assert keys.load().ok
    assert DataKey.load(keys.file).open("p", sealed) == b"secret"
    assert sorted(os.listdir(keys.data)) == ["data.key", "server.lock"]


def test_a_key_moves_into_the_environment_only_when_it_is_there(keys: Keys, tmp_path: Path) -> None:
    DataKey.load_or_create(keys.file)
    before = keys.file.read_bytes()
    out = tmp_path / "exported"
    keys.certloom("key", "export", "-o", str(out))
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    keys.certloom("key", "export", "-o", str(out), status=2)
    wrong = base64.b64encode(bytes(32)).decode()
    assert "is not set" in keys.certloom("key", "protect", "--with", "env", status=1)
    assert "another key" in keys.certloom(
        "key", "protect", "--with", "env", status=1, CERTLOOM_DATA_KEY=wrong
    )
    assert keys.file.read_bytes() == before
    key = out.read_text().strip()
    keys.certloom("key", "protect", "--with", "env", CERTLOOM_DATA_KEY=key)
    keys.settings("env")
    assert keys.load(CERTLOOM_DATA_KEY=key).ok
    assert base64.b64decode(key).hex() not in keys.file.read_text()
    assert key not in keys.file.read_text()


def test_the_signer_has_a_key_file_of_its_own(keys: Keys) -> None:
    DataKey.load_or_create(keys.file)
    signer = keys.data / "signer.key"
    DataKey.load_or_create(signer)
    before = keys.file.read_bytes()
    text = keys.config.read_text()
    keys.config.write_text(text + f'[signer.secrets.passphrase]\nask = "descriptor"\ndescriptor = {FD}\n')
    said = keys.certloom("key", "protect", "--with", "passphrase", "--signer", fds={FD: OLD})
    assert "[signer.secrets]" in said
    assert keys.file.read_bytes() == before
    assert signer.read_bytes().startswith(b"certloom-wrapped-key-v1 ")


def test_whoever_owned_the_file_owns_it_still(keys: Keys) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    DataKey.load_or_create(keys.file)
    os.chown(keys.file, 12345, 12346)
    keys.settings("file", passphrase=UNDER_PASSPHRASE)
    keys.certloom("key", "protect", "--with", "passphrase", fds={FD: OLD})
    assert (keys.file.stat().st_uid, keys.file.stat().st_gid) == (12345, 12346)


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("--with", "nonsense"), 2, "there is no source"),
        (("--with", "vault"), 1, "vault.address"),
        (("--with", "command"), 1, "command.decrypt"),
        (("--with", "passphrase"), 1, "there is no terminal"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    keys: Keys, words: tuple[str, ...], status: int, why: str
) -> None:
    DataKey.load_or_create(keys.file)
    before = keys.file.read_bytes()
    assert why in keys.certloom("key", "protect", *words, status=status)
    assert keys.file.read_bytes() == before
    assert "No such file" in keys.certloom("key", "protect", "--with", "file", "--signer", status=1)


def test_it_is_not_done_under_a_running_server(keys: Keys) -> None:
    import fcntl

    DataKey.load_or_create(keys.file)
    with (keys.data / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "already running" in keys.certloom("key", "protect", "--with", "file", status=1)


def test_a_source_that_does_not_give_back_the_key_is_found_before_anything_is_replaced(
    tmp_path: Path,
) -> None:
    path = tmp_path / "data.key"
    DataKey.load_or_create(path)
    before = path.read_bytes()
    lost = '[secrets.command]\nencrypt = ["/bin/true"]\ndecrypt = ["/bin/cat"]\n'
    with pytest.raises(SecretError, match="not the base64 of 32 octets"):
        protect(parse(lost).secrets, path, "command")
    assert path.read_bytes() == before


@pytest.mark.parametrize("call", ["fsync", "rename", "pwrite", "open"])
def test_a_crash_at_any_step_leaves_a_whole_key_file(tmp_path: Path, call: str) -> None:
    """The process ends just before, or just after, each call of the system that touches files."""
    settings = parse('[secrets.command]\nencrypt = ["/bin/cat"]\ndecrypt = ["/bin/cat"]\n').secrets
    ended = []
    for crash_at in range(6):
        for after in (False, True):
            path = tmp_path / f"{crash_at}-{after}"
            sealed = DataKey.load_or_create(path).seal("p", b"secret")
            ended.append(_in_a_child(partial(protect, settings, path, "command"), call, crash_at, after))
            source = key_file.source_of(key_file.decode(key_file.read(path), path))
            assert source in ("file", "command")
            found = parse(f'[secrets]\nsource = "{source}"\n[secrets.command]\ndecrypt = ["/bin/cat"]\n')
            assert load_key(found.secrets, path, create=False).open("p", sealed) == b"secret"
    assert set(ended) == {0, 9}


def _in_a_child(work: Callable[[], object], call: str, crash_at: int, after: bool) -> int:
    """Exit status of a child that does this and ends, with status 9, at one call of a function of ``os``."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    real = getattr(os, call)
    calls = iter(range(1_000_000))

    def counted(*arguments: object, **more: object) -> object:
        this = next(calls)
        if this == crash_at and not after:
            os._exit(9)
        result = real(*arguments, **more)
        if this == crash_at:
            os._exit(9)
        return result

    setattr(os, call, counted)
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)
