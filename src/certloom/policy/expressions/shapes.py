"""What conditions may look at, and how large each of it can be."""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import msgspec

Kind = Literal["bool", "int", "string", "list", "map", "struct"]


class Shape(msgspec.Struct, frozen=True):
    """The type of a part of a condition."""

    kind: Kind
    most: int = 0
    """Characters of a string, items of a list or map, at most."""
    item: Shape | None = None
    """Of each item of a list or map."""
    fields: MappingProxyType[str, Shape] = MappingProxyType({})
    """Of a struct."""

    def __str__(self) -> str:
        return f"list({self.item})" if self.kind == "list" else self.kind

    def same(self, other: Shape) -> bool:
        """Whether values of the one and the other can be compared."""
        if self.kind != other.kind:
            return False
        if self.kind == "struct":
            return False
        return self.item is None or other.item is None or self.item.same(other.item)


MOST_NAMES = 1000
"""As a profile's ``names.max`` at most."""
_LONGEST_NAME = 2048

BOOL = Shape("bool")
INT = Shape("int")


def text(most: int) -> Shape:
    """A string of at most so many characters."""
    return Shape("string", most)


def items(item: Shape | None, most: int) -> Shape:
    """A list of at most so many of these."""
    return Shape("list", most, item)


def struct(**fields: Shape) -> Shape:
    """Fields by name."""
    return Shape("struct", fields=MappingProxyType(fields))


_WORD = text(64)
_ID = text(512)

VARIABLES: dict[str, Shape] = {
    "request": struct(
        protocol=_WORD,
        channel=_WORD,
        profile=_WORD,
        names=items(struct(type=_WORD, value=text(_LONGEST_NAME)), MOST_NAMES),
        dns=items(text(253), MOST_NAMES),
        ip=items(text(45), MOST_NAMES),
        email=items(text(254), MOST_NAMES),
        uri=items(text(_LONGEST_NAME), MOST_NAMES),
        wildcard=BOOL,
        key=struct(type=_WORD, bits=INT, curve=_WORD),
        subject=Shape("map", 64, text(1024)),
        lifetime=INT,
        renewal=BOOL,
        not_before=INT,
        not_after=INT,
    ),
    "requester": struct(
        kind=_WORD,
        id=_ID,
        owner=_ID,
        team=_WORD,
        certificate=struct(
            subject=Shape("map", 64, text(1024)),
            names=items(struct(type=_WORD, value=text(_LONGEST_NAME)), MOST_NAMES),
            issuer=text(4096),
            anchors=_WORD,
            profile=_WORD,
        ),
    ),
    "profile": struct(name=_WORD, version=INT, authority=_WORD),
    "inventory": items(
        struct(
            type=_WORD,
            name=text(_LONGEST_NAME),
            valid=INT,
            last_team=_WORD,
            last_owner=_ID,
            last_requester=_ID,
            last_profile=_WORD,
            last_issued=INT,
        ),
        MOST_NAMES,
    ),
    "now": INT,
}
"""What is offered. Paths through structs (``request.key.bits``) are what ``rule_facts`` fills in."""
