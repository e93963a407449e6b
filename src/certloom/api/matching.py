"""Finding a route: a tree of path segments, built once."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

from certloom.api.decoding import Bound
from certloom.api.problems import MALFORMED, METHOD_NOT_ALLOWED, NOT_FOUND, Problem
from certloom.api.routing import PREFIX, Route

_MOST_OCTETS = 2048


class _Node:
    __slots__ = ("any", "below", "methods")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.any: _Node | None = None
        self.methods: dict[str, Bound] = {}


class Matcher:
    """The table of routes by path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            node = self._root
            for segment in route.template.split("/")[1:]:
                if segment.startswith("{"):
                    node.any = node.any or _Node()
                    node = node.any
                else:
                    node = node.below.setdefault(segment, _Node())
            if route.method in node.methods:
                raise ValueError(f"{route.method} {route.template} is declared twice")
            node.methods[route.method] = Bound(route)

    def find(self, method: str, raw_path: str) -> tuple[Bound, list[str]]:
        """The route and its path's values, decoded. Raises ``Problem``: 400, 404 or 405."""
        if len(raw_path) > _MOST_OCTETS:
            raise Problem(MALFORMED, f"the path has more than {_MOST_OCTETS} octets")
        found = self._find(raw_path)
        if found is None:
            raise Problem(NOT_FOUND, "there is no such resource")
        node, segments = found
        bound = node.methods.get("GET" if method == "HEAD" else method)
        if bound is None:
            allowed = sorted({*node.methods, *(("HEAD",) if "GET" in node.methods else ())})
            raise Problem(
                METHOD_NOT_ALLOWED,
                f"this resource takes {', '.join(allowed)}",
                headers=(("allow", ", ".join(allowed)),),
            )
        return bound, [_decoded(segment) for segment in segments]

    def _find(self, raw_path: str) -> tuple[_Node, list[str]] | None:
        """Words before parameters: ``/profiles/x`` of the table is not ``/profiles/{name}``."""
        if not raw_path.startswith(f"{PREFIX}/"):
            return None
        segments: list[str] = []
        node = self._root
        for segment in raw_path.removeprefix(PREFIX).split("/")[1:]:
            if segment in node.below:
                node = node.below[segment]
            elif node.any is not None and segment:
                node = node.any
                segments.append(segment)
            else:
                return None
        return (node, segments) if node.methods else None


def _decoded(segment: str) -> str:
    try:
        text = unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise Problem(MALFORMED, "the path is not UTF-8") from None
    if any(character < " " or character == "\x7f" for character in text):
        raise Problem(MALFORMED, "the path has a control character")
    return text
