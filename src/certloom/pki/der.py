"""DER (ITU-T X.690): a strict writer, and a small bounded reader over byte ranges.

The writer is plain functions from values to complete TLVs, so that constant parts can be built once
and joined later. The reader never copies what it does not hand out, never recurses (its caller's
own structure bounds the depth), and hands out ranges of the original bytes, so that a signature is
checked over what was received and not over a re-encoding.

The reader takes DER as certificates and requests use it: definite, minimal lengths and tag numbers
below 31. What real senders get wrong without harm is left to the caller: the order of a SET OF, and
a DEFAULT value that is spelled out.
"""

from __future__ import annotations

import time
from functools import lru_cache

BOOLEAN = 0x01
INTEGER = 0x02
BIT_STRING = 0x03
OCTET_STRING = 0x04
NULL_TAG = 0x05
OBJECT_IDENTIFIER = 0x06
UTF8_STRING = 0x0C
PRINTABLE_STRING = 0x13
TELETEX_STRING = 0x14
IA5_STRING = 0x16
UTC_TIME = 0x17
GENERALIZED_TIME = 0x18
UNIVERSAL_STRING = 0x1C
BMP_STRING = 0x1E
SEQUENCE = 0x30
SET = 0x31

TRUE = b"\x01\x01\xff"
"""BOOLEAN TRUE."""
NULL = b"\x05\x00"
"""The NULL value."""

_EARLIEST = -62135596800  # 0001-01-01T00:00:00Z
_UTC_FROM = -631152000  # 1950-01-01T00:00:00Z
_UTC_BEFORE = 2524608000  # 2050-01-01T00:00:00Z
_LATEST = 253402300799  # 9999-12-31T23:59:59Z


class DERError(ValueError):
    """These bytes are not the DER that was expected, or this value has no DER form."""


# --- writing ---------------------------------------------------------------------------------


def _length(n: int) -> bytes:
    if n < 0x80:
        return bytes((n,))
    size = (n.bit_length() + 7) >> 3
    return bytes((0x80 | size,)) + n.to_bytes(size, "big")


# The lengths of everything in an ordinary certificate, made once.
_LENGTHS = tuple(_length(n) for n in range(1024))
_TAGS = tuple(bytes((n,)) for n in range(256))


def tlv(tag: int, content: bytes) -> bytes:
    """One TLV; ``tag`` is the identifier octet as it stands on the wire."""
    n = len(content)
    return _TAGS[tag] + (_LENGTHS[n] if n < 1024 else _length(n)) + content


def sequence(*parts: bytes) -> bytes:
    """SEQUENCE of complete TLVs."""
    return tlv(SEQUENCE, b"".join(parts))


def set_of(*parts: bytes) -> bytes:
    """SET OF complete TLVs, sorted as X.690 section 11.6 asks."""
    return tlv(SET, b"".join(sorted(parts)))


def context(number: int, content: bytes, *, constructed: bool = True) -> bytes:
    """Context-specific ``[number]``: EXPLICIT around a TLV, or IMPLICIT over its contents."""
    return tlv((0xA0 if constructed else 0x80) | number, content)


def integer(value: int) -> bytes:
    """INTEGER, minimal two's complement."""
    if value >= 0:
        return tlv(INTEGER, value.to_bytes((value.bit_length() >> 3) + 1, "big"))
    return tlv(INTEGER, value.to_bytes(((value + 1).bit_length() >> 3) + 1, "big", signed=True))


def unsigned(magnitude: bytes) -> bytes:
    """INTEGER from a big-endian magnitude: leading zeros dropped, a sign octet added where needed."""
    magnitude = magnitude.lstrip(b"\x00")
    if not magnitude or magnitude[0] & 0x80:
        magnitude = b"\x00" + magnitude
    return tlv(INTEGER, magnitude)


def octet_string(content: bytes) -> bytes:
    """OCTET STRING."""
    return tlv(OCTET_STRING, content)


def bit_string(content: bytes, unused: int = 0) -> bytes:
    """BIT STRING of whole octets, the last ``unused`` bits of which do not count."""
    return tlv(BIT_STRING, _TAGS[unused] + content)


def named_bits(bits: int, width: int) -> bytes:
    """BIT STRING of a named bit list (X.690 section 11.2.2): bit 0 is the highest of ``width``; trailing
    zero bits are dropped."""
    if not bits:
        return bit_string(b"")
    trailing = (bits & -bits).bit_length() - 1
    count = width - trailing
    unused = -count % 8
    return bit_string(((bits >> trailing) << unused).to_bytes((count + 7) // 8, "big"), unused)


@lru_cache(maxsize=1024)
def oid(dotted: str) -> bytes:
    """OBJECT IDENTIFIER from its dotted form. Raises ``DERError`` if it is not one."""
    try:
        arcs = [int(arc) for arc in dotted.split(".")]
        canonical = ".".join(map(str, arcs))
    except ValueError:
        raise DERError(f"not an object identifier: {dotted!r}") from None
    if len(arcs) < 2 or canonical != dotted or min(arcs) < 0 or arcs[0] > 2 or (arcs[0] < 2 and arcs[1] > 39):
        raise DERError(f"not an object identifier: {dotted!r}")
    out = bytearray()
    for arc in (arcs[0] * 40 + arcs[1], *arcs[2:]):
        groups = [arc & 0x7F]
        while arc := arc >> 7:
            groups.append(0x80 | (arc & 0x7F))
        out += bytes(reversed(groups))
    return tlv(OBJECT_IDENTIFIER, bytes(out))


def x509_time(seconds: int) -> bytes:
    """A ``Time`` of RFC 5280 section 4.1.2.5 from Unix seconds: UTCTime from 1950 to 2049, else
    GeneralizedTime, always with seconds and in Zulu. Raises ``DERError`` outside years 1 to 9999."""
    if _UTC_FROM <= seconds < _UTC_BEFORE:
        y, mo, d, h, mi, s = time.gmtime(seconds)[:6]
        return b"\x17\x0d%02d%02d%02d%02d%02d%02dZ" % (y % 100, mo, d, h, mi, s)
    return generalized_time(seconds)


def generalized_time(seconds: int) -> bytes:
    """GeneralizedTime from Unix seconds, without fractions. Raises ``DERError`` outside years 1 to 9999."""
    if not _EARLIEST <= seconds <= _LATEST:
        raise DERError("a time outside the years 1 to 9999")
    y, mo, d, h, mi, s = time.gmtime(seconds)[:6]
    return b"\x18\x0f%04d%02d%02d%02d%02d%02dZ" % (y, mo, d, h, mi, s)


# --- reading ---------------------------------------------------------------------------------


class Reader:
    """Walks the TLVs in ``data[offset:end]``. Every method raises ``DERError`` on anything else than it
    reads. ``tag`` is the identifier octet as on the wire."""

    __slots__ = ("data", "end", "offset")

    def __init__(self, data: bytes, offset: int = 0, end: int | None = None) -> None:
        self.data = data
        self.offset = offset
        self.end = len(data) if end is None else end

    def _content(self, tag: int) -> int:
        """Step over the next TLV, which must have this tag; where its contents begin."""
        data = self.data
        start = self.offset + 2
        if start > self.end:
            raise DERError("the data ends too early")
        if data[start - 2] != tag:
            raise DERError(f"expected tag {tag:#04x}, found {data[start - 2]:#04x}")
        length = data[start - 1]
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or start + size > self.end:
                raise DERError("a length that is indefinite, too large or cut off")
            length = int.from_bytes(data[start : start + size], "big")
            if length < 0x80 or length >> (8 * (size - 1)) == 0:
                raise DERError("a length that is not minimal")
            start += size
        stop = start + length
        if stop > self.end:
            raise DERError("a length beyond the data that holds it")
        self.offset = stop
        return start

    def enter(self, tag: int = SEQUENCE) -> Reader:
        """A reader over the contents of the next TLV; this one moves past it."""
        start = self._content(tag)
        return Reader(self.data, start, self.offset)

    def content(self, tag: int) -> bytes:
        """The contents of the next TLV."""
        start = self._content(tag)
        return self.data[start : self.offset]

    def raw(self, tag: int) -> bytes:
        """The whole next TLV, as received."""
        begin = self.offset
        self._content(tag)
        return self.data[begin : self.offset]

    def peek(self) -> int:
        """The next identifier octet, or -1 at the end."""
        return self.data[self.offset] if self.offset < self.end else -1

    def any(self) -> tuple[int, bytes]:
        """The next TLV whatever it is, as (identifier octet, contents). Tag numbers above 30 are refused."""
        tag = self.peek()
        if tag < 0:
            raise DERError("the data ends too early")
        if tag & 0x1F == 0x1F:
            raise DERError("a tag number above 30")
        return tag, self.content(tag)

    def more(self) -> bool:
        """Whether anything is left."""
        return self.offset < self.end

    def finish(self) -> None:
        """Nothing may be left."""
        if self.offset != self.end:
            raise DERError("unexpected data at the end")

    def integer(self) -> int:
        """INTEGER, minimal, of any sign."""
        content = self.content(INTEGER)
        if not content or (
            len(content) > 1 and content[0] in (0, 0xFF) and content[0] >> 7 == content[1] >> 7
        ):
            raise DERError("an INTEGER that is not minimal")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self) -> bool:
        """BOOLEAN, 00 or FF."""
        content = self.content(BOOLEAN)
        if content == b"\xff":
            return True
        if content == b"\x00":
            return False
        raise DERError("a BOOLEAN that is neither 00 nor FF")

    def oid(self) -> str:
        """OBJECT IDENTIFIER in dotted form."""
        return _dotted(self.content(OBJECT_IDENTIFIER))

    def bit_string(self) -> bytes:
        """The octets of a BIT STRING without unused bits: a key or a signature."""
        content = self.content(BIT_STRING)
        if not content or content[0]:
            raise DERError("a BIT STRING with unused bits")
        return content[1:]

    def named_bits(self, width: int) -> int:
        """A named bit list as an integer whose highest of ``width`` bits is bit 0. Trailing zero bits, which
        DER drops, are taken; bits beyond ``width`` are refused."""
        content = self.content(BIT_STRING)
        if not content or content[0] > 7 or (len(content) == 1 and content[0]):
            raise DERError("a BIT STRING with impossible unused bits")
        bits = int.from_bytes(content[1:], "big")
        if bits & ((1 << content[0]) - 1):
            raise DERError("a BIT STRING whose unused bits are not zero")
        shift = width - 8 * (len(content) - 1)
        if shift < 0:
            if bits & ((1 << -shift) - 1):
                raise DERError("a named bit that does not exist")
            return bits >> -shift
        return bits << shift

    def time(self) -> int:
        """UTCTime or GeneralizedTime in RFC 5280's form (seconds, Zulu, no fraction), as Unix seconds."""
        tag, content = self.any()
        return _seconds(tag, content)


def whole(data: bytes, tag: int = SEQUENCE) -> Reader:
    """A reader over the contents of the one TLV that is all of ``data``."""
    outer = Reader(data)
    inner = outer.enter(tag)
    outer.finish()
    return inner


@lru_cache(maxsize=1024)
def _dotted_short(content: bytes) -> str:
    if not content or content[-1] & 0x80:
        raise DERError("an OBJECT IDENTIFIER that is empty or cut off")
    arcs: list[int] = []
    arc = 0
    fresh = True
    for octet in content:
        if fresh and octet == 0x80:
            raise DERError("an OBJECT IDENTIFIER that is not minimal")
        arc = (arc << 7) | (octet & 0x7F)
        fresh = not octet & 0x80
        if fresh:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))


def _dotted(content: bytes) -> str:
    # Bounded, so that neither the cache nor one huge arc costs much.
    if len(content) > 64:
        raise DERError("an OBJECT IDENTIFIER of more than 64 octets")
    return _dotted_short(content)


def _seconds(tag: int, content: bytes) -> int:
    if tag == UTC_TIME and len(content) == 13:
        digits = content[:12]
        century = b"19" if content[:2] >= b"50" else b"20"
        digits = century + digits
    elif tag == GENERALIZED_TIME and len(content) == 15:
        digits = content[:14]
    else:
        raise DERError("a time that is not in the form of RFC 5280 section 4.1.2.5")
    if content[-1:] != b"Z" or not digits.isdigit():
        raise DERError("a time that is not in the form of RFC 5280 section 4.1.2.5")
    year, month, day, hour, minute, second = (
        int(digits[:4]),
        int(digits[4:6]),
        int(digits[6:8]),
        int(digits[8:10]),
        int(digits[10:12]),
        int(digits[12:14]),
    )
    if not (year and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        raise DERError("a time that does not exist")
    days = _days(year, month, day)
    if time.gmtime(days * 86400)[2] != day:
        raise DERError("a day that does not exist")
    return days * 86400 + hour * 3600 + minute * 60 + second


def _days(year: int, month: int, day: int) -> int:
    """Days from 1970-01-01 in the Gregorian calendar, counted in years that begin in March."""
    year -= month <= 2
    month = month - 3 if month > 2 else month + 9
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 719469
