"""The OpenAPI document as one page of HTML: no scripts, nothing fetched from elsewhere, good offline."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from html import escape
from typing import Any

Tree = dict[str, Any]

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:16px/1.5 system-ui,sans-serif;margin:0 auto;max-width:62rem;padding:1rem}
code,pre{font-family:ui-monospace,monospace;font-size:.92em}
code{background:var(--soft);border-radius:3px;padding:0 .2em}
nav{columns:3 14rem;margin-bottom:2rem}nav a{display:block}
h2{border-bottom:1px solid var(--line);margin-top:3rem}
section{border:1px solid var(--line);border-radius:6px;margin:1rem 0;padding:0 1rem}
h3{margin:.8rem 0}.method{display:inline-block;font-weight:700;min-width:4.5rem}
table{border-collapse:collapse;margin:.5rem 0 1rem;width:100%}
td,th{border-top:1px solid var(--line);padding:.25rem .6rem .25rem 0;text-align:left;vertical-align:top}
td p{margin:0}
"""
_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_HASH}'; frame-ancestors 'none'; base-uri 'none'"
)
_CODE = re.compile(r"`([^`]+)`")


def render(document: Tree) -> str:
    """The page."""
    tags = [tag["name"] for tag in document["tags"]]
    operations: dict[str, list[tuple[str, str, Tree]]] = {tag: [] for tag in tags}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            operations[operation["tags"][0]].append((path, method, operation))
    base = document["servers"][0]["url"]
    info = document["info"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(info['title'])} API {escape(info['version'])}</h1>{_prose(info['description'])}",
        f'<p>For programs: <a href="{base}/openapi.json">the OpenAPI document</a>.</p><nav>',
        *(f'<a href="#{escape(tag)}">{escape(tag)}</a>' for tag in tags),
        '<a href="#schemas">schemas</a></nav>',
    ]
    for tag in tags:
        parts.append(f'<h2 id="{escape(tag)}">{escape(tag)}</h2>')
        parts += [_operation(base, *found, document) for found in operations[tag]]
    parts.append('<h2 id="schemas">schemas</h2>')
    parts += [_schema(name, schema) for name, schema in document["components"]["schemas"].items()]
    parts.append("</body></html>")
    return "".join(parts)


def _operation(base: str, path: str, method: str, operation: Tree, document: Tree) -> str:
    rows = []
    for given in operation.get("parameters", ()):
        parameter = _followed(given, document)
        kind = f"{_kind(parameter['schema'])}{', required' if parameter.get('required') else ''}"
        rows.append(
            f"<tr><td><code>{escape(parameter['name'])}</code></td><td>{escape(parameter['in'])}</td>"
            f"<td>{kind}</td><td>{_prose(parameter.get('description', ''))}</td></tr>"
        )
    parameters = f"<table>{''.join(rows)}</table>" if rows else ""
    body = operation.get("requestBody")
    asked = f"<p>Body: {_content(body['content'])}</p>" if body else ""
    answers = "".join(
        f"<tr><td>{status}</td><td>{_prose(answer['description'])}</td>"
        f"<td>{_content(answer.get('content', {})) if int(status) < 400 else ''}</td></tr>"
        for status, given in sorted(operation["responses"].items())
        for answer in [_followed(given, document)]
    )
    return (
        f'<section id="{escape(operation["operationId"])}"><h3><span class="method">{method.upper()}</span>'
        f" <code>{escape(base + path)}</code></h3><p><strong>{escape(operation['summary'])}.</strong></p>"
        f"{_prose(operation.get('description', ''))}{parameters}{asked}<table>{answers}</table></section>"
    )


def _schema(name: str, schema: Tree) -> str:
    required = schema.get("required", ())
    rows = "".join(
        f"<tr><td><code>{escape(field)}</code></td>"
        f"<td>{_kind(about)}{', required' if field in required else ''}</td>"
        f"<td>{_prose(about.get('description', ''))}</td></tr>"
        for field, about in schema.get("properties", {}).items()
    )
    return (
        f'<section id="schema-{escape(name)}"><h3><code>{escape(name)}</code></h3>'
        f"{_prose(schema.get('description', ''))}<table>{rows}</table></section>"
    )


def _content(content: Tree) -> str:
    return ", ".join(
        f"<code>{escape(media)}</code> {_kind(about['schema']) if 'schema' in about else ''}"
        for media, about in content.items()
    )


def _kind(schema: Tree) -> str:
    """A type in a few words, with links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f'<a href="#schema-{escape(name)}">{escape(name)}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(option) for option in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    kind = schema.get("type", "anything")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'])}"
    return escape(str(schema.get("format", kind)))


def _followed(given: Tree, document: Tree) -> Tree:
    if "$ref" not in given:
        return given
    _, _, group, name = given["$ref"].split("/")
    found: Tree = document["components"][group][name]
    return found


def _prose(text: str) -> str:
    """Paragraphs and code; everything else is taken as it stands."""
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    written = (_CODE.sub(r"<code>\1</code>", escape(part)) for part in paragraphs if part)
    return "".join(f"<p>{part}</p>" for part in written)
