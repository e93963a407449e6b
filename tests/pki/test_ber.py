from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyasn1.codec.ber import decoder, encoder
from pyasn1.type import univ

from certloom.pki import ber, der
from certloom.pki.der import DERError, Reader
from tests.pki.making import hierarchy, openssl

# A value is (tag, octets) or (tag, values); the writer below writes it in DER, or in some BER.
values = st.recursive(
    st.tuples(st.sampled_from([0x02, 0x04, 0x0C, 0x13, 0x80, 0x9E]), st.binary(max_size=300))
    | st.tuples(st.just(0x03), st.binary(max_size=200).map(lambda b: b"\0" + b)),
    lambda inner: st.tuples(st.sampled_from([0x30, 0x31, 0xA0, 0x61]), st.lists(inner, max_size=4)),
    max_leaves=12,
)


def in_der(value: tuple[int, object]) -> bytes:
    tag, content = value
    if isinstance(content, list):
        content = b"".join(map(in_der, content))
    assert isinstance(content, bytes)
    return der.tlv(tag, content)


def with_length(draw: st.DataObject, tag: int, content: bytes) -> bytes:
    """One TLV with a length of some form."""
    form = draw.draw(st.sampled_from(["minimal", "padded"] + ["indefinite"] * bool(tag & 0x20)))
    if form == "indefinite":
        return bytes((tag, 0x80)) + content + b"\0\0"
    if form == "padded":
        size = draw.draw(st.integers(3, 9))
        return bytes((tag, 0x80 | size)) + len(content).to_bytes(size, "big") + content
    return der.tlv(tag, content)


def in_pieces(draw: st.DataObject, tag: int, content: bytes, depth: int = 0) -> bytes:
    """A string, whole or in pieces, which may be in pieces themselves."""
    if depth == 3 or draw.draw(st.booleans()):
        return with_length(draw, tag, content)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(content)), max_size=3)))
    lead = b"\0" if tag == 3 else b""
    bare = content[len(lead) :]
    ends = [0, *[min(cut, len(bare)) for cut in cuts], len(bare)]
    pieces = [lead + bare[a:b] for a, b in itertools.pairwise(ends)]
    inner = 3 if tag == 3 else 4
    return with_length(draw, tag | 0x20, b"".join(in_pieces(draw, inner, p, depth + 1) for p in pieces))


def in_ber(draw: st.DataObject, value: tuple[int, object]) -> bytes:
    tag, content = value
    if isinstance(content, list):
        return with_length(draw, tag, b"".join(in_ber(draw, inner) for inner in content))
    assert isinstance(content, bytes)
    if tag in (0x03, 0x04, 0x0C, 0x13):
        return in_pieces(draw, tag, content)
    return with_length(draw, tag, content)


@given(values, st.data())
def test_any_ber_of_a_value_becomes_its_der(value: tuple[int, object], draw: st.DataObject) -> None:
    encoded = in_ber(draw, value)
    assert ber.definite(encoded) == in_der(value)


@given(values)
def test_der_stays_as_it_is(value: tuple[int, object]) -> None:
    assert ber.definite(in_der(value)) == in_der(value)


def test_a_certificate_stays_as_it_is() -> None:
    certificate = hierarchy("rsa-2048").issuer.certificate
    assert ber.definite(certificate) == certificate


@given(st.binary(max_size=300), st.integers(1, 64))
def test_strings_in_pieces_are_those_of_another_library(content: bytes, size: int) -> None:
    encoded = encoder.encode(univ.OctetString(content), defMode=False, maxChunkSize=size)
    assert Reader(ber.definite(encoded)).content(der.OCTET_STRING) == bytes(decoder.decode(encoded)[0])


def test_bit_strings_are_joined_as_openssl_does() -> None:
    pieces = bytes.fromhex("2380 0303000A3B 2380 0303045F20 0000 0000")
    assert ber.definite(pieces) == bytes.fromhex("0305 04 0A3B5F20")
    assert "BIT STRING" in openssl("asn1parse", "-inform", "DER", stdin=ber.definite(pieces))


@pytest.mark.parametrize(
    ("encoded", "rewritten"),
    [
        ("2400", "0400"),
        ("2300", "030100"),
        ("23800000", "030100"),
        ("3A0904034A6F6E04026573", "1A054A6F6E6573"),  # X.690 section 8.23.6.5's own example
        ("3184000000060201020201 01", "3106020102020101"),
        ("9F1F0101", "9F1F0101"),
        ("BF8F7F80020101 0000", "BF8F7F03020101"),
        ("A080 040161 040162 0000", "A006040161040162"),
    ],
)
def test_examples(encoded: str, rewritten: str) -> None:
    assert ber.definite(bytes.fromhex(encoded)) == bytes.fromhex(rewritten)


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "30",
        "3003",
        "0480040161 0000",
        "0000",
        "3080",
        "3080 0201010000 00",
        "30020000",
        "3080 0001 00 0000",
        "3080 008100 0000",
        "24030C0161",
        "2405 3003040161",
        "2308 03020160 03020061",
        "2303 030108",
        "2303 030101",
        "2302 0300",
        "30FF",
        "3082 01",
        "1F",
        "1F8181818181",
        "3005 30800201 0100 0000",
        "020101 00",
    ],
)
def test_what_is_no_ber_is_refused(encoded: str) -> None:
    with pytest.raises(DERError):
        ber.definite(bytes.fromhex(encoded))


def test_depth_and_number_are_bounded() -> None:
    within = b"\x30\x80" * ber.MAX_DEPTH + b"\0\0" * ber.MAX_DEPTH
    assert ber.definite(within)[:2] == bytes((0x30, 2 * ber.MAX_DEPTH - 2))
    for opener in (b"\x30\x80", b"\x24\x80", b"\xa0\x80", b"\x23\x80"):
        with pytest.raises(DERError, match="deep"):
            ber.definite(opener * (ber.MAX_DEPTH + 1) + b"\0\0" * (ber.MAX_DEPTH + 1))
    with pytest.raises(DERError, match="elements"):
        ber.definite(b"\x24\x80" + b"\x04\x00" * ber.MAX_ELEMENTS + b"\0\0")
    with pytest.raises(DERError, match="octets"):
        ber.definite(bytes(ber.MAX_SIZE + 1))


def test_the_cost_is_linear() -> None:
    def seconds(n: int) -> float:
        nested = b"\x30\x80" * 30 + b"\x24\x80" + (b"\x04\x01a" * n) + b"\0\0" * 31
        best = 9.0
        for _ in range(3):
            begin = time.process_time()
            ber.definite(nested)
            best = min(best, time.process_time() - begin)
        return best

    assert seconds(40_000) < 40 * seconds(4_000)


@given(st.binary(max_size=200))
def test_no_octets_raise_anything_else(data: bytes) -> None:
    try:
        rewritten = ber.definite(data)
    except DERError:
        return
    assert ber.definite(rewritten) == rewritten


@given(values, st.data())
def test_no_damage_raises_anything_else(value: tuple[int, object], draw: st.DataObject) -> None:
    damaged = bytearray(in_ber(draw, value))
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, max(0, len(damaged) - 1)))
        damaged[place : place + draw.draw(st.integers(0, 2))] = draw.draw(st.binary(max_size=2))
    try:
        ber.definite(bytes(damaged))
    except DERError:
        return
