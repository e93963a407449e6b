"""The one door to validation: picks the method, hands it its tools, bounds its time."""

from __future__ import annotations

from certloom.clock import Clock
from certloom.settings.schema import Validation
from certloom.validation.caa import CAAChecker
from certloom.validation.proof import Proof, Validated


class Validator:
    """Checks challenges. Make one per process, inside or outside the event loop."""

    caa: CAAChecker

    def __init__(self, settings: Validation, clock: Clock) -> None:
        """Raises ``ValueError`` for an address range or a resolver that cannot be read."""

    async def validate(self, proof: Proof, *, attempt: int = 0) -> Validated:
        """Check one challenge once, within ``timeout_seconds``. ``attempt`` counts from 0; every attempt asks
        the DNS anew. Raises ``ValidationFailed``."""
        raise NotImplementedError

    async def close(self) -> None:
        """Let go of what is held. Checks in flight fail."""
