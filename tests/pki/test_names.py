from __future__ import annotations

import contextlib

import pytest
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID
from hypothesis import example, given
from hypothesis import strategies as st

from certloom.pki import der, names
from certloom.pki.names import BadName, Name, format_name, from_x509, parse_name, to_x509

ORGANIZATION_FIRST = Name(((names.ORGANIZATION, "b"), (names.COMMON_NAME, "a")))

_plain_oids = st.sampled_from([names.COMMON_NAME, names.ORGANIZATION, "2.5.4.42", "1.3.6.1.4.1.55555.1"])
_pairs = st.one_of(
    st.tuples(_plain_oids, st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)),
    st.tuples(st.just(names.SERIAL_NUMBER), st.from_regex(r"[A-Za-z0-9 '()+,./:=?-]{1,64}", fullmatch=True)),
    st.tuples(
        st.just(names.DOMAIN_COMPONENT), st.text(st.characters(max_codepoint=127), min_size=1, max_size=63)
    ),
    st.tuples(st.just(names.COUNTRY), st.sampled_from(["DE", "US"])),
)
some_names = st.lists(_pairs, max_size=6).map(lambda pairs: Name(tuple(pairs)))


@given(some_names)
def test_names_come_back_from_their_der(name: Name) -> None:
    assert names.decode(names.encode(name)) == name


@given(some_names.filter(lambda name: all(len(value.encode()) <= 64 for _, value in name.attributes)))
def test_names_are_encoded_as_cryptography_does(name: Name) -> None:
    assert names.encode(name) == to_x509(name).public_bytes()
    assert from_x509(to_x509(name)) == name


@given(some_names)
@example(Name(((names.COMMON_NAME, "\\ "),)))
@example(Name(((names.COMMON_NAME, " "),)))
@example(Name(((names.COMMON_NAME, "  a  "), (names.ORGANIZATION, '#,;+\\<=>"\x00'))))
def test_names_come_back_from_their_text(name: Name) -> None:
    assert parse_name(format_name(name)) == name


def test_text_is_the_reverse_of_the_encoding() -> None:
    assert parse_name("CN=a, O=b") == ORGANIZATION_FIRST
    assert format_name(ORGANIZATION_FIRST) == "CN=a,O=b"
    assert x509.Name.from_rfc4514_string("CN=a,O=b").public_bytes() == names.encode(ORGANIZATION_FIRST)


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("", ()),
        ("cn = a ", ((names.COMMON_NAME, "a"),)),
        (r"CN=a\, b", ((names.COMMON_NAME, "a, b"),)),
        (r"CN=\c3\a4", ((names.COMMON_NAME, "ä"),)),
        (r"CN=a\ ", ((names.COMMON_NAME, "a "),)),
        ("emailAddress=a@b.c,2.5.4.97=X", (("2.5.4.97", "X"), (names.EMAIL_ADDRESS, "a@b.c"))),
        ("CN=a=b", ((names.COMMON_NAME, "a=b"),)),
    ],
)
def test_text_is_read_as_rfc_4514_says(text: str, pairs: tuple[tuple[str, str], ...]) -> None:
    assert parse_name(text) == Name(pairs)


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "CN",
        "CN=",
        "CN=a,",
        ",CN=a",
        "CN=a,,O=b",
        "CN=a+O=b",
        "CN=#0c0161",
        r"CN=a\x",
        "CN=a\\",
        r"CN=\ff",
        'CN="a"',
        "CN=a;O=b",
        "nosuch=a",
        "9.9=a",
        "C=Germany",
        "CN=" + "a" * 65,
        "CN=" + "a" * 20000,
        ",".join(["O=a"] * 65),
    ],
)
def test_text_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(BadName):
        parse_name(text)


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        (names.COUNTRY, "D"),
        (names.COUNTRY, "ÄÖ"),
        (names.SERIAL_NUMBER, "a_b"),
        (names.SERIAL_NUMBER, "a*"),
        (names.DOMAIN_COMPONENT, "ä"),
        (names.EMAIL_ADDRESS, "a" * 256),
        (names.COMMON_NAME, ""),
        (names.COMMON_NAME, "\ud800"),
        ("not.an.oid", "a"),
    ],
)
def test_a_value_that_its_type_cannot_hold_is_refused(oid: str, value: str) -> None:
    with pytest.raises(BadName):
        names.encode(Name(((oid, value),)))


@pytest.mark.parametrize(
    "kind", ["UTF8String", "PrintableString", "BMPString", "UniversalString", "T61String"]
)
def test_every_string_type_is_read(kind: str) -> None:
    attribute = x509.NameAttribute(NameOID.COMMON_NAME, "Example", _ASN1Type[kind])
    if kind == "UniversalString":
        text = der.tlv(der.UNIVERSAL_STRING, "Example".encode("utf-32-be"))
    else:
        assert names.decode(x509.Name([attribute]).public_bytes()).attributes == (
            (names.COMMON_NAME, "Example"),
        )
        text = der.tlv(der.TELETEX_STRING, b"Example")
    raw = der.sequence(der.tlv(der.SET, der.sequence(der.oid(names.COMMON_NAME), text)))
    assert names.decode(raw) == Name(((names.COMMON_NAME, "Example"),))


def test_an_rdn_of_several_attributes_is_flattened() -> None:
    several = x509.Name(
        [
            x509.RelativeDistinguishedName(
                [
                    x509.NameAttribute(NameOID.COMMON_NAME, "router"),
                    x509.NameAttribute(NameOID.SERIAL_NUMBER, "123"),
                ]
            )
        ]
    )
    assert dict(from_x509(several).attributes) == {names.COMMON_NAME: "router", names.SERIAL_NUMBER: "123"}


def test_a_value_that_is_no_string_is_kept_in_hexadecimal() -> None:
    raw = der.sequence(der.tlv(der.SET, der.sequence(der.oid("2.5.4.45"), der.bit_string(b"\x01"))))
    assert names.decode(raw) == Name((("2.5.4.45", "#03020001"),))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x30\x02\x31\x00",
        der.sequence(der.sequence()),
        der.sequence(der.tlv(der.SET, der.sequence(der.oid("2.5.4.3"), der.tlv(der.UTF8_STRING, b"\xff")))),
        der.sequence(der.tlv(der.SET, der.sequence(der.oid("2.5.4.3"), der.tlv(der.BMP_STRING, b"a")))),
        der.sequence(
            *[der.tlv(der.SET, der.sequence(der.oid("2.5.4.3"), der.tlv(der.UTF8_STRING, b"a")))] * 65
        ),
        der.sequence(der.tlv(der.SET, der.sequence(der.oid("2.5.4.3"), der.NULL, der.NULL))),
    ],
)
def test_what_is_no_name_is_refused(raw: bytes) -> None:
    with pytest.raises(BadName):
        names.decode(raw)


@given(st.binary(max_size=120))
def test_no_octets_make_it_raise_anything_but_bad_name(data: bytes) -> None:
    for raw in (data, der.sequence(der.tlv(der.SET, der.sequence(der.oid("2.5.4.3"), data)))):
        with contextlib.suppress(BadName):
            names.decode(raw)


def test_values_of_one_type_keep_their_order() -> None:
    name = parse_name("CN=b,OU=x,CN=a")
    assert name.values(names.COMMON_NAME) == ("a", "b")
    assert not Name()
