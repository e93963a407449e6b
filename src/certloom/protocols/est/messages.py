"""What EST puts on the wire (RFC 7030, corrected by RFC 8951): base64 bodies, certs-only messages, multipart.

A body is base64 of DER whatever a Content-Transfer-Encoding header says, and that header is ignored (RFC 8951
section 3). Taken as well is what senders make of it: lines of any length, PEM armour, DER as it is.
"""

from __future__ import annotations

import binascii
import secrets
from base64 import b64encode

from certloom.pki.containers import certs_only

PKCS7 = b"application/pkcs7-mime"
CERTS_ONLY = b"application/pkcs7-mime; smime-type=certs-only"
CMC_RESPONSE = b"application/pkcs7-mime; smime-type=CMC-response"
SERVER_GENERATED_KEY = b"application/pkcs7-mime; smime-type=server-generated-key"
PKCS8 = b"application/pkcs8"
PKCS10 = b"application/pkcs10"
CSR_ATTRIBUTES = b"application/csrattrs"
TEXT = b"text/plain; charset=utf-8"

_BLANKS = b" \t\r\n"
_LINE = 64
_SEQUENCE = 0x30


class MessageError(ValueError):
    """This body is not what EST sends."""


def decode_body(body: bytes) -> bytes:
    """The DER in a request's body. Raises ``MessageError``; whether it is DER is for its reader to say."""
    if not body:
        raise MessageError("the body is empty")
    if body[0] == _SEQUENCE:
        return body  # base64 of what begins so begins with "M"
    text = body.strip(_BLANKS)
    if text.startswith(b"-----BEGIN "):
        text = _unarmoured(text)
    try:
        decoded = binascii.a2b_base64(text.translate(None, _BLANKS), strict_mode=True)
    except binascii.Error:
        raise MessageError("the body is not base64 (RFC 8951 section 3, RFC 4648 section 4)") from None
    if not decoded:
        raise MessageError("the body is empty")
    return decoded


def _unarmoured(text: bytes) -> bytes:
    """What stands between the lines of PEM armour (RFC 7468)."""
    first, _, rest = text.partition(b"\n")
    label = first.strip(_BLANKS).removeprefix(b"-----BEGIN ").removesuffix(b"-----")
    inner, end, after = rest.partition(b"-----END " + label + b"-----")
    if not end or after.strip(_BLANKS):
        raise MessageError("the body is PEM armour without its end, or with more behind it")
    return inner


def encode_body(content: bytes, *, folded: bool) -> bytes:
    """base64 of DER, on one line (RFC 8951 section 3.1), or folded for the old clients that read no other."""
    text = b64encode(content)
    if not folded:
        return text
    return b"".join([text[i : i + _LINE] + b"\r\n" for i in range(0, len(text), _LINE)])


def certificates_body(certificates: tuple[bytes, ...], *, folded: bool) -> bytes:
    """A certs-only message (RFC 7030 sections 4.1.3 and 4.2.3)."""
    return encode_body(certs_only(certificates), folded=folded)


def multipart(parts: tuple[tuple[bytes, bytes], ...], *, folded: bool) -> tuple[bytes, bytes]:
    """Content type and body of a multipart/mixed message (RFC 7030 section 4.4.2, RFC 2046 section 5.1.3) of
    parts that are (media type, DER)."""
    boundary = b"certloom-" + secrets.token_hex(16).encode()
    body = b"".join(
        [
            b"--%b\r\nContent-Type: %b\r\nContent-Transfer-Encoding: base64\r\n\r\n%b\r\n"
            % (boundary, media, encode_body(content, folded=folded).rstrip(b"\r\n"))
            for media, content in parts
        ]
    )
    return b"multipart/mixed; boundary=" + boundary, body + b"--" + boundary + b"--\r\n"
