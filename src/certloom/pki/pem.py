"""Certificates and CRLs as text (RFC 7468)."""

from __future__ import annotations

from binascii import b2a_base64


def to_pem(der: bytes, label: str = "CERTIFICATE") -> bytes:
    """The strict form: lines of 64 characters, a final newline."""
    text = b2a_base64(der, newline=False)
    lines = b"\n".join([text[i : i + 64] for i in range(0, len(text), 64)])
    name = label.encode()
    return b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (name, lines, name)
