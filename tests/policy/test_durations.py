from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.policy.durations import LONGEST, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90d", 7_776_000),
        ("12h", 43_200),
        ("1d12h", 129_600),
        ("45s", 45),
        ("2w", 1_209_600),
        ("1y", 31_536_000),
    ],
)
def test_durations_are_written_with_units(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "90", "d", "90 d", "-1d", "1.5h", "90D", "101y", "9999999999s", "１d"])
def test_what_is_not_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        parse_duration(text)


@given(st.integers(0, LONGEST))
def test_a_formatted_duration_means_the_same(seconds: int) -> None:
    assert parse_duration(format_duration(seconds)) == seconds
