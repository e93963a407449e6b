"""What a request says, turned into the structs that its route declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from certloom.api.problems import MALFORMED, UNSUPPORTED_MEDIA, Problem
from certloom.api.routing import JSON, Route, Upload

_MERGE_PATCH = "application/merge-patch+json"
_MOST_PARAMETERS = 100


class Bound:
    """A route with what decodes its requests, made when it is first asked."""

    __slots__ = ("_decode", "_lists", "names", "route")

    def __init__(self, route: Route) -> None:
        self.route = route
        self.names = tuple(s[1:-1] for s in route.template.split("/") if s.startswith("{"))
        self._lists: frozenset[str] | None = None
        self._decode: Any = None

    def path(self, values: list[str]) -> Any:
        """The path's parameters. Raises ``Problem``: what cannot be a name of anything is not of the form."""
        kind = self.route.path
        if kind is None:
            return None
        try:
            return msgspec.convert(dict(zip(self.names, values, strict=True)), kind, strict=False)
        except msgspec.ValidationError as error:
            raise _bad("the path", error) from None

    def query(self, raw: str) -> Any:
        """The query's parameters; a list is a parameter that is repeated. Raises ``Problem``."""
        kind = self.route.query
        if not raw and kind is None:
            return None
        try:
            pairs = parse_qsl(raw, keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS)
        except ValueError:
            raise Problem(MALFORMED, "the query is not UTF-8, or has too many parameters") from None
        if kind is None:
            raise Problem(MALFORMED, f"there is no parameter {pairs[0][0]!r} here" if pairs else "a query")
        if self._lists is None:
            self._lists = _list_fields(kind)
        values: dict[str, Any] = {}
        for name, value in pairs:
            if "\0" in value:
                raise Problem(MALFORMED, f"the parameter {name!r} has a NUL character")
            if name in self._lists:
                values.setdefault(name, []).append(value)
            elif name in values:
                raise Problem(MALFORMED, f"the parameter {name!r} is there twice")
            else:
                values[name] = value
        try:
            return msgspec.convert(values, kind, strict=False)
        except msgspec.ValidationError as error:
            raise _bad("the query", error) from None

    def body(self, headers: Mapping[str, str], data: bytes) -> Any:
        """The body. Raises ``Problem``: 400, 415."""
        route = self.route
        if route.body is None and not route.uploads:
            return None
        media = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media in route.uploads:
            return Upload(media, data)
        if route.body is None or (media not in (JSON, _MERGE_PATCH) and (data or media)):
            taken = (*((JSON,) if route.body else ()), *route.uploads)
            raise Problem(UNSUPPORTED_MEDIA, f"the Content-Type must be {' or '.join(taken)}")
        if self._decode is None:
            self._decode = msgspec.json.Decoder(route.body).decode
        try:
            found = self._decode(data or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _bad("the body", error) from None
        except RecursionError:
            raise Problem(MALFORMED, "the body is nested too deeply") from None
        # PostgreSQL holds no NUL in text; the escape is looked for first, since hardly anybody sends one.
        if b"\\u0000" in data and _has_nul(msgspec.json.decode(data)):
            raise Problem(MALFORMED, "a text in the body has a NUL character")
        return found


def _bad(what: str, error: Exception) -> Problem:
    return Problem(MALFORMED, f"{what}: {error}")


def _has_nul(value: Any) -> bool:
    pending = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            if "\0" in value:
                return True
        elif isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value
            pending += value.values()
    return False


def _list_fields(kind: type[Any]) -> frozenset[str]:
    from msgspec import inspect

    lists = (inspect.ListType, inspect.VarTupleType, inspect.SetType, inspect.FrozenSetType)
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    found = set()
    for field in info.fields:
        types = field.type.types if isinstance(field.type, inspect.UnionType) else (field.type,)
        if any(isinstance(one, lists) for one in types):
            found.add(field.encode_name)
    return frozenset(found)
