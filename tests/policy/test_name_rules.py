from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.policy.name_rules import (
    AddressPatterns,
    DNSPatterns,
    EmailPatterns,
    PatternError,
    URIPatterns,
    check_pattern,
    compile_patterns,
    matches,
)
from tests.policy.asks import dns, email, ip, uri


@pytest.mark.parametrize(
    ("pattern", "covered", "not_covered"),
    [
        ("www.example.com", ["www.example.com"], ["example.com", "a.www.example.com", "www.example.comx"]),
        (
            "*.example.com",
            ["a.example.com", "*.example.com"],
            ["example.com", "a.b.example.com", "badexample.com"],
        ),
        (
            "**.example.com",
            ["a.example.com", "a.b.example.com", "*.example.com", "*.a.example.com"],
            ["example.com", "aexample.com", "example.com.evil"],
        ),
        ("*", ["localhost", "db1"], ["a.example", "*.example"]),
        ("**", ["localhost", "a.b.c", "*.example.com"], []),
    ],
)
def test_dns_patterns_cover_whole_labels(pattern: str, covered: list[str], not_covered: list[str]) -> None:
    patterns = DNSPatterns((pattern,))
    assert [name for name in covered if not patterns.cover(name)] == []
    assert [name for name in not_covered if patterns.cover(name)] == []


def test_a_wildcard_touches_each_name_it_stands_for() -> None:
    deny = DNSPatterns(("secret.example.com",))
    assert deny.touch("*.example.com")
    assert not deny.cover("*.example.com")
    assert not deny.touch("*.com")
    assert not deny.touch("*.secret.example.com")
    assert DNSPatterns(("**.corp",)).touch("*.corp")
    assert not DNSPatterns(("*.a.corp",)).touch("*.corp")


_label = st.sampled_from(["a", "b", "c"])
_name = st.lists(_label, min_size=1, max_size=4).map(".".join)
_pattern = st.one_of(_name, _name.map("*.{}".format), _name.map("**.{}".format), st.sampled_from(["*", "**"]))


@given(st.lists(_pattern, max_size=4), _name)
def test_cover_and_touch_agree_with_what_a_wildcard_stands_for(patterns: list[str], parent: str) -> None:
    compiled = DNSPatterns(patterns)
    stands_for = [f"{label}.{parent}" for label in ("a", "b", "c", "d")]
    touched = compiled.touch(f"*.{parent}")
    assert touched == any(compiled.cover(name) for name in stands_for)
    if compiled.cover(f"*.{parent}"):
        assert all(compiled.cover(name) for name in stands_for)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*.",
        "**.",
        "a.*.b",
        "*a.b",
        "A.b",
        "bücher.example",
        "-a.b",
        "a b",
        "a" * 64,
    ],
)
def test_what_is_no_dns_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        DNSPatterns((pattern,))


def test_address_ranges_hold_addresses_of_their_own_family() -> None:
    patterns = AddressPatterns(("10.0.0.0/8", "fd00::/8", "192.0.2.1"))
    assert patterns.cover("10.1.2.3")
    assert patterns.cover("fd00::1")
    assert patterns.cover("192.0.2.1")
    assert not patterns.cover("192.0.2.2")
    assert not patterns.cover("::1")


def test_an_ipv4_mapped_address_does_not_slip_past_a_denied_range() -> None:
    patterns = AddressPatterns(("10.0.0.0/8",))
    assert patterns.touch("::ffff:10.0.0.1")
    assert not patterns.cover("::ffff:10.0.0.1")


@pytest.mark.parametrize("pattern", ["10.0.0.1/8", "10.0.0", "::/129", "example.com", ""])
def test_what_is_no_range_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        AddressPatterns((pattern,))


def test_uri_prefixes_end_where_a_part_of_the_uri_ends() -> None:
    patterns = URIPatterns(("spiffe://prod/ns", "urn:dev:"))
    assert patterns.cover("spiffe://prod/ns")
    assert patterns.cover("spiffe://prod/ns/a")
    assert patterns.cover("urn:dev:1")
    assert not patterns.cover("spiffe://prod/nsa")
    assert not patterns.cover("urn:device")
    assert not URIPatterns(("https://example.com",)).cover("https://example.com.evil/")
    assert not URIPatterns(("https://example.com",)).cover("https://example.com@evil/")
    assert not URIPatterns(("https://example.com",)).cover("https://example.com:8443/")


@pytest.mark.parametrize(
    "value",
    [
        "spiffe://prod/ns/../admin",
        "spiffe://prod/ns/%2e%2E/admin",
        "spiffe://prod/ns/%61",
        "spiffe://prod/ns/.",
    ],
)
def test_a_uri_with_another_spelling_is_covered_by_nothing_and_touched_by_everything(value: str) -> None:
    assert not URIPatterns(("spiffe://prod/ns",)).cover(value)
    assert URIPatterns(("spiffe://other/",)).touch(value)


def test_a_uri_with_necessary_escapes_is_judged_by_its_prefix() -> None:
    assert URIPatterns(("spiffe://prod/ns",)).cover("spiffe://prod/ns/a%20b")


@pytest.mark.parametrize("pattern", ["spiffe", "spiffe:", "SPIFFE://a", "://a", "spiffe://a/../b"])
def test_what_is_no_uri_prefix_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        URIPatterns((pattern,))


def test_mailboxes_are_matched_by_their_domain() -> None:
    patterns = EmailPatterns(("example.com", "**.example.org"))
    assert patterns.cover("ann@example.com")
    assert patterns.cover("ann@mail.example.org")
    assert not patterns.cover("ann@sub.example.com")


def test_no_patterns_match_nothing() -> None:
    for type in IdentifierType:
        value = "192.0.2.1" if type is IdentifierType.IP else "a@example.com"
        assert not compile_patterns(type, ()).cover(value)
        assert not compile_patterns(type, ()).touch(value)


@pytest.mark.parametrize(
    ("pattern", "identifier", "expected"),
    [
        ("**", ip("10.0.0.1"), True),
        ("**", uri("urn:a"), True),
        ("*.example.com", dns("a.example.com")[0], True),
        ("*.example.com", email("a@b.example.com"), False),
        ("10.0.0.0/8", ip("10.0.0.1"), True),
        ("10.0.0.0/8", dns("a.example")[0], False),
        ("fd00::1", ip("fd00::1"), True),
        ("@example.com", email("ann@example.com"), True),
        ("@**.example.com", email("ann@mail.example.com"), True),
        ("ann@example.com", email("ann@example.com"), True),
        ("ann@example.com", email("bob@example.com"), False),
        ("spiffe://prod/", uri("spiffe://prod/a"), True),
        ("spiffe://prod/", uri("spiffe://dev/a"), False),
    ],
)
def test_a_pattern_of_any_type_shows_in_its_form(
    pattern: str, identifier: Identifier, expected: bool
) -> None:
    assert matches(pattern, identifier) is expected


@pytest.mark.parametrize(
    "pattern", ["", "a b", "10.0.0.1/8", "SPIFFE://a", "ann@", "@a b", "*.*.example.com"]
)
def test_a_pattern_of_no_type_is_refused(pattern: str) -> None:
    with pytest.raises(PatternError):
        check_pattern(pattern)


def test_patterns_are_checked_before_they_are_kept() -> None:
    for pattern in ("**", "*.example.com", "10.0.0.0/8", "@example.com", "spiffe://prod/"):
        check_pattern(pattern)


def test_a_wildcard_is_not_covered_by_the_name_it_is_made_from() -> None:
    assert not matches("example.com", dns("*.example.com")[0])
