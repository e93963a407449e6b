"""Bodies and parts, apart from any server."""

from __future__ import annotations

import base64
import email

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.protocols.est.messages import MessageError, decode_body, encode_body, multipart

DER = st.binary(min_size=1, max_size=400).map(lambda content: b"\x30\x82" + content)


@given(DER, st.integers(1, 80), st.sampled_from([b"\n", b"\r\n", b" \r\n", b"\t"]))
def test_base64_of_any_form_is_the_same_body(der: bytes, width: int, end: bytes) -> None:
    text = base64.b64encode(der)
    folded = end.join([text[i : i + width] for i in range(0, len(text), width)])
    for body in (text, folded, b"\r\n" + folded + end, der):
        assert decode_body(body) == der
    armoured = b"-----BEGIN CERTIFICATE REQUEST-----\n" + folded + b"\n-----END CERTIFICATE REQUEST-----\n"
    assert decode_body(armoured) == der


@given(st.binary(max_size=300))
def test_no_body_is_too_much(body: bytes) -> None:
    try:
        decoded = decode_body(body)
    except MessageError:
        return
    assert decoded


@given(DER)
def test_what_is_written_is_read(der: bytes) -> None:
    for folded in (False, True):
        assert decode_body(encode_body(der, folded=folded)) == der


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n",
        b"MIIB!!",
        b"MII",
        b"MIIBAA==MIIB",
        b"-----BEGIN X-----\nMIIB",
        b"-----BEGIN X-----\nMIIB\n-----END Y-----\n",
        b"-----BEGIN X-----\nMIIB\n-----END X-----\nmore",
        "MIIBé".encode(),
    ],
)
def test_garbage_is_said_to_be_garbage(body: bytes) -> None:
    with pytest.raises(MessageError):
        decode_body(body)


@given(DER, DER, st.booleans())
def test_parts_are_read_by_others(one: bytes, other: bytes, folded: bool) -> None:
    type, body = multipart(((b"application/pkcs8", one), (b"application/pkcs7-mime", other)), folded=folded)
    message = email.message_from_bytes(b"Content-Type: " + type + b"\r\n\r\n" + body)
    parts = [part for part in message.walk() if part is not message]
    assert [part.get_content_type() for part in parts] == ["application/pkcs8", "application/pkcs7-mime"]
    assert [part.get_payload(decode=True) for part in parts] == [one, other]
