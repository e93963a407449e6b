from __future__ import annotations

import calendar
import time
from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import example, given
from hypothesis import strategies as st

from certloom.pki import der
from certloom.pki.der import DERError, Reader, whole
from tests.pki.making import openssl


@given(st.integers())
@example(0)
@example(127)
@example(128)
@example(-128)
@example(-129)
@example(-1)
def test_integers_come_back(value: int) -> None:
    encoded = der.integer(value)
    assert Reader(encoded).integer() == value
    assert (
        len(encoded) == 2 + max(1, (value.bit_length() + 8) // 8 if value >= 0 else len(encoded) - 2) or value
    )


@given(st.binary(max_size=40))
def test_an_unsigned_magnitude_is_that_integer(magnitude: bytes) -> None:
    assert der.unsigned(magnitude) == der.integer(int.from_bytes(magnitude, "big"))


@given(st.sampled_from([0, 1, 127, 128, 255, 256, 1023, 1024, 65535, 65536, 1 << 24]))
def test_lengths_of_every_size_come_back(size: int) -> None:
    content = bytes(size)
    reader = Reader(der.octet_string(content))
    assert reader.content(der.OCTET_STRING) == content
    reader.finish()


_arcs = st.tuples(
    st.sampled_from([0, 1, 2]), st.integers(0, 39), st.lists(st.integers(0, 1 << 70), max_size=6)
).map(lambda t: ".".join(map(str, (t[0], t[1], *t[2]))))


@given(_arcs)
@example("2.999.3")
@example("2.23.140.1.2.1")
@example("0.0")
def test_object_identifiers_come_back(dotted: str) -> None:
    assert Reader(der.oid(dotted)).oid() == dotted


def test_object_identifiers_are_those_of_openssl() -> None:
    assert "OBJECT            :2.999.1.128.16384" in openssl(
        "asn1parse", "-inform", "DER", stdin=der.oid("2.999.1.128.16384")
    )


@pytest.mark.parametrize(
    "dotted", ["", "1", "1.40", "3.1", "1.2.", "1..2", "1.02", "1.-2", "a.b", "1.2.x", "1. 2"]
)
def test_what_is_no_object_identifier_is_refused(dotted: str) -> None:
    with pytest.raises(DERError):
        der.oid(dotted)


@pytest.mark.parametrize("content", [b"", b"\x80", b"\x2a\x80\x01", b"\x2a\x86", b"\x2a" * 65])
def test_malformed_object_identifiers_are_refused(content: bytes) -> None:
    with pytest.raises(DERError):
        Reader(der.tlv(der.OBJECT_IDENTIFIER, content)).oid()


@given(st.integers(-62135596800, 253402300799))
@example(-631152001)
@example(-631152000)
@example(2524607999)
@example(2524608000)
def test_times_come_back_and_change_their_type_in_1950_and_2050(seconds: int) -> None:
    encoded = der.x509_time(seconds)
    assert Reader(encoded).time() == seconds
    year = datetime.fromtimestamp(seconds, UTC).year
    assert encoded[0] == (der.UTC_TIME if 1950 <= year < 2050 else der.GENERALIZED_TIME)
    assert Reader(der.generalized_time(seconds)).time() == seconds
    assert encoded.endswith(time.strftime("%m%d%H%M%SZ", time.gmtime(seconds)).encode())


def test_a_time_beyond_the_year_9999_has_no_encoding() -> None:
    for seconds in (253402300800, -62135596801, 10**30):
        with pytest.raises(DERError):
            der.x509_time(seconds)


@pytest.mark.parametrize(
    "encoded",
    [
        b"\x17\x0b2601010000Z",  # without seconds
        b"\x17\x11260101000000+0100",
        b"\x18\x1120260101000000.5Z",
        b"\x17\x0d260230000000Z",
        b"\x17\x0d261301000000Z",
        b"\x17\x0d260101240000Z",
        b"\x17\x0d260101000060Z",
        b"\x18\x0f00000101000000Z",
        b"\x17\x0d2601010000 0Z",
        b"\x04\x0d260101000000Z",
    ],
)
def test_times_that_rfc_5280_does_not_allow_are_refused(encoded: bytes) -> None:
    with pytest.raises(DERError):
        Reader(encoded).time()


def test_the_29th_of_february_exists_in_leap_years_only() -> None:
    assert Reader(b"\x17\x0d240229000000Z").time() == calendar.timegm((2024, 2, 29, 0, 0, 0))
    with pytest.raises(DERError):
        Reader(b"\x17\x0d230229000000Z").time()
    with pytest.raises(DERError):
        Reader(b"\x18\x0f21000229000000Z").time()


@given(st.integers(0, 511))
def test_named_bits_come_back(bits: int) -> None:
    reader = Reader(der.named_bits(bits, 9))
    assert reader.named_bits(9) == bits
    reader.finish()


def test_named_bits_are_those_of_key_usage() -> None:
    usage = x509.KeyUsage(True, False, True, False, False, False, False, False, False)
    assert der.named_bits(0b101000000, 9) == usage.public_bytes()
    usage = x509.KeyUsage(False, False, False, False, True, False, False, False, True)
    assert der.named_bits(0b000010001, 9) == usage.public_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"\x08\x00", b"\x01", b"\x01\x01", b"\x00\x00\x40", b"\x00\x00\x00\x80"]
)
def test_impossible_named_bits_are_refused(content: bytes) -> None:
    with pytest.raises(DERError):
        Reader(der.bit_string(content[1:], content[0]) if content else b"\x03\x00").named_bits(9)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x30",
        b"\x30\x80\x00\x00",  # indefinite
        b"\x30\x81\x02\x05\x00",  # not minimal
        b"\x30\x82\x00\x80" + bytes(128),  # not minimal
        b"\x30\x85\x00\x00\x00\x00\x02\x05\x00",
        b"\x30\x03\x05\x00",  # cut off
        b"\x30\x84\xff\xff\xff\xff",
        b"\x30\x02\x05\x00\x00",  # more behind it
        b"\x31\x02\x05\x00",  # another tag
    ],
)
def test_what_is_not_one_sequence_is_refused(data: bytes) -> None:
    with pytest.raises(DERError):
        whole(data)


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b"\xff\x80", b"\x00\x00"])
def test_integers_that_are_not_minimal_are_refused(content: bytes) -> None:
    with pytest.raises(DERError):
        Reader(der.tlv(der.INTEGER, content)).integer()


def test_booleans_are_00_or_ff() -> None:
    assert Reader(der.TRUE).boolean()
    assert not Reader(b"\x01\x01\x00").boolean()
    for other in (b"\x01\x01\x01", b"\x01\x00", b"\x01\x02\xff\xff"):
        with pytest.raises(DERError):
            Reader(other).boolean()


def test_high_tag_numbers_are_refused() -> None:
    with pytest.raises(DERError):
        Reader(b"\x1f\x81\x01\x00").any()


def test_a_reader_hands_out_the_bytes_as_received() -> None:
    inner = der.sequence(der.integer(5), der.octet_string(b"x"))
    reader = whole(der.sequence(inner, der.NULL))
    assert reader.raw(der.SEQUENCE) == inner
    assert reader.peek() == der.NULL_TAG
    assert reader.any() == (der.NULL_TAG, b"")
    assert reader.peek() == -1
    with pytest.raises(DERError):
        reader.any()


def test_an_inner_reader_does_not_see_past_its_end() -> None:
    inner = Reader(der.sequence(der.integer(1)) + der.integer(2)).enter()
    assert inner.integer() == 1
    assert not inner.more()
    with pytest.raises(DERError):
        inner.integer()


def test_a_set_of_is_sorted() -> None:
    assert der.set_of(der.integer(2), der.integer(1)) == der.tlv(der.SET, der.integer(1) + der.integer(2))


@given(st.binary(max_size=200))
def test_no_octets_make_the_reader_raise_anything_but_its_own_error(data: bytes) -> None:
    for read in ("boolean", "integer", "oid", "bit_string", "time", "any", "enter"):
        try:
            getattr(Reader(data), read)()
        except DERError:
            continue
    try:
        reader = Reader(data)
        while reader.more():
            reader.any()
    except DERError:
        pass
