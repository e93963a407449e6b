"""The ``issue-value`` syntax of RFC 8659 section 4.2, which CAA and dns-persist-01 share."""

from __future__ import annotations

import re

import msgspec

_WORD = r"[A-Za-z0-9](?:-*[A-Za-z0-9])*"
_ISSUER = re.compile(rf"{_WORD}(?:\.{_WORD})*", re.ASCII)
_PARAMETER = re.compile(rf"({_WORD})[ \t]*=[ \t]*([\x21-\x3a\x3c-\x7e]*)", re.ASCII)
_WHITE = " \t"


class IssueValueError(ValueError):
    """The text does not follow the grammar."""


class IssueValue(msgspec.Struct, frozen=True):
    """An issuer and what it is told."""

    issuer: str
    """Issuer domain name in lower case; empty if none is given, which lets nobody issue."""
    parameters: tuple[tuple[str, str], ...]
    """Tags in lower case and their values, in order, repetitions kept."""

    def values(self, tag: str) -> list[str]:
        """Every value given for ``tag``."""
        return [value for name, value in self.parameters if name == tag]


def parse_issue_value(text: str) -> IssueValue:
    """Raises ``IssueValueError``."""
    issuer, semicolon, rest = text.partition(";")
    issuer = issuer.strip(_WHITE)
    if issuer and not _ISSUER.fullmatch(issuer):
        raise IssueValueError("the issuer is not a domain name")
    rest = rest.strip(_WHITE)
    parameters = []
    if semicolon and rest:
        for part in rest.split(";"):
            match = _PARAMETER.fullmatch(part.strip(_WHITE))
            if not match:
                raise IssueValueError("a parameter is not tag=value")
            parameters.append((match[1].lower(), match[2]))
    return IssueValue(issuer.lower(), tuple(parameters))
