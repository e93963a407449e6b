"""Operations by name, their arguments checked, their errors made one kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec

from certloom.audit import Origin
from certloom.enrollment.books import UnknownName
from certloom.enrollment.errors import EnrollmentError
from certloom.server.rooms import Rooms
from certloom.store.base import StoreError

A = TypeVar("A", bound=msgspec.Struct)
Run = Callable[[Rooms, A, Origin], Awaitable[Any]]


class OperationError(Exception):
    """The answer is no. ``code`` is for machines, the message for the operator; nothing was changed."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Arguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What an operation is asked with; on its own, nothing."""


class _Operation(msgspec.Struct, Generic[A], frozen=True):
    arguments: type[A]
    run: Run[A]


_registry: dict[str, _Operation[Any]] = {}


def operation(name: str, arguments: type[A]) -> Callable[[Run[A]], Run[A]]:
    """Register a function under a name such as ``certificate.revoke``."""

    def register(run: Run[A]) -> Run[A]:
        _registry[name] = _Operation(arguments, run)
        return run

    return register


async def perform(rooms: Rooms, name: str, arguments: bytes, origin: Origin) -> Any:
    """Run an operation on JSON arguments; answers what JSON can hold. Raises ``OperationError``."""
    found = _registry.get(name)
    if found is None:
        raise OperationError("unknown-operation", f"there is no operation {name!r}")
    try:
        decoded = msgspec.json.decode(arguments or b"{}", type=found.arguments)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OperationError("bad-arguments", str(error)) from None
    try:
        return await found.run(rooms, decoded, origin)
    except EnrollmentError as error:
        raise OperationError(error.code, str(error)) from error
    except UnknownName as error:
        raise OperationError("not-found", str(error)) from error
    except StoreError as error:
        raise OperationError("store-unavailable", str(error)) from error
