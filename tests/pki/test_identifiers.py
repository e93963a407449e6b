from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki import general_names
from certloom.pki.der import DERError
from certloom.pki.identifiers import (
    Identifier,
    IdentifierError,
    IdentifierType,
    from_general_name,
    ip_from_octets,
    parse,
    parse_dns,
    parse_email,
    parse_ip,
    parse_uri,
    to_general_name,
)

LONGEST_LABEL = "a" * 63
LONGEST_NAME = ".".join([LONGEST_LABEL] * 3) + "." + "b" * 61

_label = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).filter(lambda t: t[2:4] != "--")
dns_names = st.builds(
    lambda star, labels, last: ("*." if star else "") + ".".join([*labels, last]),
    st.booleans(),
    st.lists(_label, max_size=4),
    _label.filter(lambda t: not t.isdigit() and not t.startswith("0x")),
)
addresses = st.ip_addresses()


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.Com", "example.com"),
        ("*.Example.com", "*.example.com"),
        ("router", "router"),
        ("a.1b", "a.1b"),
        ("123.example", "123.example"),
        ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
        ("XN--MNCHEN-3YA.DE", "xn--mnchen-3ya.de"),
        ("*.xn--mnchen-3ya.de", "*.xn--mnchen-3ya.de"),
        ("a--b.example", "a--b.example"),
        ("4.3.2.1.in-addr.arpa", "4.3.2.1.in-addr.arpa"),
        (LONGEST_NAME, LONGEST_NAME),
    ],
)
def test_a_dns_name_becomes_canonical(text: str, canonical: str) -> None:
    assert parse_dns(text) == Identifier(IdentifierType.DNS, canonical)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "example.com.",
        ".example.com",
        "a..b",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b.example",
        "a.example\n",
        "a\x00.example",
        "ab--cd.example",
        "xn--.example",
        "xn--a.example",
        "xn--example-.de",
        "xn--mnchen-3ya-.de",
        "xn--ls8h.example",  # an emoji: not in IDNA 2008
        "*",
        "*.",
        "*.*.example",
        "a.*.example",
        "a*.example",
        "www.*",
        "192.0.2.1",
        "*.192.0.2.1",
        "1",
        "0x7f000001",
        "a.0x1",
        "example.12",
        "2001:db8::1",
        "[::1]",
        "https://example.com",
        "example.com:443",
        "a@example.com",
        "a" * 64 + ".example",
        LONGEST_NAME + "b",
        "a." * 200 + "b",
    ],
)
def test_what_is_no_dns_name_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        parse_dns(text)
    assert caught.value.code == "bad-dns-name"


@pytest.mark.parametrize("text", ["münchen.de", "例え.jp", "exa\u200bmple.com", "ｅxample.com"])
def test_a_u_label_is_refused_with_its_own_code(text: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        parse_dns(text)
    assert caught.value.code == "dns-name-not-ascii"


def test_a_wildcard_is_refused_where_there_can_be_none() -> None:
    with pytest.raises(IdentifierError) as caught:
        parse_dns("*.example.com", wildcard=False)
    assert caught.value.code == "wildcard-not-allowed"
    assert parse_dns("*.example.com").is_wildcard
    assert not parse_dns("example.com", wildcard=False).is_wildcard


@given(dns_names)
def test_canonical_names_stay_as_they_are(name: str) -> None:
    assert parse_dns(name).value == name
    assert parse_dns(name.upper()) == parse_dns(name)


@given(st.text(max_size=300))
def test_no_text_makes_a_parser_raise_anything_but_its_own_error(text: str) -> None:
    for kind in ("dns", "ip", "uri", "email"):
        try:
            identifier = parse(kind, text)
        except IdentifierError:
            continue
        assert parse(kind, identifier.value) == identifier
        assert identifier.value.isascii()


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"),
        ("2001:db8:0:1:1:1:1:1", "2001:db8:0:1:1:1:1:1"),
        ("::", "::"),
        ("::FFFF:C000:0201", "::ffff:192.0.2.1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ],
)
def test_an_ip_address_becomes_rfc_5952_text(text: str, canonical: str) -> None:
    assert parse_ip(text) == Identifier(IdentifierType.IP, canonical)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "192.0.2",
        "192.0.2.01",
        "192.0.2.256",
        "192.0.2.0/24",
        "fe80::1%eth0",
        "[::1]",
        "::1 ",
        "１.2.3.4",
    ],
)
def test_what_is_no_ip_address_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        parse_ip(text)
    assert caught.value.code == "bad-ip-address"


@given(addresses)
def test_an_address_is_the_same_from_octets_and_from_text(address: ipaddress.IPv4Address) -> None:
    assert ip_from_octets(address.packed) == parse_ip(str(address))


@pytest.mark.parametrize("octets", [b"", b"\x7f", bytes(5), bytes(8), bytes(17), bytes(32)])
def test_addresses_have_4_or_16_octets(octets: bytes) -> None:
    with pytest.raises(IdentifierError):
        ip_from_octets(octets)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("spiffe://Prod.Example/Web_1", "spiffe://prod.example/Web_1"),
        ("HTTPS://example.com:8443/a%2Fb?c=d#e", "https://example.com:8443/a%2Fb?c=d#e"),
        ("urn:uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6", "urn:uuid:F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6"),
        ("http://[2001:DB8:0::1]/x", "http://[2001:db8::1]/x"),
        ("spiffe://trust_domain", "spiffe://trust_domain"),
    ],
)
def test_a_uri_keeps_its_path_and_lowers_scheme_and_host(text: str, canonical: str) -> None:
    assert parse_uri(text) == Identifier(IdentifierType.URI, canonical)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.com",
        "/path",
        "//host/path",
        "https:",
        "https://",
        "https:///path",
        "https://user@host/",
        "https://user:pw@host/",
        "https://host:port/",
        "https://[1.2.3.4]/",
        "https://[::zz]/",
        "https://hóst/",
        "https://host/a b",
        "https://host/%zz",
        "https://host/<a>",
        "1http://host/",
        "https://host/\n",
        "https://" + "a" * 2048,
    ],
)
def test_what_is_no_absolute_uri_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        parse_uri(text)
    assert caught.value.code == "bad-uri"


def test_a_mailbox_lowers_its_domain_only() -> None:
    assert parse_email("First.Last+x@EXAMPLE.com").value == "First.Last+x@example.com"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "@",
        "a@",
        "@b",
        "a@b.",
        "a@b@c",
        '"a b"@c',
        "a..b@c",
        ".a@c",
        "a@[192.0.2.1]",
        "a@1.2.3.4",
        "ä@b",
        "a@*.b",
        "x" * 65 + "@b",
        "A <a@b>",
    ],
)
def test_what_is_no_mailbox_is_refused(text: str) -> None:
    with pytest.raises(IdentifierError) as caught:
        parse_email(text)
    assert caught.value.code == "bad-email-address"


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(IdentifierError) as caught:
        parse("tn", "123")
    assert caught.value.code == "unsupported-identifier-type"


EVERY_FORM = (
    parse_dns("*.example.com"),
    parse_dns("example.com"),
    parse_ip("192.0.2.1"),
    parse_ip("2001:db8::1"),
    parse_ip("::ffff:192.0.2.1"),
    parse_uri("spiffe://prod.example/web"),
    parse_email("a@example.com"),
)


def test_every_form_goes_to_cryptography_and_back() -> None:
    assert tuple(from_general_name(to_general_name(i)) for i in EVERY_FORM) == EVERY_FORM


def test_general_names_are_those_of_cryptography() -> None:
    expected = x509.SubjectAlternativeName(map(to_general_name, EVERY_FORM)).public_bytes()
    assert general_names.encode(EVERY_FORM) == expected
    assert general_names.decode(expected, 10) == EVERY_FORM


OTHER_FORMS = (
    x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x01x"),
    x509.DirectoryName(x509.Name([])),
    x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
)


@pytest.mark.parametrize("name", OTHER_FORMS, ids=lambda n: type(n).__name__)
def test_other_name_forms_are_refused_by_their_name(name: x509.GeneralName) -> None:
    with pytest.raises(IdentifierError) as caught:
        from_general_name(name)
    assert caught.value.code == "unsupported-name-form"
    with pytest.raises(IdentifierError) as caught:
        general_names.decode(x509.SubjectAlternativeName([name]).public_bytes(), 10)
    assert caught.value.code == "unsupported-name-form"


def test_names_that_mean_the_same_are_one() -> None:
    value = x509.SubjectAlternativeName([x509.DNSName("A.example"), x509.DNSName("a.example")]).public_bytes()
    assert general_names.decode(value, 10) == (parse_dns("a.example"),)


def test_no_names_and_too_many_are_refused() -> None:
    with pytest.raises(DERError):
        general_names.decode(b"\x30\x00", 10)
    value = x509.SubjectAlternativeName([x509.DNSName("a")] * 3).public_bytes()
    with pytest.raises(IdentifierError) as caught:
        general_names.decode(value, 2)
    assert caught.value.code == "too-many-identifiers"


@pytest.mark.parametrize(
    "value", [b"\x30\x03\x82\x01", b"\x30\x03\x82\x01\xff", b"\x30\x02\x89\x00", b"\x05\x00"]
)
def test_malformed_general_names_are_refused(value: bytes) -> None:
    with pytest.raises((DERError, IdentifierError)):
        general_names.decode(value, 10)
