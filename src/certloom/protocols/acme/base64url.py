"""Base64url as ACME wants it: without padding, strictly (RFC 8555 section 6.1, RFC 4648 section 5)."""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

_TO_STANDARD = bytes.maketrans(b"-_+/=", b"+/!!!")
_TO_URL = bytes.maketrans(b"+/", b"-_")
_PADDING = (b"", b"!", b"==", b"=")


def decode(text: str) -> bytes:
    """Raises ``ValueError`` for padding, for anything outside the alphabet and for an impossible length."""
    data = text.encode("ascii").translate(_TO_STANDARD)
    return a2b_base64(data + _PADDING[len(data) & 3], strict_mode=True)


def decode_canonical(text: str) -> bytes:
    """The same, refusing also the texts whose last character has bits that mean nothing.

    For what is compared or looked up, where two texts must not stand for one value.
    """
    data = decode(text)
    if encode(data) != text:
        raise Error("not the canonical text of these bytes")
    return data


def encode_bytes(data: bytes) -> bytes:
    """ASCII, no padding."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL)


def encode(data: bytes) -> str:
    """No padding."""
    return encode_bytes(data).decode("ascii")
