from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.validation.issue_value import IssueValueError, parse_issue_value

TAG = st.from_regex(r"[a-z0-9](?:-*[a-z0-9]){0,8}", fullmatch=True)
VALUE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=";"), max_size=20)
SPACE = st.text(" \t", max_size=2)


@given(st.data(), st.lists(TAG, max_size=3), st.lists(st.tuples(TAG, VALUE), max_size=4))
def test_what_follows_the_grammar_is_read(
    data: st.DataObject, labels: list[str], parameters: list[tuple[str, str]]
) -> None:
    def space() -> str:
        return data.draw(SPACE)

    issuer = ".".join(labels)
    text = space() + issuer + space()
    if parameters:
        parts = [f"{tag}{space()}={space()}{value}{space()}" for tag, value in parameters]
        text += ";" + space() + (";" + space()).join(parts)
    value = parse_issue_value(text)
    assert (value.issuer, value.parameters) == (issuer, tuple(parameters))


@pytest.mark.parametrize(
    "text", ["%%%%", "a..b", "-a", "a b", "a;b", "a;b=c;;d=e", "a;b=c;", "a;=c", "a;b=\x7f", "é"]
)
def test_what_does_not_is_refused(text: str) -> None:
    with pytest.raises(IssueValueError):
        parse_issue_value(text)


@given(st.text())
def test_no_text_fails_in_another_way(text: str) -> None:
    with contextlib.suppress(IssueValueError):
        parse_issue_value(text)
