"""The data key and what it seals."""

from __future__ import annotations

import pickle
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.secrets import DataKey, SecretError


def test_a_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "data.key"
    sealed = DataKey.load_or_create(path).seal("p", b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert DataKey.load_or_create(path).open("p", sealed) == b"secret"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601, 0o644])
def test_a_key_that_others_may_use_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "data.key"
    DataKey.load_or_create(path)
    path.chmod(mode)
    with pytest.raises(SecretError, match="chmod 600"):
        DataKey.load_or_create(path)


@pytest.mark.parametrize("text", [b"", b"garbage", b"certloom-data-key-v1 ", b"certloom-data-key-v1 AAAA\n"])
def test_a_file_that_holds_no_key_is_refused_and_left_alone(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "data.key"
    path.write_bytes(text)
    path.chmod(0o600)
    with pytest.raises(SecretError, match="does not hold"):
        DataKey.load_or_create(path)
    assert path.read_bytes() == text


def test_loading_does_not_create(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        DataKey.load(tmp_path / "data.key")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SecretError, match="No such file"):
        DataKey.load_or_create(tmp_path / "missing" / "data.key")


def test_two_that_create_at_once_end_up_with_one_key(tmp_path: Path) -> None:
    path = tmp_path / "data.key"
    keys: list[DataKey] = []
    start = threading.Barrier(8)

    def load() -> None:
        start.wait()
        keys.append(DataKey.load_or_create(path))

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sealed = keys[0].seal("p", b"x")
    assert [key.open("p", sealed) for key in keys] == [b"x"] * 8


KEY = DataKey(bytes(range(32)))


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])), st.binary(max_size=2000))
def test_what_is_sealed_opens_for_the_same_purpose(purpose: str, data: bytes) -> None:
    assert KEY.open(purpose, KEY.seal(purpose, data)) == data


def test_a_value_does_not_open_for_another_purpose() -> None:
    with pytest.raises(SecretError, match="another purpose"):
        KEY.open("authority-key:b", KEY.seal("authority-key:a", b"x"))


def test_a_value_does_not_open_under_another_key_and_that_is_said() -> None:
    with pytest.raises(SecretError, match="another data key"):
        DataKey(bytes(32)).open("p", KEY.seal("p", b"x"))


def test_a_changed_octet_anywhere_is_refused() -> None:
    sealed = KEY.seal("p", b"some secret")
    for place in range(len(sealed)):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(SecretError):
            KEY.open("p", bytes(changed))


@given(st.binary(max_size=100))
def test_no_bytes_make_it_raise_anything_else(data: bytes) -> None:
    with pytest.raises(SecretError):
        KEY.open("p", data)


def test_the_same_value_is_never_sealed_alike() -> None:
    assert len({KEY.seal("p", b"x") for _ in range(100)}) == 100


def test_it_shows_nothing_of_itself() -> None:
    assert repr(KEY) == str(KEY) == "<DataKey>"
    with pytest.raises(TypeError):
        pickle.dumps(KEY)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(SecretError):
        DataKey(b"short")
