"""How the pipeline says no. Each protocol maps these three, once, in one table."""

from __future__ import annotations

from collections.abc import Sequence

from certloom.policy.decisions import Reason


class EnrollmentError(Exception):
    """Base of the family; ``reasons`` are machine-readable and fit for the requester's eyes."""

    def __init__(self, *reasons: Reason) -> None:
        super().__init__("; ".join(r.message for r in reasons))
        self.reasons: Sequence[Reason] = reasons

    @property
    def code(self) -> str:
        """The first reason's code."""
        return self.reasons[0].code if self.reasons else "refused"


class Refused(EnrollmentError):
    """The answer is no, and asking the same again will not change it."""


class Unavailable(EnrollmentError):
    """Not now: an authority, a resolver or the store cannot answer. Nothing was lost; ask again."""

    def __init__(self, *reasons: Reason, retry_after: int = 30) -> None:
        super().__init__(*reasons)
        self.retry_after = retry_after


class Waiting(EnrollmentError):
    """A person or an upstream CA has yet to answer; ``request_id`` is what to ask about."""

    def __init__(self, request_id: str, retry_after: int) -> None:
        super().__init__(Reason("waiting", "the request is waiting"))
        self.request_id = request_id
        self.retry_after = retry_after
