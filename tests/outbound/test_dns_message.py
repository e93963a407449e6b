from __future__ import annotations

import contextlib

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.outbound.dns_message import (
    TYPE_A,
    TYPE_CAA,
    TYPE_TXT,
    InvalidName,
    MessageError,
    encode_query,
    parse_answer,
    parse_caa,
    parse_txt,
)

LABEL = st.from_regex(r"[a-z0-9_](?:[a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)
ID = b"\x12\x34"


def response_to(query: bytes) -> dns.message.Message:
    return dns.message.make_response(dns.message.from_wire(query))


@given(NAME, st.sampled_from([TYPE_A, TYPE_TXT, TYPE_CAA]), st.booleans(), st.booleans())
def test_queries_read_as_meant(name: str, kind: int, edns: bool, dnssec: bool) -> None:
    message = dns.message.from_wire(encode_query(ID, name, kind, edns=edns, dnssec=dnssec))
    assert message.id == 0x1234
    assert message.question[0].name.to_text(omit_final_dot=True) == name
    assert int(message.question[0].rdtype) == kind
    assert message.flags & dns.flags.RD
    assert (message.edns == 0) == edns
    assert bool(message.ednsflags & dns.flags.DO) == (edns and dnssec)


@pytest.mark.parametrize(
    "name", ["", ".", "a..b", "a.", "a" * 64, "é.example", "a b", ".".join(["a" * 63] * 4), "a\0b", "*.a"]
)
def test_what_is_no_name_is_not_asked(name: str) -> None:
    with pytest.raises(InvalidName):
        encode_query(ID, name, TYPE_A)


@given(NAME, st.lists(st.lists(st.binary(max_size=255), min_size=1, max_size=3), max_size=4))
def test_txt_records_are_read_as_another_codec_wrote_them(name: str, records: list[list[bytes]]) -> None:
    query = encode_query(ID, name, TYPE_TXT)
    response = response_to(query)
    unique = {b"".join(bytes((len(s),)) + s for s in strings): strings for strings in records}
    if unique:
        rrset = dns.rrset.RRset(response.question[0].name, dns.rdataclass.IN, dns.rdatatype.TXT)
        for wire in unique:
            rrset.add(dns.rdata.from_wire(dns.rdataclass.IN, dns.rdatatype.TXT, wire, 0, len(wire)), 60)
        response.answer.append(rrset)
    answer = parse_answer(query, response.to_wire())
    assert answer is not None
    assert sorted(map(parse_txt, answer.rdatas)) == sorted(b"".join(s) for s in unique.values())


def test_cnames_are_followed_and_records_of_other_names_left_out() -> None:
    query = encode_query(ID, "www.example.com", TYPE_A)
    response = response_to(query)
    response.answer += [
        dns.rrset.from_text("b.example.net.", 60, "IN", "A", "192.0.2.2"),
        dns.rrset.from_text("www.example.com.", 60, "IN", "CNAME", "A.Example.Net."),
        dns.rrset.from_text("a.example.net.", 60, "IN", "CNAME", "b.example.net."),
        dns.rrset.from_text("www.example.com.", 60, "IN", "A", "192.0.2.66"),
        dns.rrset.from_text("stray.example.net.", 60, "IN", "A", "192.0.2.67"),
    ]
    answer = parse_answer(query, response.to_wire())
    assert answer is not None
    assert answer.rdatas == (bytes([192, 0, 2, 2]),)


def test_cnames_in_a_circle_are_refused() -> None:
    query = encode_query(ID, "a.example", TYPE_A)
    response = response_to(query)
    response.answer += [
        dns.rrset.from_text("a.example.", 60, "IN", "CNAME", "b.example."),
        dns.rrset.from_text("b.example.", 60, "IN", "CNAME", "a.example."),
    ]
    with pytest.raises(MessageError, match="circle"):
        parse_answer(query, response.to_wire())


@pytest.mark.parametrize(
    "change",
    [
        lambda w: b"\x12\x35" + w[2:],  # another id
        lambda w: w[:2] + b"\x01" + w[3:],  # a query, not a response
        lambda w: w[:12] + b"\x01b" + w[14:],  # another name
        lambda w: w[:4] + b"\x00\x00" + w[6:],  # no question
        lambda w: w[:8],
        lambda w: b"",
    ],
)
def test_an_answer_to_something_else_is_no_answer(change: object) -> None:
    query = encode_query(ID, "a.example", TYPE_A)
    assert callable(change)
    assert parse_answer(query, change(response_to(query).to_wire())) is None


@given(st.binary(max_size=120))
def test_no_bytes_make_the_parser_fail_in_another_way(noise: bytes) -> None:
    query = encode_query(ID, "a.example", TYPE_A)
    head = query[:2] + b"\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00" + query[12:27]
    for message in (noise, head + noise, head[:6] + noise):
        with contextlib.suppress(MessageError):
            parse_answer(query, message)


@given(st.data())
def test_a_damaged_answer_is_refused_or_read_but_nothing_else(data: st.DataObject) -> None:
    query = encode_query(ID, "a.example", TYPE_CAA)
    response = response_to(query)
    response.answer.append(dns.rrset.from_text("a.example.", 60, "IN", "CAA", '0 issue "ca.example"'))
    wire = bytearray(response.to_wire())
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MessageError):
        answer = parse_answer(query, bytes(wire[: data.draw(st.integers(0, len(wire)))]))
        for rdata in answer.rdatas if answer else ():
            parse_caa(rdata)


def test_compression_pointers_cannot_loop() -> None:
    query = encode_query(ID, "a.example", TYPE_A)
    question = query[12:27]
    loop = query[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + question + b"\xc0\x1b" + b"\0" * 10
    with pytest.raises(MessageError, match="pointer"):
        parse_answer(query, loop)


@given(st.integers(0, 255), st.from_regex(r"[A-Za-z0-9]{1,15}", fullmatch=True), st.binary(max_size=100))
def test_caa_values_keep_every_byte(flags: int, tag: str, value: bytes) -> None:
    record = parse_caa(bytes((flags, len(tag))) + tag.encode() + value)
    assert (record.flags, record.tag, record.value.encode("latin-1")) == (flags, tag.lower(), value)
    assert record.critical == (flags >= 128)


@pytest.mark.parametrize(
    "rdata", [b"", b"\x00", b"\x00\x00", b"\x00\x05issu", b"\x00\x05iss e", b"\x00\x01\xe9"]
)
def test_malformed_caa_is_refused(rdata: bytes) -> None:
    with pytest.raises(MessageError):
        parse_caa(rdata)


@pytest.mark.parametrize("rdata", [b"", b"\x05four", b"\x01a\x02b"])
def test_malformed_txt_is_refused(rdata: bytes) -> None:
    with pytest.raises(MessageError):
        parse_txt(rdata)
