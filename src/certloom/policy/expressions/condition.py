"""Conditions, ready to be evaluated, and the functions that Certloom adds to CEL."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Final

import cel

from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.policy import name_rules
from certloom.policy.expressions.checking import Checked, check, flat
from certloom.policy.expressions.syntax import ExpressionError


class EvaluationError(Exception):
    """A condition has no value for this ask: an item that is not there, a number that is too large."""


def under(name: str, domain: str) -> bool:
    """Whether a DNS name is the domain or lies under it, label by label.

    Of a wildcard name everything it stands for must lie there; of a mailbox its domain.
    """
    name = name.rpartition("@")[2]
    if not domain or domain[0] == ".":
        return False
    return name == domain or (name.endswith(domain) and name[-len(domain) - 1] == ".")


def matches_name(name: str, pattern: str) -> bool:
    """Whether everything that the name stands for matches a pattern as profiles have them."""
    return name_rules.matches(pattern, _identifier(name))


def touches(name: str, pattern: str) -> bool:
    """Whether anything that the name stands for matches a pattern as profiles have them."""
    return name_rules.touches(pattern, _identifier(name))


@lru_cache(maxsize=4096)
def _identifier(name: str) -> Identifier:
    """The name again with its type, which canonical forms show."""
    if ":" in name or name[-1:].isdigit():
        try:
            ipaddress.ip_address(name)
        except ValueError:
            if ":" in name:
                return Identifier(IdentifierType.URI, name)
        else:
            return Identifier(IdentifierType.IP, name)
    return Identifier(IdentifierType.EMAIL if "@" in name else IdentifierType.DNS, name)


_OWN: Final[dict[str, Callable[..., Any]]] = {
    "under": under,
    "matches_name": matches_name,
    "touches": touches,
}


def context(values: Mapping[str, Any]) -> cel.Context:
    """What conditions are evaluated over: values by path (``request.key.bits``)."""
    return cel.Context({flat(path): value for path, value in values.items()}, _OWN)


class Condition:
    """A condition that was judged and compiled. Make it with ``compile_condition``."""

    __slots__ = ("_program", "checked", "source")

    def __init__(self, source: str, checked: Checked, program: cel.Program) -> None:
        self.source = source
        self.checked = checked
        self._program = program

    @property
    def uses(self) -> frozenset[str]:
        """The paths that it looks at."""
        return self.checked.uses

    def holds(self, over: cel.Context) -> bool:
        """Whether it is true. Raises ``EvaluationError``."""
        try:
            value = self._program.execute(over)
        except Exception as error:
            raise EvaluationError(str(error).partition("\n")[0][:300]) from error
        except BaseException as error:
            # What the library's own code stumbles over comes as no Exception; it says nothing but that.
            if type(error).__name__ != "PanicException":
                raise
            raise EvaluationError("the condition could not be evaluated") from error
        if value is True or value is False:
            return value
        raise EvaluationError("the condition is neither true nor false")


@lru_cache(maxsize=1024)
def compile_condition(source: str) -> Condition:
    """Judge and compile. Raises ``ExpressionError``."""
    checked = check(source)
    try:
        program = cel.compile(checked.cel)
    except Exception as error:
        raise ExpressionError(f"not taken: {str(error).partition(chr(10))[0][:300]}") from error
    return Condition(source, checked, program)
