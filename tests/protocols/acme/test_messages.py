"""The codec of payloads and resources."""

from __future__ import annotations

import contextlib
import json
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from certloom.protocols.acme import messages
from certloom.protocols.acme.messages import HeldChallenge
from certloom.protocols.acme.problems import Problem, validation_error

PAYLOADS = (
    messages.NewAccount,
    messages.UpdateAccount,
    messages.NewOrder,
    messages.NewAuthorization,
    messages.UpdateAuthorization,
    messages.Finalize,
    messages.Revoke,
    messages.KeyChange,
    messages.Anything,
)


@pytest.mark.parametrize("type", PAYLOADS)
@given(data=st.binary(max_size=100))
def test_no_bytes_make_the_reader_raise_anything_but_a_problem(
    type: type[msgspec.Struct], data: bytes
) -> None:
    with contextlib.suppress(Problem):
        messages.read(type, data)


@pytest.mark.parametrize("type", PAYLOADS)
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"contact":[', b'{"identifiers":['])
def test_deep_nesting_is_malformed(type: type[msgspec.Struct], opening: bytes) -> None:
    with pytest.raises(Problem) as caught:
        messages.read(type, opening * 20_000)
    assert caught.value.type == "malformed"


def test_an_object_that_is_absent_or_null_is_not_given() -> None:
    for payload in (b"{}", b'{"externalAccountBinding":null}', b'{"externalAccountBinding": null }'):
        read = messages.read(messages.NewAccount, payload)
        assert messages.given(read.external_account_binding) is None
    read = messages.read(messages.NewAccount, b'{"externalAccountBinding": {"a": 1}}')
    assert json.loads(messages.given(read.external_account_binding) or b"") == {"a": 1}


@given(st.integers(0, 253402300799))
def test_times_round_trip(seconds: int) -> None:
    text = messages.format_time(seconds)
    assert messages.parse_time(text) == seconds
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(seconds, UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01t00:00:01z", 1),
        ("1970-01-01T02:00:02+02:00", 2),
        ("1970-01-01T00:00:03.999Z", 3),
        ("2027-01-15T08:00:00-00:00", 1_800_000_000),
    ],
)
def test_times_of_rfc_3339_are_read(text: str, seconds: int) -> None:
    assert messages.parse_time(text) == seconds


@given(st.text(max_size=45))
def test_no_text_makes_the_time_reader_raise_anything_but_a_problem(text: str) -> None:
    with contextlib.suppress(Problem):
        messages.parse_time(text)


def test_a_challenge_is_flat_until_its_last_members() -> None:
    challenge = messages.Challenge(
        type="http-01",
        url="https://ca.example/c",
        status="invalid",
        token="t",
        validated="2027-01-15T08:00:00Z",
        validation_record=Raw(b'[{"hostname":"a"}]'),
        error=validation_error("dns", "no answer"),
    )
    text = messages.encode(challenge).decode()
    names = list(json.loads(text))
    assert names == ["type", "url", "status", "token", "validated", "validationRecord", "error"]
    # acme.sh cuts a challenge out of the text with [^{]*"type":"http-01"[^}]*
    assert text.index('"token"') < text.index("{", 1)


_held = st.builds(
    HeldChallenge,
    type=st.sampled_from(["http-01", "dns-01"]),
    status=st.sampled_from(["pending", "valid", "invalid"]),
    validated=st.none() | st.integers(0, 2**40),
    caa_checked=st.none() | st.integers(0, 2**40),
    error=st.none() | st.builds(validation_error, st.sampled_from(["dns", "tls"]), st.text(max_size=20)),
)


@given(st.lists(_held, max_size=5))
def test_held_challenges_round_trip(held: list[HeldChallenge]) -> None:
    assert messages.read_challenges(messages.write_challenges(held)) == tuple(held)


def test_validation_records_are_kept_as_they_are() -> None:
    records: Any = Raw(b'[{"hostname":"a","port":80}]')
    held = messages.read_challenges(
        messages.write_challenges([HeldChallenge("http-01", "valid", records=records)])
    )
    assert bytes(held[0].records) == bytes(records)  # type: ignore[arg-type]  # it is set
