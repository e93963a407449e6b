"""A process that evaluates conditions before they are saved, and may die of it.

Its arguments are the bytes of memory that it may have, and the seconds of CPU for one condition. Standard
input has one condition a line, as a JSON string; each is answered with one line: a ``Finding``. The system
ends the process where it wants more, and whoever started it kills it when an answer does not come.
"""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from typing import Any, BinaryIO

import cel
import msgspec

from certloom.policy.expressions.checking import Checked, check
from certloom.policy.expressions.condition import context
from certloom.policy.expressions.shapes import MOST_NAMES, VARIABLES, Shape
from certloom.policy.expressions.syntax import ExpressionError

LONGEST = 0.05
"""Seconds of CPU that a condition may take over a request of as many names as there can be."""
_SECONDS_A_STEP = 1.25e-6
"""How long a step of a regular expression may take: five times what steps take otherwise."""
_TRIES = 3


class Finding(msgspec.Struct, frozen=True):
    """What became of one condition; without a message it may be saved."""

    message: str = ""
    line: int = 1
    column: int = 1


def find(source: str) -> Finding:
    """Judge a condition, then evaluate it over the largest request there can be."""
    try:
        checked = check(source)
    except ExpressionError as error:
        return Finding(error.message, error.line, error.column)
    try:
        return _slow_pattern(checked) or _slow(checked)
    except Exception as error:
        return Finding(f"not taken: {str(error).splitlines()[0][:300]}")
    except BaseException as error:
        return Finding(f"not taken: {type(error).__name__}")


def _slow(checked: Checked) -> Finding:
    over = context({path: _worst(path) for path in checked.uses})
    # Each walk is tried for itself too: what stands before it could be false here and true elsewhere.
    for text in (checked.cel, *checked.walks):
        program = cel.compile(text)
        took = min(_seconds(program, over) for _ in range(_TRIES))
        if took > LONGEST:
            return Finding(
                f"over {MOST_NAMES} names it takes {took * 1000:.0f} ms, of at most {LONGEST * 1000:.0f}"
            )
    return Finding()


def _slow_pattern(checked: Checked) -> Finding | None:
    for match in checked.matches:
        program = cel.compile("text.matches(pattern)")
        over = cel.Context({"text": "a" * 253, "pattern": match.pattern})
        try:
            program.execute(over)
        except Exception as error:
            why = str(error).partition("not a valid regex:")[2].split("Check function arguments")[0]
            why = " ".join(why.split()).rpartition("error: ")[2].rstrip(". ")
            return Finding(f"not a regular expression: {why[:200]}", match.line, match.column)
        took, most = min(_seconds(program, over) for _ in range(_TRIES)), match.steps * _SECONDS_A_STEP
        if took > most:
            return Finding(
                f"this takes {took * 1e6:.0f} µs each time, of at most {most * 1e6:.0f}",
                match.line,
                match.column,
            )
    return None


def _seconds(program: cel.Program, over: cel.Context) -> float:
    began = time.process_time()
    # No value for these facts (an item that is not there) is no matter: what counts is that it ends.
    with contextlib.suppress(Exception):
        program.execute(over)
    return time.process_time() - began


def _worst(path: str) -> Any:
    root, *fields = path.split(".")
    shape = VARIABLES[root]
    for field in fields:
        shape = shape.fields[field]
    return _largest(shape, 0)


def _largest(shape: Shape, number: int) -> Any:
    """A value of this shape, as large as real ones can all be at once."""
    if shape.kind == "list" and shape.item is not None:
        return [_largest(shape.item, i) for i in range(shape.most)]
    if shape.kind == "struct":
        return {name: _largest(field, number) for name, field in shape.fields.items()}
    if shape.kind == "map" and shape.item is not None:
        return {f"1.2.{i}": _largest(shape.item, i) for i in range(shape.most)}
    if shape.kind == "string":
        return f"{number}.{'a' * 60}.{'b' * 60}.{'c' * 60}.example.com"[: shape.most]
    return number % 2 == 0 if shape.kind == "bool" else number


def serve(conditions: BinaryIO, answers: BinaryIO, cpu_seconds: int) -> None:
    """Answer until there are no more; the first line says that the process is ready."""
    answers.write(msgspec.json.encode(Finding()) + b"\n")
    answers.flush()
    for line in conditions:
        _allow_cpu(cpu_seconds)
        finding = find(msgspec.json.decode(line, type=str))
        answers.write(msgspec.json.encode(finding) + b"\n")
        answers.flush()


def _allow_cpu(seconds: int) -> None:
    """So much for the next condition: a declaration may bring many, each of which takes little."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = int(used.ru_utime + used.ru_stime) + 1 + seconds
    resource.setrlimit(
        resource.RLIMIT_CPU, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most)
    )


def main() -> None:
    """Run as a process of its own."""
    memory, cpu_seconds = int(sys.argv[1]), int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    serve(sys.stdin.buffer, sys.stdout.buffer, cpu_seconds)


if __name__ == "__main__":
    main()
