"""The OpenAPI 3.1 document, made from the table of routes when somebody first asks for it.

Schemas come from the structs that really decode and encode; their descriptions are the docstrings, those of
fields included, which are read from the source.
"""

from __future__ import annotations

import ast
import inspect as source_of
import re
import textwrap
from collections.abc import Iterable, Sequence
from datetime import datetime
from http import HTTPStatus
from itertools import pairwise
from typing import Any, get_args, get_origin

import msgspec
from msgspec import inspect

from certloom import __version__
from certloom.api import problems
from certloom.api.problems import TYPES, ProblemDocument
from certloom.api.routing import JSON, JSON_LINES, PREFIX, Authenticated, Media, Public, Route

Tree = dict[str, Any]

_SCHEMAS = "#/components/schemas/"
_SAFE = frozenset({"GET", "HEAD"})
_MARKUP = re.compile(r"``([^`]*)``")

_TEXT = {"type": "string"}
_NUMBER = {"type": "integer", "minimum": 0}
_HEADERS: dict[str, Tree] = {
    "RateLimit": {
        "description": "What is left of the quota (`r`), and for how many seconds (`t`).",
        "schema": _TEXT,
    },
    "RateLimit-Policy": {"description": "The quota (`q`) in a window of seconds (`w`).", "schema": _TEXT},
    "X-Request-Id": {"description": "Under which the server's log has this request.", "schema": _TEXT},
    "ETag": {"description": "The version of the thing; give it back as If-Match.", "schema": _TEXT},
    "Location": {"description": "Where the thing is.", "schema": _TEXT},
    "Retry-After": {"description": "After how many seconds to ask (again).", "schema": _NUMBER},
    "WWW-Authenticate": {"description": "How to say who asks.", "schema": _TEXT},
    "Allow": {"description": "The methods that the resource has.", "schema": _TEXT},
    "Idempotency-Replayed": {
        "description": "`true` where this is the answer to an earlier request with the same key.",
        "schema": _TEXT,
    },
}
_PARAMETERS: dict[str, Tree] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "A text of the client's own, new for each new wish: a repeat with the same key has no"
        " further effect, and gets the same answer.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-\\[\\]-~]+$"},
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "required": False,
        "description": "The ETag of the version that was seen, or `*`. Needed unless the thing is new.",
        "schema": _TEXT,
    },
    "If-None-Match": {
        "name": "If-None-Match",
        "in": "header",
        "required": False,
        "description": "With the ETag of what is there already, an unchanged thing is 304 without a body.",
        "schema": _TEXT,
    },
}
_INTRODUCTION = """\
Everything Certloom does, for programs. Errors are problem documents (RFC 9457) with a `code`. What is edited
has an `ETag` and wants it back as `If-Match`; what creates something heeds `Idempotency-Key`. Listings come
in pages: give `next` as `cursor` for what follows. Times are RFC 3339 in UTC."""


def document(routes: Iterable[Route]) -> Tree:
    """The whole document."""
    routes = sorted(routes, key=lambda route: (route.tag, route.template, route.method))
    kinds = _kinds(routes)
    schemas, components = msgspec.json.schema_components(kinds, ref_template=_SCHEMAS + "{name}")
    _describe(kinds, components)
    known = dict(zip(map(repr, kinds), schemas, strict=True))
    parameters, refusals = _Parameters(known, components), _Refusals()
    paths: dict[str, Tree] = {}
    for route in routes:
        operation = _operation(route, known, parameters, refusals)
        paths.setdefault(route.template, {})[route.method.lower()] = operation
    for name in parameters.used:
        components.pop(name, None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Certloom", "version": __version__, "description": _INTRODUCTION},
        "servers": [{"url": PREFIX}],
        "tags": [{"name": tag} for tag in sorted({route.tag for route in routes})],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "responses": dict(sorted(refusals.components.items())),
            "headers": _HEADERS,
            "parameters": _PARAMETERS,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "An API token."},
                "certificate": {"type": "mutualTLS", "description": "On the listener that asks for one."},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "__Host-certloom",
                    "description": "A browser's session; changes only from this site's own pages.",
                },
            },
        },
    }


def problem_codes(route: Route) -> list[str]:
    """Every problem that a route may answer with."""
    codes = {
        problems.MALFORMED,
        problems.UNAUTHENTICATED,
        problems.FORBIDDEN,
        problems.TOO_MANY,
        problems.UNAVAILABLE,
        *route.problems,
    }
    if route.method not in _SAFE:
        codes |= {problems.CROSS_SITE, problems.NOT_FOUND, problems.CONFLICT}
    if route.path is not None:
        codes.add(problems.NOT_FOUND)
    if route.query is not None:
        codes.add(problems.BAD_CURSOR)
    if route.body is not None or route.uploads:
        codes |= {problems.TOO_LARGE, problems.UNSUPPORTED_MEDIA, problems.INVALID}
    if route.edits:
        codes |= {problems.PRECONDITION_FAILED, problems.PRECONDITION_REQUIRED}
    if route.keyed:
        codes |= {problems.IN_PROGRESS, problems.KEY_REUSED}
    if any(len(_medias(kind)) > 1 for kind in route.answers.values()):
        codes.add(problems.NOT_ACCEPTABLE)
    return sorted(codes, key=lambda code: (TYPES[code].status, code))


# -- operations ------------------------------------------------------------------------------------------


def _operation(route: Route, known: dict[str, Tree], parameters: _Parameters, refusals: _Refusals) -> Tree:
    operation: Tree = {
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}.{route.handler.__name__}",
        "tags": [route.tag],
        "summary": route.summary,
        "description": _text(f"{route.description}\n\n{_who(route)}".strip()),
        "responses": {**_answers(route, known), **refusals.of(route)},
    }
    if isinstance(route.permission, Public):
        operation["security"] = []
    else:
        operation["security"] = [{"token": []}, {"certificate": []}, {"session": []}]
    if isinstance(route.permission, str):
        operation["x-permission"] = route.permission
    found = [*parameters.of(route.path, "path"), *parameters.of(route.query, "query")]
    if route.keyed:
        found.append({"$ref": "#/components/parameters/Idempotency-Key"})
    if route.edits:
        found.append({"$ref": "#/components/parameters/If-Match"})
    if route.etag and route.method == "GET":
        found.append({"$ref": "#/components/parameters/If-None-Match"})
    if found:
        operation["parameters"] = found
    if route.body is not None or route.uploads:
        content = {media: {"schema": {"type": "string", "format": "binary"}} for media in route.uploads}
        if route.body is not None:
            content = {JSON: {"schema": known[repr(route.body)]}, **content}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _who(route: Route) -> str:
    match route.permission:
        case Public(reason):
            return f"Open to everybody: {reason}."
        case Authenticated(reason):
            return f"Open to everybody who was authenticated: {reason}."
        case _:
            return f"Takes the permission `{route.permission}`."


def _answers(route: Route, known: dict[str, Tree]) -> Tree:
    answers: Tree = {}
    for status, kind in route.answers.items():
        headers = ["RateLimit", "RateLimit-Policy", "X-Request-Id"]
        headers += ["ETag"] if route.etag and status in (200, 201) else []
        headers += ["Location"] if status in (201, 202) else []
        headers += ["Retry-After"] if status == 202 else []
        headers += ["Idempotency-Replayed"] if route.keyed else []
        answer: Tree = {"description": HTTPStatus(status).phrase, "headers": _header_refs(headers)}
        if content := {
            media: {"schema": known[repr(one)]} if not isinstance(one, Media) else {}
            for media, one in _medias(kind)
        }:
            answer["content"] = content
        answers[str(status)] = answer
    if route.etag and route.method == "GET":
        answers["304"] = {"description": "It is as If-None-Match says.", "headers": _header_refs(["ETag"])}
    return answers


class _Refusals:
    """Problem responses; those that many routes share stand in the document once."""

    def __init__(self) -> None:
        self.components: Tree = {}

    def of(self, route: Route) -> Tree:
        by_status: dict[int, list[str]] = {}
        for code in problem_codes(route):
            by_status.setdefault(TYPES[code].status, []).append(code)
        found: Tree = {}
        for status, codes in by_status.items():
            name = ".".join(codes)
            self.components.setdefault(name, _refusal(status, codes))
            found[str(status)] = {"$ref": f"#/components/responses/{name}"}
        return found


def _refusal(status: int, codes: Sequence[str]) -> Tree:
    more = {401: ["WWW-Authenticate"], 429: ["Retry-After"], 503: ["Retry-After"]}
    return {
        "description": ". ".join(f"{TYPES[code].title} (`{code}`)" for code in codes) + ".",
        "headers": _header_refs(["X-Request-Id", *more.get(status, ())]),
        "content": {problems.MEDIA: {"schema": {"$ref": _SCHEMAS + ProblemDocument.__name__}}},
    }


def _header_refs(names: Iterable[str]) -> Tree:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _medias(kind: Any) -> list[tuple[str, Any]]:
    """(media type, what it holds). Of several structs the first is JSON, the next a line of JSON lines."""
    found: list[tuple[str, Any]] = []
    for one in kind if isinstance(kind, tuple) else (kind,):
        if isinstance(one, Media):
            found += [(media, one) for media in one.types]
        elif one is not None:
            found.append((JSON_LINES if any(media == JSON for media, _ in found) else JSON, one))
    return found


class _Parameters:
    """Parameters out of the structs that declare them."""

    def __init__(self, known: dict[str, Tree], components: Tree) -> None:
        self._known = known
        self._components = components
        self.used: set[str] = set()

    def of(self, kind: Any, place: str) -> list[Tree]:
        if kind is None:
            return []
        name = self._known[repr(kind)]["$ref"].removeprefix(_SCHEMAS)
        self.used.add(name)
        schema = self._components[name]
        required = schema.get("required", ())
        return [
            _parameter(field, place, place == "path" or field in required, about)
            for field, about in schema["properties"].items()
        ]


def _parameter(name: str, place: str, required: bool, about: Tree) -> Tree:
    schema = {key: value for key, value in about.items() if key != "description"}
    options = [option for option in schema.get("anyOf", ()) if option != {"type": "null"}]
    description = about.get("description", "")
    if len(options) == 1:
        # Absence says what null says in a body.
        schema = dict(options[0])
        description = description or schema.pop("description", "")
    if schema.get("default", ...) is None or schema.get("default") == []:
        schema.pop("default")
    parameter = {"name": name, "in": place, "required": required, "schema": schema}
    return {**parameter, "description": description} if description else parameter


# -- schemas ---------------------------------------------------------------------------------------------


def _kinds(routes: Sequence[Route]) -> list[Any]:
    found: dict[str, Any] = {repr(ProblemDocument): ProblemDocument}
    for route in routes:
        answers = [one for kind in route.answers.values() for _, one in _medias(kind)]
        for kind in (route.path, route.query, route.body, *answers):
            if kind is not None and not isinstance(kind, Media):
                found.setdefault(repr(kind), kind)
    return list(found.values())


def _describe(kinds: Sequence[Any], components: Tree) -> None:
    """Put docstrings into the schemas: the structs' own as text, their fields' from the source."""
    classes = _classes(inspect.multi_type_info(kinds))
    for cls in classes:
        for name in (cls.__name__, re.sub(r"[^a-zA-Z0-9.\-_]", "_", f"{cls.__module__}.{cls.__qualname__}")):
            if name in components:
                _describe_one(cls, components[name])
    for name, schema in components.items():
        if name.startswith("Page_"):
            page = next(cls for cls in classes if cls.__name__ == "Page")
            _describe_one(page, schema)


def _describe_one(cls: type[Any], schema: Tree) -> None:
    if "description" in schema:
        schema["description"] = _text(schema["description"])
    for field in msgspec.structs.fields(cls):
        if _is_time(field.type):
            about = schema["properties"][field.encode_name]
            for option in about.get("anyOf", [about]):
                if option.get("type") == "string":
                    option["format"] = "date-time"
    texts: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base.__module__.startswith("certloom."):
            texts |= field_docstrings(base)
    for field, about in schema.get("properties", {}).items():
        if field in texts and "$ref" not in about:
            about.setdefault("description", _text(texts[field]))


def _is_time(kind: Any) -> bool:
    return kind is datetime or datetime in get_args(kind)


def field_docstrings(cls: type[Any]) -> dict[str, str]:
    """The texts that stand below the fields of a class, by field; none where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(source_of.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return {}
    body = tree.body[0].body if tree.body and isinstance(tree.body[0], ast.ClassDef) else []
    found = {}
    for statement, following in pairwise(body):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(following, ast.Expr)
            and isinstance(following.value, ast.Constant)
            and isinstance(following.value.value, str)
        ):
            found[statement.target.id] = source_of.cleandoc(following.value.value)
    return found


def _classes(infos: Iterable[inspect.Type]) -> set[type[Any]]:
    """Every struct that is mentioned anywhere in these types."""
    found: set[type[Any]] = set()
    seen: set[Any] = set()
    pending: list[Any] = list(infos)
    while pending:
        info = pending.pop()
        if isinstance(info, inspect.StructType):
            cls = get_origin(info.cls) or info.cls
            if info.cls in seen:
                continue
            seen.add(info.cls)
            found.add(cls)
            pending += [field.type for field in info.fields]
        elif isinstance(info, inspect.UnionType):
            pending += info.types
        else:
            for part in ("type", "item_type", "key_type", "value_type"):
                if (inner := getattr(info, part, None)) is not None:
                    pending.append(inner)
            pending += getattr(info, "item_types", ())
    return found


def _text(text: str) -> str:
    """From the docstrings' markup to Markdown's."""
    return _MARKUP.sub(r"`\1`", text)
