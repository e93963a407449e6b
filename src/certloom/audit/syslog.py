"""Events as RFC 5424 messages. Pure.

Structured data has only elements that are registered with IANA (section 9.2): ``meta`` with ``sequenceId``,
and ``origin``. Names of one's own would need a private enterprise number, and the project has none: section
6.3.2 leaves no other form. The event itself is the message: one JSON object with every column and its place
in the chain, by which a receiver knows what came twice.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from certloom import __version__
from certloom.audit.walk import Row

FACILITY = 13
"""Log audit (section 6.2.1)."""
NOTICE, WARNING = 5, 4
LONGEST = {"udp": 2_048, "tcp": 8_192, "tls": 8_192}
"""Octets of a message that receivers should take (RFC 5426 section 3.2, RFC 5425 section 4.3.1)."""
_SEQUENCE_IDS = 2**31 - 1
_BOM = b"\xef\xbb\xbf"
_ALARMING = frozenset({"denied", "failed", "refused", "blocked", "login_failed", "locked"})
_UNPRINTABLE = re.compile(r"[^\x21-\x7e]")
_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")
_TEXT = 200
"""Characters that are left of each text where an event is too long to be sent whole."""

_encode = msgspec.json.Encoder().encode


class _Sent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in a message."""

    sequence: int
    hash: str
    id: int
    at_ms: int
    kind: str
    subject: str
    actor: str
    origin: str
    trace: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    shortened: bool = False
    """Whether texts were cut and data left out, because the message would have been too long."""


def message(row: Row, host: str, process: str, longest: int) -> bytes:
    """One linked event as a message of at most ``longest`` octets, without a transport's framing."""
    severity = WARNING if row[2].rpartition(".")[2] in _ALARMING else NOTICE
    at = datetime.fromtimestamp(row[1] / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    header = (
        f"<{FACILITY * 8 + severity}>1 {at} {_token(host, 255)} certloom {_token(process, 128)}"
        f' {_token(row[2], 32)} [meta sequenceId="{(row[8] - 1) % _SEQUENCE_IDS + 1}"]'
        f'[origin software="certloom" swVersion="{_parameter(__version__, 32)}"] '
    ).encode()
    whole = header + _body(row, shortened=False)
    return whole if len(whole) <= longest else header + _body(row, shortened=True)


def octet_counted(text: bytes) -> bytes:
    """A message in a stream (RFC 6587 section 3.4.1, RFC 5425 section 4.3)."""
    return b"%d %b" % (len(text), text)


def _body(row: Row, *, shortened: bool) -> bytes:
    kind, subject, actor, origin, trace = (text[:_TEXT] if shortened else text for text in row[2:7])
    data = msgspec.Raw(b"{}" if shortened else row[7].encode())
    sent = _Sent(row[8], row[9].hex(), row[0], row[1], kind, subject, actor, origin, trace, data, shortened)
    text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", _encode(sent).decode())
    # Section 6.4: a message in UTF-8 begins with the BOM. What is ASCII is MSG-ANY and needs none.
    return text.encode() if text.isascii() else _BOM + text.encode()


def _token(text: str, longest: int) -> str:
    """PRINTUSASCII of a header's field, or the nil value."""
    return _UNPRINTABLE.sub("?", text)[:longest] or "-"


def _parameter(text: str, longest: int) -> str:
    """Inside a parameter's value: ``"``, ``\\`` and ``]`` are escaped (section 6.3.3)."""
    return re.sub(r'(["\\\]])', r"\\\1", text[:longest])
