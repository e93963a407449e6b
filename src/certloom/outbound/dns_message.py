"""DNS messages (RFC 1035, RFC 6891): one question out, one answer in. Pure; no I/O.

Why an own codec for four record types: ``pycares`` leaves out records it cannot decode and cuts CAA values at
a NUL, either of which can turn a refusal into a permission; it does not show the AD bit, and it caches
answers without a switch. ``dnspython`` has none of these faults and costs several times as much per message.
Here a message that is not well formed is refused whole.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

TYPE_A: Final = 1
TYPE_CNAME: Final = 5
TYPE_TXT: Final = 16
TYPE_AAAA: Final = 28
TYPE_OPT: Final = 41
TYPE_CAA: Final = 257
TYPE_NAMES: Final = {TYPE_A: "A", TYPE_TXT: "TXT", TYPE_AAAA: "AAAA", TYPE_CAA: "CAA"}

RCODE_NOERROR: Final = 0
RCODE_FORMERR: Final = 1
RCODE_SERVFAIL: Final = 2
RCODE_NXDOMAIN: Final = 3
RCODE_NAMES: Final = {1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}

UDP_PAYLOAD: Final = 1232
"""Bytes offered by EDNS: what passes unfragmented nearly everywhere."""

_FLAG_RESPONSE = 0x8000
_FLAG_TRUNCATED = 0x0200
_FLAG_AUTHENTIC = 0x0020
_CLASS_IN = b"\x00\x01"
# OPT: root name, type 41, UDP payload size as class, extended RCODE and version 0, DO or not, no options.
_OPT = b"\x00\x00\x29" + UDP_PAYLOAD.to_bytes(2, "big") + b"\x00\x00\x00\x00\x00\x00"
_OPT_DO = b"\x00\x00\x29" + UDP_PAYLOAD.to_bytes(2, "big") + b"\x00\x00\x80\x00\x00\x00"
_OPTION_EXTENDED_ERROR = 15
_LABELS = re.compile(r"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_CNAME_LIMIT = 16


class MessageError(ValueError):
    """The bytes are no well-formed answer to the question."""


class InvalidName(MessageError):
    """The question cannot be put: not a name that DNS holds."""


class Answer(msgspec.Struct, frozen=True):
    """What a resolver said."""

    rcode: int
    truncated: bool
    authentic: bool
    """The AD bit: the resolver validated this by DNSSEC (RFC 4035 section 3.2.3)."""
    rdatas: tuple[bytes, ...]
    """Record data of the type asked for, at the end of the chain of CNAMEs."""
    explanation: str
    """Extended DNS error (RFC 8914) as text, for answers with an error; may be empty. Not sanitised."""


class CAARecord(msgspec.Struct, frozen=True):
    """One CAA property (RFC 8659 section 4.1)."""

    flags: int
    tag: str
    """Lower-case."""
    value: str
    """Latin-1, so that no byte is lost."""

    @property
    def critical(self) -> bool:
        """Issuer Critical Flag."""
        return self.flags & 0x80 != 0


def encode_query(
    query_id: bytes, name: str, record_type: int, *, edns: bool = True, dnssec: bool = False
) -> bytes:
    """One question with recursion desired. ``query_id`` is two random bytes; ``name`` has no trailing dot.

    Raises ``InvalidName`` for what is no host name (underscores are let through) or is too long.
    """
    if not _LABELS.fullmatch(name) or len(name) > 253:
        raise InvalidName("not a DNS name")
    parts = [query_id, b"\x01\x20" if dnssec else b"\x01\x00", b"\x00\x01\x00\x00\x00\x00\x00"]
    parts.append(b"\x01" if edns else b"\x00")
    for label in name.encode().split(b"."):
        parts.append(bytes((len(label),)))
        parts.append(label)
    parts.append(b"\x00" + record_type.to_bytes(2, "big") + _CLASS_IN)
    if edns:
        parts.append(_OPT_DO if dnssec else _OPT)
    return b"".join(parts)


def parse_answer(query: bytes, message: bytes) -> Answer | None:
    """The answer in ``message`` to ``query``; None if it answers something else (stray or forged).

    Raises ``MessageError`` for an answer to this question that is not well formed.
    """
    end = query.index(0, 12) + 5  # of the question; its labels hold no zero octet
    if len(message) < 12 or message[:2] != query[:2]:
        return None
    flags = message[2] << 8 | message[3]
    if not flags & _FLAG_RESPONSE:
        return None
    rcode = flags & 0x0F
    if message[4:6] != b"\x00\x01" or message[12:end].lower() != query[12:end]:
        # FORMERR may come without the question it could not read.
        if rcode == RCODE_FORMERR and message[4:6] == b"\x00\x00":
            return Answer(rcode, False, False, (), "")
        return None
    if flags & _FLAG_TRUNCATED:
        return Answer(rcode, True, False, (), "")
    question_name, position = query[12 : end - 4], end
    wanted = query[end - 4 : end - 2]
    aliases: dict[bytes, bytes] = {}
    found: list[tuple[bytes, bytes]] = []
    for _ in range(message[6] << 8 | message[7]):
        if (
            message[position : position + 2] == b"\xc0\x0c"
        ):  # the usual case: a pointer to the question's name
            owner, position = question_name, position + 2
        else:
            owner, position = _name(message, position)
        kind, class_, start, stop = _record(message, position)
        if class_ == _CLASS_IN:
            if kind == wanted:
                found.append((owner, message[start:stop]))
            elif kind == b"\x00\x05":
                target, target_end = _name(message, start)
                if target_end != stop:
                    raise MessageError("CNAME does not fill its record")
                if aliases.setdefault(owner, target) != target:
                    raise MessageError("two CNAMEs at one name")
        position = stop
    name = question_name
    for _ in range(_CNAME_LIMIT):
        if name not in aliases:
            break
        name = aliases[name]
    else:
        raise MessageError("CNAMEs go in a circle")
    explanation = _extended_error(message, position) if rcode != RCODE_NOERROR else ""
    rdatas = tuple(rdata for owner, rdata in found if owner == name)
    return Answer(rcode, False, flags & _FLAG_AUTHENTIC != 0, rdatas, explanation)


def parse_txt(rdata: bytes) -> bytes:
    """The character-strings of a TXT record, joined (RFC 1035 section 3.3.14). Raises ``MessageError``."""
    pieces, position = [], 0
    while position < len(rdata):
        stop = position + 1 + rdata[position]
        pieces.append(rdata[position + 1 : stop])
        position = stop
    if position != len(rdata) or not pieces:
        raise MessageError("TXT does not fill its record")
    return b"".join(pieces)


def parse_caa(rdata: bytes) -> CAARecord:
    """RFC 8659 section 4.1. Raises ``MessageError``."""
    if len(rdata) < 2:
        raise MessageError("CAA is too short")
    stop = 2 + rdata[1]
    tag = rdata[2:stop]
    if stop > len(rdata) or not tag.isalnum():
        raise MessageError("CAA has no readable tag")
    return CAARecord(rdata[0], tag.decode("ascii").lower(), rdata[stop:].decode("latin-1"))


def _record(message: bytes, position: int) -> tuple[bytes, bytes, int, int]:
    """Type, class, and where the data starts and stops, of a record whose name ends at ``position``."""
    start = position + 10
    if start > len(message):
        raise MessageError("record is cut off")
    stop = start + (message[start - 2] << 8 | message[start - 1])
    if stop > len(message):
        raise MessageError("record is cut off")
    return message[position : position + 2], message[position + 2 : position + 4], start, stop


def _name(message: bytes, position: int) -> tuple[bytes, int]:
    """A name as uncompressed lower-case wire bytes, and where it ends (RFC 1035 section 4.1.4)."""
    labels: list[bytes] = []
    length, end, limit = 1, 0, position
    try:
        while octet := message[position]:
            if octet >= 0xC0:
                target = (octet & 0x3F) << 8 | message[position + 1]
                end = end or position + 2
                if target >= limit:  # each pointer must point further back, so this ends
                    raise MessageError("compression pointer does not point back")
                position = limit = target
            elif octet >= 0x40:
                raise MessageError("unknown label type")
            else:
                label = message[position : position + 1 + octet]
                length += len(label)
                if length > 255:
                    raise MessageError("name is too long")
                labels.append(label)
                position += 1 + octet
    except IndexError:
        raise MessageError("name is cut off") from None
    # A label's length octet is below 0x41 ("A"), so lower() leaves lengths alone.
    return b"".join(labels).lower() + b"\x00", end or position + 1


def _extended_error(message: bytes, position: int) -> str:
    """INFO-CODE and EXTRA-TEXT of RFC 8914, if an OPT record has them; best effort, as it only explains."""
    try:
        for _ in range((message[8] << 8 | message[9]) + (message[10] << 8 | message[11])):
            _, position = _name(message, position)
            kind, _, start, stop = _record(message, position)
            while kind == b"\x00\x29" and start + 6 <= stop:
                length = message[start + 2] << 8 | message[start + 3]
                if message[start] << 8 | message[start + 1] == _OPTION_EXTENDED_ERROR and length >= 2:
                    code = message[start + 4] << 8 | message[start + 5]
                    text = message[start + 6 : start + 4 + length].decode("utf-8", "replace")
                    return f"extended error {code} {text}".rstrip()
                start += 4 + length
            position = stop
    except MessageError:
        pass
    return ""
