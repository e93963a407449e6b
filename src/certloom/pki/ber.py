"""BER (ITU-T X.690 section 8) turned into what the DER reader takes.

CMS is written in BER (RFC 5652 section 2), and senders that write it in one pass use what that allows:
indefinite lengths, and strings in pieces.
"""

from __future__ import annotations

from certloom.pki.der import DERError

MAX_DEPTH = 32
"""Of TLVs within TLVs."""
MAX_SIZE = 1 << 24
"""Octets that are taken."""
MAX_ELEMENTS = 1 << 16
"""TLVs that are taken: each costs a microsecond or two, and may be of no more than two octets."""

# The strings of the universal class, in pieces. The pieces of a BIT STRING are BIT STRINGs, of all others
# OCTET STRINGs (X.690 sections 8.6.4, 8.7.3 and 8.23.6).
_IN_PIECES = frozenset(0x20 | n for n in (3, 4, 7, 12, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 30))


class _String:
    """A string in pieces that is being read."""

    __slots__ = ("over", "piece", "unused")

    def __init__(self, piece: int) -> None:
        self.piece = piece
        """The tag of its pieces."""
        self.unused = 0
        """Of a BIT STRING: the unused bits of its last piece so far."""
        self.over = False
        """Of a BIT STRING: whether that piece had some, so that no other may follow."""


class _Open:
    """A constructed TLV that is being read."""

    __slots__ = ("end", "indefinite", "length", "place", "string", "tag")

    def __init__(self, tag: bytes, end: int, indefinite: bool, place: int, string: _String | None) -> None:
        self.tag = tag
        """Its identifier octets; empty where it is a piece of a string."""
        self.end = end
        """Where it is over; with an indefinite length, where what holds it is over."""
        self.indefinite = indefinite
        self.place = place
        """Which part of the output its header will be."""
        self.string = string
        self.length = 0
        """Of its contents in the output, so far."""


def definite(data: bytes) -> bytes:
    """The one BER value in ``data`` with lengths that are definite and minimal, and strings in one piece.

    All else stays, octet for octet: also the order of a SET, and tag numbers above 30. A string under an
    implicit tag looks like any other constructed value, and stays in pieces. Raises ``DERError``.
    """
    if len(data) > MAX_SIZE:
        raise DERError(f"BER of more than {MAX_SIZE} octets")
    parts: list[bytes] = []
    stack: list[_Open] = []
    offset = 0
    for _ in range(MAX_ELEMENTS):
        offset = _element(data, offset, stack, parts)
        while stack and offset == stack[-1].end and not stack[-1].indefinite:
            _close(stack, parts)
        if not stack:
            if offset != len(data):
                raise DERError("unexpected data at the end")
            return b"".join(parts)
    raise DERError(f"BER of more than {MAX_ELEMENTS} elements")


def _element(data: bytes, offset: int, stack: list[_Open], parts: list[bytes]) -> int:
    """Read one primitive value, the header of a constructed one or end-of-contents octets; where it ends."""
    holder = stack[-1] if stack else None
    limit = holder.end if holder else len(data)
    begin = offset
    start = _past_tag(data, offset, limit)
    identifier, tag = data[begin], data[begin:start]
    start, length = _length(data, start, limit)
    if identifier == 0:
        # End-of-contents (X.690 section 8.1.5); the tag has no other use.
        if length or start != begin + 2 or holder is None or not holder.indefinite:
            raise DERError("end-of-contents octets where nothing ends")
        _close(stack, parts)
        return start
    string = holder.string if holder else None
    if string is not None and identifier & 0xDF != string.piece:
        raise DERError("a string with something else among its pieces")
    if identifier & 0x20:
        if len(stack) >= MAX_DEPTH:
            raise DERError(f"BER nested more than {MAX_DEPTH} deep")
        if string is not None:
            tag = b""
        elif identifier in _IN_PIECES:
            string = _String(3 if identifier == 0x23 else 4)
        stack.append(_Open(tag, limit if length < 0 else start + length, length < 0, len(parts), string))
        parts.append(b"")
        return start
    if length < 0:
        raise DERError("a primitive value of indefinite length")
    end = start + length
    if string is None:
        parts.append(_header(tag, length))
        parts.append(data[start:end])
        length += len(parts[-2])
    elif string.piece == 4:
        parts.append(data[start:end])
    else:
        parts.append(_bits(string, data[start:end]))
        length -= 1
    if holder is not None:
        holder.length += length
    return end


def _past_tag(data: bytes, offset: int, limit: int) -> int:
    """Where the identifier octets end that begin here (X.690 section 8.1.2)."""
    if offset >= limit:
        raise DERError("the data ends too early")
    if data[offset] & 0x1F != 0x1F:
        return offset + 1
    for at in range(offset + 1, min(offset + 6, limit)):
        if not data[at] & 0x80:
            return at + 1
    raise DERError("a tag number that is cut off, or above 2^28")


def _length(data: bytes, offset: int, limit: int) -> tuple[int, int]:
    """Where the contents begin, and their length: -1 if it is indefinite (X.690 section 8.1.3)."""
    if offset >= limit:
        raise DERError("the data ends too early")
    length = data[offset]
    offset += 1
    if length == 0x80:
        return offset, -1
    if length > 0x80:
        size = length & 0x7F
        if length == 0xFF or offset + size > limit:
            raise DERError("a length that is reserved or cut off")
        length = int.from_bytes(data[offset : offset + size], "big")
        offset += size
    if length > limit - offset:
        raise DERError("a length beyond the data that holds it")
    return offset, length


def _bits(string: _String, content: bytes) -> bytes:
    """The octets of one piece of a BIT STRING."""
    if string.over:
        raise DERError("a BIT STRING with unused bits before its last piece")
    if not content or content[0] > 7 or (len(content) == 1 and content[0]):
        raise DERError("a BIT STRING with impossible unused bits")
    string.unused = content[0]
    string.over = content[0] != 0
    return content[1:]


def _close(stack: list[_Open], parts: list[bytes]) -> None:
    """Give the innermost constructed value its header: it is over."""
    closed = stack.pop()
    length = closed.length
    if closed.tag:
        if closed.string is None:
            header = _header(closed.tag, length)
        else:
            header = bytes((closed.tag[0] & 0xDF,))
            if closed.string.piece == 3:
                header = _header(header, length + 1) + bytes((closed.string.unused,))
            else:
                header = _header(header, length)
        parts[closed.place] = header
        length += len(header)
    if stack:
        stack[-1].length += length


def _header(tag: bytes, length: int) -> bytes:
    if length < 0x80:
        return tag + bytes((length,))
    size = (length.bit_length() + 7) >> 3
    return tag + bytes((0x80 | size,)) + length.to_bytes(size, "big")
