"""What goes through the pipes to a process that has loaded a PKCS#11 module.

Frames are a length (4 octets, big-endian) and so much MessagePack. Each request is answered before the next
is read: a module is asked one thing at a time.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from certloom.signing.base import Purpose
from certloom.signing.tokens.uri import TokenURI

MOST_OCTETS = 1 << 26


class _Message(msgspec.Struct, frozen=True, array_like=True):
    pass


class Open(_Message, frozen=True, tag="open"):
    """Load the module and find the token; nothing is logged into yet."""

    module: str
    label: str
    serial: str


class LogIn(_Message, frozen=True, tag="log-in"):
    """With the PIN, once."""

    pin: str

    def __repr__(self) -> str:
        return "LogIn(...)"


class Generate(_Message, frozen=True, tag="generate"):
    algorithm: str
    label: str
    id: bytes
    purpose: Purpose


class Find(_Message, frozen=True, tag="find"):
    uri: TokenURI


class Sign(_Message, frozen=True, tag="sign"):
    uri: TokenURI
    algorithm: str
    data: tuple[bytes, ...]


class Decrypt(_Message, frozen=True, tag="decrypt"):
    uri: TokenURI
    ciphertext: bytes
    padding: Literal["pkcs1", "oaep-sha1", "oaep-sha256"]


Request = Open | LogIn | Generate | Find | Sign | Decrypt


class Opened(_Message, frozen=True, tag="opened"):
    """What the token says of itself."""

    label: str
    serial: str
    needs_login: bool
    count_low: bool
    """A wrong PIN was given since the last right one."""
    final_try: bool
    """One more wrong PIN locks it."""
    locked: bool


class Done(_Message, frozen=True, tag="done"):
    values: tuple[bytes, ...] = ()


class Failed(_Message, frozen=True, tag="failed"):
    kind: Literal["refused", "gone", "pin"]
    """``refused``: it cannot be done. ``gone``: the token or the module is not to be had. ``pin``: wrong
    PIN."""
    message: str


Answer = Opened | Done | Failed

encode = msgspec.msgpack.Encoder().encode
decode_request = msgspec.msgpack.Decoder(Request).decode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
