"""Text from elsewhere, made fit for a terminal: nothing in a name or a message can move the cursor."""

from __future__ import annotations

import re
import sys

_UNFIT = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
"""Control characters, those that turn the direction of writing, and halves of surrogate pairs."""


def fit(text: str) -> str:
    """The text with every control character spelled out (``\\x1b``)."""
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def fit_lines(text: str) -> str:
    """As ``fit``, with the line ends kept: for PEM and the like."""
    return "\n".join(fit(line) for line in text.split("\n"))


def fit_json(text: str) -> str:
    """JSON whose strings hold no raw control character; it says the same."""
    return _UNFIT.sub(lambda found: found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}", text)


def tell(message: str) -> None:
    """A remark for the person at the terminal, on standard error."""
    print(fit_lines(message), file=sys.stderr)
