"""The judgement of a condition when it is saved: types, and what it can cost at worst.

The library that evaluates has no budget: four nested ``map`` over a hundred items hold a processor for
minutes, and with it the server. So the most that a condition can do is worked out beforehand from the most
that each list can hold, and what would take too long is refused. That also takes every error of types away
from the moment when somebody waits for a certificate.

What comes out is a condition over flat variables (``request__key__bits``), since only those it looks at
have to be handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import msgspec

from certloom.policy.expressions.shapes import BOOL, INT, VARIABLES, Shape, items, text
from certloom.policy.expressions.syntax import (
    Binary,
    Call,
    Chain,
    Choice,
    ExpressionError,
    Index,
    Items,
    Literal,
    Macro,
    Node,
    Select,
    Unary,
    Variable,
    parse,
    position,
    printed,
)
from certloom.policy.name_rules import PatternError, check_pattern

MOST_STEPS = 200_000
"""What a condition may cost at worst. A step is up to 0.25 µs, so that is about 50 ms."""
_DEEPEST_WALK = 2
_LONGEST_TEXT = 8192
"""Characters of a string that is put together."""
_LONGEST_PATTERN = 200
_MATCH, _MATCH_ONCE = 40, 1000
"""Steps of one use of a regular expression: of one that is used often, and of one that is used once."""
_OWN_FUNCTION = 8
"""Steps of one call of a function of ours."""

FUNCTIONS = frozenset(
    {
        *("contains", "endsWith", "has", "int", "matches", "matches_name", "size", "startsWith", "string"),
        *("touches", "under"),
    }
)


class Match(msgspec.Struct, frozen=True):
    """A regular expression in a condition, and what it may cost. See ``trial``."""

    pattern: str
    steps: int
    """What one use of it may cost; counted into ``Checked.steps``."""
    line: int
    column: int


class Checked(msgspec.Struct, frozen=True):
    """A condition that may be evaluated."""

    cel: str
    """The same condition over flat variables, every bracket in its place."""
    uses: frozenset[str]
    """The paths that it looks at, such as ``request.key.bits``."""
    steps: int
    """What it costs at worst."""
    matches: tuple[Match, ...]
    walks: tuple[str, ...]
    """Each walk over a list for itself, as CEL, outermost ones only: for trying out."""


class _Part(msgspec.Struct, frozen=True):
    node: Node
    shape: Shape
    steps: int


def flat(path: str) -> str:
    """The variable that holds what ``path`` leads to."""
    return path.replace(".", "__")


def check(source: str) -> Checked:
    """Judge a condition. Raises ``ExpressionError``."""
    checker = _Checker(source)
    whole = checker.part(parse(source))
    if whole.shape.kind != "bool":
        checker.fail(f"a condition is true or false, this is a {whole.shape}", 0)
    if whole.steps > MOST_STEPS:
        checker.fail(
            f"it could take {whole.steps:,} steps for a request of 1000 names, of at most {MOST_STEPS:,}", 0
        )
    return Checked(
        printed(whole.node),
        frozenset(checker.uses),
        whole.steps,
        tuple(checker.matches),
        tuple(printed(node) for node in checker.walks),
    )


class _Checker:
    def __init__(self, source: str) -> None:
        self._source = source
        self._bound: dict[str, Shape] = {}
        self._times = 1
        self.uses: set[str] = set()
        self.matches: list[Match] = []
        self.walks: list[Node] = []

    def fail(self, message: str, at: int) -> NoReturn:
        raise ExpressionError(message, *position(self._source, at))

    def part(self, node: Node) -> _Part:
        return _PARTS[type(node)](self, node)

    def _of(self, node: Node, kind: str, what: str) -> _Part:
        part = self.part(node)
        if part.shape.kind != kind:
            self.fail(f"{what} takes a {kind}, this is a {part.shape}", node.at)
        return part

    # -- variables ---------------------------------------------------------------------------------------

    def _literal(self, node: Literal) -> _Part:
        value = node.value
        if isinstance(value, str):
            return _Part(node, text(len(value)), 1)
        return _Part(node, BOOL if isinstance(value, bool) else INT, 1)

    def _variable(self, node: Variable) -> _Part:
        if (bound := self._bound.get(node.name)) is not None:
            return _Part(node, bound, 1)
        return self._path(node.name, node.at)

    def _path(self, path: str, at: int) -> _Part:
        """What a path of names from a variable on leads to."""
        root, *fields = path.split(".")
        shape = VARIABLES.get(root)
        if shape is None:
            self.fail(f"there is no variable {root!r}; there are {', '.join(VARIABLES)}", at)
        for field in fields:
            shape = self._field(shape, field, at)
        if shape.kind != "struct":
            self.uses.add(path)
        return _Part(Variable(at, flat(path)), shape, 1)

    def _field(self, shape: Shape, field: str, at: int) -> Shape:
        found = shape.fields.get(field)
        if found is None:
            self.fail(f"there is no field {field!r} here; there are {', '.join(shape.fields)}", at)
        return found

    def _select(self, node: Select) -> _Part:
        path = _dotted(node)
        if path is not None and path.split(".")[0] not in self._bound:
            root, *fields = path.split(".")
            shape = VARIABLES.get(root)
            for field in fields if shape is not None else ():
                assert shape is not None
                if shape.kind != "struct":
                    break
                shape = self._field(shape, field, node.at)
            else:
                return self._path(path, node.at)
        operand = self.part(node.operand)
        if operand.shape.kind == "struct":
            shape = self._field(operand.shape, node.field, node.at)
        elif operand.shape.kind == "map" and operand.shape.item is not None:
            shape = operand.shape.item
        else:
            self.fail(f"a {operand.shape} has no fields", node.at)
        return _Part(Select(node.at, operand.node, node.field), shape, operand.steps + 1)

    def _index(self, node: Index) -> _Part:
        operand = self.part(node.operand)
        if operand.shape.kind not in ("list", "map") or operand.shape.item is None:
            self.fail(f"a {operand.shape} has no items", node.at)
        index = self._of(node.index, "int" if operand.shape.kind == "list" else "string", "[ ]")
        return _Part(
            Index(node.at, operand.node, index.node), operand.shape.item, operand.steps + index.steps + 1
        )

    # -- operators ---------------------------------------------------------------------------------------

    def _unary(self, node: Unary) -> _Part:
        operand = self._of(node.operand, "bool" if node.operator == "!" else "int", f"{node.operator!r}")
        return _Part(Unary(node.at, node.operator, operand.node), operand.shape, operand.steps + 1)

    def _chain(self, node: Chain) -> _Part:
        parts = [self._of(part, "bool", f"{node.operator!r}") for part in node.parts]
        steps = sum(part.steps + 1 for part in parts)
        return _Part(Chain(node.at, node.operator, tuple(part.node for part in parts)), BOOL, steps)

    def _choice(self, node: Choice) -> _Part:
        condition = self._of(node.condition, "bool", "'?'")
        then, otherwise = self.part(node.then), self.part(node.otherwise)
        if not then.shape.same(otherwise.shape):
            self.fail(f"one side is a {then.shape}, the other a {otherwise.shape}", node.at)
        shape = then.shape if then.shape.most >= otherwise.shape.most else otherwise.shape
        steps = condition.steps + then.steps + otherwise.steps + 1
        return _Part(Choice(node.at, condition.node, then.node, otherwise.node), shape, steps)

    def _items(self, node: Items) -> _Part:
        parts = [self.part(item) for item in node.items]
        shape = parts[0].shape if parts else None
        for part in parts[1:]:
            if shape is None or not shape.same(part.shape):
                self.fail(f"the first item is a {shape}, this is a {part.shape}", part.node.at)
            if part.shape.most > shape.most:
                shape = part.shape
        steps = sum(part.steps for part in parts) + 1
        return _Part(Items(node.at, tuple(part.node for part in parts)), items(shape, len(parts)), steps)

    def _binary(self, node: Binary) -> _Part:
        left, right = self.part(node.left), self.part(node.right)
        a, b, operator = left.shape, right.shape, node.operator
        steps = left.steps + right.steps + 1
        shape = BOOL
        if operator == "in":
            if b.kind == "list":
                if b.item is not None and not a.same(b.item):
                    self.fail(f"a {a} is never in a {b}", node.at)
                steps += b.most * _compared(a)
            elif b.kind != "map" or a.kind != "string":
                self.fail(f"'in' takes a list or a map, this is a {b}", node.right.at)
        elif not a.same(b):
            self.fail(f"{operator!r} between a {a} and a {b}", node.at)
        elif operator in ("==", "!="):
            steps += min(_compared(a), _compared(b))
        elif a.kind == "string" and operator not in ("-", "*", "/", "%"):
            steps += min(_compared(a), _compared(b))
            if operator == "+":
                shape = text(a.most + b.most)
                if shape.most > _LONGEST_TEXT:
                    self.fail(f"a string of up to {shape.most} characters", node.at)
                steps += shape.most // 256
        elif a.kind == "int":
            shape = INT if operator in ("+", "-", "*", "/", "%") else BOOL
        else:
            self.fail(f"{operator!r} does nothing with a {a}", node.at)
        return _Part(Binary(node.at, operator, left.node, right.node), shape, steps)

    # -- functions and walks -----------------------------------------------------------------------------

    def _call(self, node: Call) -> _Part:
        name = node.function
        if name not in FUNCTIONS:
            self.fail(f"there is no function {name!r}; there are {', '.join(sorted(FUNCTIONS))}", node.at)
        if name == "has":
            return self._has(node)
        arguments = node.arguments if node.target is None else (node.target, *node.arguments)
        if (count := 1 if name in ("size", "string", "int") else 2) != len(arguments):
            self.fail(f"{name} takes {count} argument{'s' if count > 1 else ''}", node.at)
        parts = [self.part(argument) for argument in arguments]
        shapes = [part.shape for part in parts]
        steps = sum(part.steps for part in parts) + 2
        shape = BOOL
        if name == "size":
            if shapes[0].kind not in ("string", "list", "map"):
                self.fail(f"a {shapes[0]} has no size", node.at)
            shape, steps = INT, steps + shapes[0].most // 256
        elif name in ("string", "int"):
            if shapes[0].kind not in ("string", "int"):
                self.fail(f"{name}() of a {shapes[0]}", node.at)
            shape = INT if name == "int" else text(max(20, shapes[0].most))
        elif any(shape.kind != "string" for shape in shapes):
            self.fail(f"{name} takes strings, not {' and '.join(map(str, shapes))}", node.at)
        else:
            steps += shapes[0].most // 256 + shapes[1].most // 256
        if name in ("under", "touches", "matches_name"):
            steps += _OWN_FUNCTION + shapes[0].most // 64
        if name in ("touches", "matches_name"):
            self._check_name_pattern(self._written(name, arguments[1]), arguments[1].at)
        if name == "matches":
            steps += self._match(self._written(name, arguments[1]), arguments[1].at)
        made = tuple(part.node for part in parts)
        if name in _METHODS:
            return _Part(Call(node.at, name, made[0], made[1:]), shape, steps)
        return _Part(Call(node.at, name, None, made), shape, steps)

    def _written(self, function: str, node: Node) -> str:
        if not isinstance(node, Literal) or not isinstance(node.value, str):
            self.fail(f"the pattern of {function} must be written out", node.at)
        return node.value

    def _check_name_pattern(self, pattern: str, at: int) -> None:
        try:
            check_pattern(pattern)
        except PatternError as error:
            self.fail(str(error), at)

    def _match(self, pattern: str, at: int) -> int:
        if len(pattern) > _LONGEST_PATTERN:
            self.fail(f"a pattern of {len(pattern)} characters, of at most {_LONGEST_PATTERN}", at)
        # The library compiles it anew each time. What that takes is measured when it is tried out, and may be
        # the more the more seldom it is done.
        steps = max(_MATCH, _MATCH_ONCE // self._times)
        self.matches.append(Match(pattern, steps, *position(self._source, at)))
        return steps

    def _has(self, node: Call) -> _Part:
        if node.target is not None or len(node.arguments) != 1 or not isinstance(node.arguments[0], Select):
            self.fail("has takes one field, such as has(request.subject.O)", node.at)
        field = self.part(node.arguments[0])
        if not isinstance(field.node, Select):
            return _Part(Literal(node.at, True), BOOL, 1)
        return _Part(Call(node.at, "has", None, (field.node,)), BOOL, field.steps + 1)

    def _macro(self, node: Macro) -> _Part:
        target = self.part(node.target)
        if target.shape.kind != "list":
            self.fail(f"{node.kind} walks over a list, this is a {target.shape}", node.at)
        name = node.variable
        if name in VARIABLES or name in self._bound or name in FUNCTIONS or "__" in name:
            self.fail(f"{name!r} has a meaning already", node.at)
        if len(self._bound) == _DEEPEST_WALK:
            self.fail(f"walks over lists may be nested {_DEEPEST_WALK} deep", node.at)
        times = self._times
        self._times = times * max(1, target.shape.most)
        self._bound[name] = target.shape.item or BOOL
        body = self.part(node.body)
        del self._bound[name]
        self._times = times
        if node.kind == "map":
            shape = items(body.shape, target.shape.most)
        elif body.shape.kind != "bool":
            self.fail(f"{node.kind} takes a condition, this is a {body.shape}", node.body.at)
        else:
            shape = target.shape if node.kind == "filter" else BOOL
        made = Macro(node.at, node.kind, target.node, name, body.node)
        if not self._bound:
            self.walks.append(made)
        most = target.shape.most
        steps = target.steps + most * (body.steps + 4) + 1
        if node.kind in ("map", "filter"):
            # The library copies what it has so far for each item that is added.
            steps += most * most // 8
        return _Part(made, shape, steps)


_METHODS = frozenset({"contains", "startsWith", "endsWith", "matches"})


def _compared(shape: Shape) -> int:
    """Steps of comparing two values of such a shape."""
    if shape.kind in ("list", "map"):
        return 1 + shape.most * (1 if shape.item is None else _compared(shape.item))
    return 1 + shape.most // 1024


def _dotted(node: Node) -> str | None:
    """``a.b.c`` of a chain of fields from a variable on, or None."""
    if isinstance(node, Variable):
        return node.name
    if isinstance(node, Select) and (before := _dotted(node.operand)) is not None:
        return f"{before}.{node.field}"
    return None


_PARTS: dict[type[Node], Callable[..., _Part]] = {
    Literal: _Checker._literal,
    Variable: _Checker._variable,
    Select: _Checker._select,
    Index: _Checker._index,
    Unary: _Checker._unary,
    Binary: _Checker._binary,
    Chain: _Checker._chain,
    Choice: _Checker._choice,
    Items: _Checker._items,
    Call: _Checker._call,
    Macro: _Checker._macro,
}
