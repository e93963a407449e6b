"""The audit log, checked."""

from __future__ import annotations

from typing import Any

import msgspec

from certloom.audit import Origin, chain
from certloom.server.operations.registry import Arguments, operation
from certloom.server.rooms import Rooms


@operation("audit.verify", Arguments)
async def verify(rooms: Rooms, arguments: Arguments, origin: Origin) -> dict[str, Any]:
    """Compute the chain again. ``head`` is worth keeping elsewhere: it shows even a rewritten history."""
    await chain.link(rooms.store)
    verdict = await chain.verify(rooms.store)
    return {"intact": verdict.intact, **msgspec.to_builtins(verdict)}
