"""The audit log, checked."""

from __future__ import annotations

from typing import Any

import msgspec

from certloom import audit
from certloom.audit import Origin
from certloom.server.operations.registry import Arguments, operation
from certloom.server.rooms import Rooms


@operation("audit.verify", Arguments)
async def verify(rooms: Rooms, arguments: Arguments, origin: Origin) -> dict[str, Any]:
    """Compute the chain again. ``head`` is worth keeping elsewhere: it shows even a rewritten history."""
    await audit.link(rooms.store)
    verdict = await audit.verify(rooms.store)
    return {"intact": verdict.intact, **msgspec.to_builtins(verdict)}
