"""Conditions as they are written: the part of CEL that is taken, read into a tree.

Read here, and not by the library that evaluates, because that one has no bounds: what it is given is
printed from this tree (``printed``), so it cannot understand a text otherwise than it was judged. Everything
is bounded before the library sees it: characters, tokens, nesting, items of a list.

Left out of CEL, since no condition about a certificate needs them: numbers with a point and unsigned ones,
bytes, maps and messages written out, ``null``, triple quotes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NoReturn

import msgspec

LONGEST_SOURCE = 4096
"""Characters."""
MOST_NODES = 500
DEEPEST = 24
MOST_ITEMS = 100
"""Of a list that is written out."""
_LARGEST = 2**63 - 1

MACROS = frozenset({"all", "exists", "exists_one", "filter", "map"})

_RESERVED = frozenset(
    {
        *("as", "break", "const", "continue", "else", "for", "function", "if", "import", "let", "loop"),
        *("package", "namespace", "return", "var", "void", "while", "false", "in", "null", "true"),
    }
)
_TOKEN = re.compile(
    r"(?P<blank>(?:[ \t\r\n]|//[^\n]*)+)"
    r"|(?P<string>[rR]?(?:\"(?:[^\"\\\r\n]|\\.)*\"|'(?:[^'\\\r\n]|\\.)*'))"
    r"|(?P<number>0[xX][0-9a-fA-F]+|[0-9]+)(?![0-9A-Za-z_])"
    r"|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<operator>&&|\|\||==|!=|<=|>=|[-+*/%<>!?:.,()\[\]])"
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_PLAIN_ESCAPES = {
    "\\": "\\", '"': '"', "'": "'", "`": "`", "?": "?", "n": "\n", "r": "\r", "t": "\t"
}  # fmt: skip


class ExpressionError(ValueError):
    """This condition is not taken. ``line`` and ``column`` (from 1) say where, ``message`` why."""

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(f"line {line}, column {column}: {message}")
        self.message = message
        self.line = line
        self.column = column


class Node(msgspec.Struct, frozen=True):
    """A part of a condition. ``at`` is where it begins, in characters from the start."""

    at: int


class Literal(Node, frozen=True):
    value: bool | int | str


class Variable(Node, frozen=True):
    name: str


class Select(Node, frozen=True):
    operand: Node
    field: str


class Index(Node, frozen=True):
    operand: Node
    index: Node


class Call(Node, frozen=True):
    """A function or a method (then ``target`` is what it is called on)."""

    function: str
    target: Node | None
    arguments: tuple[Node, ...]


class Macro(Node, frozen=True):
    """A walk over a list: ``target.kind(variable, body)``."""

    kind: str
    target: Node
    variable: str
    body: Node


class Unary(Node, frozen=True):
    operator: str
    operand: Node


class Binary(Node, frozen=True):
    operator: str
    left: Node
    right: Node


class Chain(Node, frozen=True):
    """``a && b && c`` or the same with ``||``."""

    operator: str
    parts: tuple[Node, ...]


class Choice(Node, frozen=True):
    condition: Node
    then: Node
    otherwise: Node


class Items(Node, frozen=True):
    """A list, written out."""

    items: tuple[Node, ...]


class _Token(msgspec.Struct, frozen=True):
    kind: str
    text: str
    at: int


def position(source: str, at: int) -> tuple[int, int]:
    """Line and column, from 1."""
    before = source[:at]
    return before.count("\n") + 1, at - (before.rfind("\n") + 1) + 1


def parse(source: str) -> Node:
    """The tree of a condition. Raises ``ExpressionError``."""
    if len(source) > LONGEST_SOURCE:
        raise ExpressionError(f"{len(source)} characters, of at most {LONGEST_SOURCE}")
    return _Parser(source).whole()


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = self._tokenized()
        self._next = 0
        self._nodes = 0
        self._depth = 0

    def fail(self, message: str, at: int) -> NoReturn:
        raise ExpressionError(message, *position(self._source, at))

    def _tokenized(self) -> list[_Token]:
        tokens = []
        at = 0
        while at < len(self._source):
            found = _TOKEN.match(self._source, at)
            if found is None:
                self.fail(f"{self._source[at]!r} is not understood here", at)
            kind = str(found.lastgroup)
            if kind != "blank":
                tokens.append(_Token(kind, found[0], at))
            at = found.end()
        tokens.append(_Token("end", "", at))
        return tokens

    def whole(self) -> Node:
        node = self._choice()
        if self._peek.kind != "end":
            self.fail(f"{self._peek.text[:40]!r} is not understood here", self._peek.at)
        return node

    @property
    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._peek
        self._next += 1
        return token

    def _taken(self, *operators: str) -> str | None:
        token = self._peek
        if (token.kind == "operator" or token.text == "in") and token.text in operators:
            self._next += 1
            return token.text
        return None

    def _expect(self, operator: str) -> None:
        if self._taken(operator) is None:
            found = self._peek.text[:40] or "the end"
            self.fail(f"{operator!r} was expected, not {found!r}", self._peek.at)

    def _node(self, at: int) -> int:
        self._nodes += 1
        if self._nodes > MOST_NODES:
            self.fail(f"more than {MOST_NODES} parts", at)
        return at

    def _choice(self) -> Node:
        self._depth += 1
        if self._depth > DEEPEST:
            self.fail(f"nested deeper than {DEEPEST}", self._peek.at)
        at = self._peek.at
        node = self._chain("||", lambda: self._chain("&&", self._relation))
        if self._taken("?"):
            then = self._choice()
            self._expect(":")
            node = Choice(self._node(at), node, then, self._choice())
        self._depth -= 1
        return node

    def _chain(self, operator: str, part: Callable[[], Node]) -> Node:
        at = self._peek.at
        parts = [part()]
        while self._taken(operator):
            parts.append(part())
        return parts[0] if len(parts) == 1 else Chain(self._node(at), operator, tuple(parts))

    def _relation(self) -> Node:
        return self._binary(("==", "!=", "<=", ">=", "<", ">", "in"), self._sum)

    def _sum(self) -> Node:
        return self._binary(("+", "-"), self._product)

    def _product(self) -> Node:
        return self._binary(("*", "/", "%"), self._unary)

    def _binary(self, operators: tuple[str, ...], part: Callable[[], Node]) -> Node:
        node = part()
        depth = self._depth
        while operator := self._taken(*operators):
            # a + b + c leans to the left: each operator is one level more.
            self._depth += 1
            if self._depth > DEEPEST:
                self.fail(f"nested deeper than {DEEPEST}", self._peek.at)
            node = Binary(self._node(node.at), operator, node, part())
        self._depth = depth
        return node

    def _unary(self) -> Node:
        operators = []
        while (at := self._peek.at) is not None and (operator := self._taken("!", "-")):
            operators.append((operator, at))
            if self._depth + len(operators) > DEEPEST:
                self.fail(f"nested deeper than {DEEPEST}", at)
        self._depth += len(operators)
        node = self._member()
        self._depth -= len(operators)
        for operator, at in reversed(operators):
            node = Unary(self._node(at), operator, node)
        return node

    def _member(self) -> Node:
        node = self._primary()
        depth = self._depth
        while True:
            at = self._peek.at
            if self._taken("."):
                node = self._field(node, at)
            elif self._taken("["):
                index = self._choice()
                self._expect("]")
                node = Index(self._node(at), node, index)
            else:
                self._depth = depth
                return node
            self._depth += 1
            if self._depth > DEEPEST:
                self.fail(f"nested deeper than {DEEPEST}", at)

    def _field(self, operand: Node, at: int) -> Node:
        token = self._take()
        if token.kind != "name" or token.text in _RESERVED:
            self.fail(f"a field was expected, not {token.text[:40]!r}", token.at)
        if not self._taken("("):
            return Select(self._node(at), operand, token.text)
        if token.text not in MACROS:
            return Call(self._node(token.at), token.text, operand, self._until(")"))
        variable = self._take()
        if variable.kind != "name" or variable.text in _RESERVED or variable.text.startswith("_"):
            self.fail("the name of each item was expected, such as n", variable.at)
        self._expect(",")
        body = self._choice()
        self._expect(")")
        return Macro(self._node(token.at), token.text, operand, variable.text, body)

    def _until(self, end: str) -> tuple[Node, ...]:
        items: list[Node] = []
        if self._taken(end):
            return ()
        while True:
            items.append(self._choice())
            if len(items) > MOST_ITEMS:
                self.fail(f"a list of more than {MOST_ITEMS} items", items[-1].at)
            if self._taken(end):
                return tuple(items)
            self._expect(",")
            if self._taken(end):
                return tuple(items)

    def _primary(self) -> Node:
        token = self._take()
        at = token.at
        if token.kind == "string":
            return Literal(self._node(at), self._text(token))
        if token.kind == "number":
            number = int(token.text[:20], 16 if token.text[:2] in ("0x", "0X") else 10)
            if len(token.text) > 20 or number > _LARGEST:
                self.fail("this number is too large", at)
            return Literal(self._node(at), number)
        if token.kind == "name":
            if token.text in ("true", "false"):
                return Literal(self._node(at), token.text == "true")
            if token.text in _RESERVED:
                why = ': what is not known is "" or 0' if token.text == "null" else ""
                self.fail(f"{token.text!r} has no meaning here{why}", at)
            if self._taken("("):
                return Call(self._node(at), token.text, None, self._until(")"))
            return Variable(self._node(at), token.text)
        if token.text == "(":
            node = self._choice()
            self._expect(")")
            return node
        if token.text != "[":
            self.fail(f"{token.text[:40] or 'the end'!r} is not understood here", at)
        return Items(self._node(at), self._until("]"))

    def _text(self, token: _Token) -> str:
        raw = token.text[0] in "rR"
        body = token.text[2:-1] if raw else token.text[1:-1]

        def unescaped(found: re.Match[str]) -> str:
            if code := found[1] or found[2]:
                return chr(int(code, 16))
            if found[3] not in _PLAIN_ESCAPES:
                self.fail(
                    f'\\{found[3]} is not an escape; in a raw string (r"...") it would stand for itself',
                    token.at,
                )
            return _PLAIN_ESCAPES[found[3]]

        text = body if raw else _ESCAPE.sub(unescaped, body)
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            self.fail("a string with a character that is none", token.at)
        return text


def printed(node: Node) -> str:
    """The condition in CEL again, every bracket in its place."""
    match node:
        case Literal(_, bool() as value):
            return "true" if value else "false"
        case Literal(_, int() as value):
            return str(value)
        case Literal(_, str() as value):
            return _quoted(value)
        case Variable(_, name):
            return name
        case Select(_, operand, field):
            return f"{printed(operand)}.{field}"
        case Index(_, operand, index):
            return f"{printed(operand)}[{printed(index)}]"
        case Call(_, function, target, arguments):
            on = "" if target is None else f"{printed(target)}."
            return f"{on}{function}({', '.join(printed(a) for a in arguments)})"
        case Macro(_, kind, target, variable, body):
            return f"{printed(target)}.{kind}({variable}, {printed(body)})"
        case Unary(_, operator, operand):
            return f"({operator}{printed(operand)})"
        case Binary(_, operator, left, right):
            return f"({printed(left)} {operator} {printed(right)})"
        case Chain(_, operator, parts):
            return f"({f' {operator} '.join(printed(part) for part in parts)})"
        case Choice(_, condition, then, otherwise):
            return f"({printed(condition)} ? {printed(then)} : {printed(otherwise)})"
        case Items(_, items):
            return f"[{', '.join(printed(item) for item in items)}]"
        case _:
            raise TypeError(f"{node!r} is not a part of a condition")


_NAMED = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str) -> str:
    return (
        '"' + "".join(_NAMED.get(c) or (c if " " <= c != "\x7f" else f"\\u{ord(c):04x}") for c in text) + '"'
    )
