"""What goes over the signer's socket: frames of a length (4 octets, big-endian) and so much MessagePack.

A frame from the server is ``[number, request]``; the answer to it is ``[number, answer]`` with the same
number, in any order. There is one kind of request for each method of ``Signing``.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from certloom.pki.crl import CRLTemplate
from certloom.pki.names import Name
from certloom.pki.template import CATemplate, CertificateTemplate
from certloom.signing.base import MadeKey, Purpose, SigningStatus

MOST_OCTETS = 1 << 28
"""Of one frame: a list of five million revoked certificates."""
HEADER = 4


class _Request(msgspec.Struct, frozen=True, array_like=True):
    pass


class Know(_Request, frozen=True, tag="know"):
    """Take a key's record."""

    id: str
    record: bytes


class Generate(_Request, frozen=True, tag="generate"):
    id: str
    purpose: Purpose
    authority: str
    algorithm: str
    token: str | None


class Adopt(_Request, frozen=True, tag="adopt"):
    id: str
    purpose: Purpose
    authority: str
    pkcs8: bytes


class Attach(_Request, frozen=True, tag="attach"):
    id: str
    purpose: Purpose
    authority: str
    token: str


class Certificate(_Request, frozen=True, tag="certificate"):
    key_id: str
    issuer: bytes
    template: CertificateTemplate


class CACertificate(_Request, frozen=True, tag="ca-certificate"):
    key_id: str
    issuer: bytes | None
    template: CATemplate


class CSR(_Request, frozen=True, tag="csr"):
    key_id: str
    subject: Name
    ca: bool


class CRL(_Request, frozen=True, tag="crl"):
    key_id: str
    issuer: bytes
    template: CRLTemplate


class Sign(_Request, frozen=True, tag="sign"):
    key_id: str
    data: tuple[bytes, ...]


class Decrypt(_Request, frozen=True, tag="decrypt"):
    key_id: str
    ciphertext: bytes
    padding: Literal["pkcs1", "oaep-sha1", "oaep-sha256"]


class Status(_Request, frozen=True, tag="status"):
    server_user: int | None = None
    """For root, who asks on behalf of the server: the server's user id."""


Request = Know | Generate | Adopt | Attach | Certificate | CACertificate | CSR | CRL | Sign | Decrypt | Status


class Failed(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """It was not done: see ``SigningRefused`` and ``SigningUnavailable``."""

    refused: bool
    """For good, not only for now."""
    code: str
    message: str


class Made(msgspec.Struct, frozen=True, array_like=True, tag="made"):
    key: MadeKey


class Octets(msgspec.Struct, frozen=True, array_like=True, tag="octets"):
    """A certificate, a CRL, signatures, what was decrypted; nothing for ``know``."""

    values: tuple[bytes, ...]


class Told(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    status: SigningStatus


Answer = Failed | Made | Octets | Told

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(tuple[int, Request]).decode
decode_answer = msgspec.msgpack.Decoder(tuple[int, Answer]).decode


def framed(number: int, message: Request | Answer) -> bytes:
    """One frame."""
    data = encode((number, message))
    return len(data).to_bytes(HEADER, "big") + data


class Frames:
    """Cuts what arrives into frames."""

    def __init__(self, most: int = MOST_OCTETS) -> None:
        self._most = most
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are complete now. Raises ``ValueError`` for one that is too long."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        at = 0
        while len(buffer) - at >= HEADER:
            length = int.from_bytes(buffer[at : at + HEADER], "big")
            if length > self._most:
                raise ValueError(f"a frame of {length} octets")
            if len(buffer) - at - HEADER < length:
                break
            found.append(bytes(buffer[at + HEADER : at + HEADER + length]))
            at += HEADER + length
        if at:
            del buffer[:at]
        return found
