"""What goes wrong, as RFC 9457 problem documents.

Every problem has a *code* out of one table, so that the OpenAPI document can name each of them and programs
can tell them apart. A room of the API that has a problem of its own declares it where it is used:
``KEY_GONE = declare("key-gone", 410, "The private key is no longer here")``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from certloom.policy.decisions import Reason

MEDIA: Final = "application/problem+json"
_LONGEST_DETAIL: Final = 2_000
"""Characters; whatever a client sent in, it gets no more of it back."""


class ProblemType(msgspec.Struct, frozen=True):
    """One kind of problem."""

    code: str
    status: int
    title: str

    @property
    def uri(self) -> str:
        """The ``type`` member: names the kind, and is not there to be fetched."""
        return f"urn:certloom:problem:{self.code}"


TYPES: dict[str, ProblemType] = {}
"""Every kind, by its code."""


def declare(code: str, status: int, title: str) -> str:
    """Add a kind of problem; answers its code. Raises ``ValueError`` if the code means something else."""
    found = TYPES.setdefault(code, ProblemType(code, status, title))
    if (found.status, found.title) != (status, title):
        raise ValueError(f"problem {code!r} is declared twice")
    return code


MALFORMED: Final = declare("malformed", 400, "The request is not of the form it must have")
BAD_CURSOR: Final = declare("bad-cursor", 400, "The cursor is not one of this listing")
UNAUTHENTICATED: Final = declare("unauthenticated", 401, "Nobody was authenticated")
FORBIDDEN: Final = declare("forbidden", 403, "This is not allowed")
CROSS_SITE: Final = declare("cross-site", 403, "A browser asked from another site")
NOT_FOUND: Final = declare("not-found", 404, "There is no such thing")
METHOD_NOT_ALLOWED: Final = declare("method-not-allowed", 405, "The resource has no such method")
NOT_ACCEPTABLE: Final = declare("not-acceptable", 406, "The resource has no such media type")
CONFLICT: Final = declare("conflict", 409, "The state of the thing does not permit this")
IN_PROGRESS: Final = declare("in-progress", 409, "A request with this Idempotency-Key is under way")
PRECONDITION_FAILED: Final = declare("precondition-failed", 412, "The thing was changed by somebody else")
TOO_LARGE: Final = declare("too-large", 413, "The request is too large")
UNSUPPORTED_MEDIA: Final = declare("unsupported-media-type", 415, "The body's media type is not taken here")
INVALID: Final = declare("invalid", 422, "What is asked for cannot be")
REFUSED: Final = declare("refused", 422, "Policy refuses what is asked for")
KEY_REUSED: Final = declare("idempotency-key-reused", 422, "The Idempotency-Key belongs to another request")
PRECONDITION_REQUIRED: Final = declare("precondition-required", 428, "The request must carry If-Match")
TOO_MANY: Final = declare("too-many-requests", 429, "Too many requests")
INTERNAL: Final = declare("internal", 500, "The server failed")
UNAVAILABLE: Final = declare("unavailable", 503, "The server cannot do this at the moment")


class Problem(Exception):
    """The answer is a problem document. Nothing was changed.

    ``code`` must be declared; ``reasons`` say in detail why, fit for the requester's eyes; ``retry_after`` is
    in seconds.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        reasons: Sequence[Reason] = (),
        retry_after: int | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(detail)
        self.type = TYPES[code]
        self.detail = detail[:_LONGEST_DETAIL]
        self.reasons = tuple(reasons)
        self.retry_after = retry_after
        self.headers = headers

    @property
    def code(self) -> str:
        return self.type.code

    @property
    def status(self) -> int:
        return self.type.status


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """Why a request was not answered as asked (RFC 9457)."""

    type: str
    """``urn:certloom:problem:CODE``."""
    title: str
    status: int
    code: str
    """What ``type`` ends in, for programs."""
    detail: str = ""
    reasons: tuple[Reason, ...] = ()
    """In detail, where policy said no."""
    request_id: str = ""
    """As in ``X-Request-Id`` and in the server's log."""


_encode = msgspec.json.Encoder().encode


def document(problem: Problem, request_id: str) -> bytes:
    """The problem as it is sent."""
    kind = problem.type
    return _encode(
        ProblemDocument(
            kind.uri, kind.title, kind.status, kind.code, problem.detail, problem.reasons, request_id
        )
    )


def refusal_document(status: int, detail: str) -> bytes:
    """What the listener says in the API's place: of a request that is too large, too slow or not HTTP."""
    code = {413: TOO_LARGE, 500: INTERNAL, 503: UNAVAILABLE}.get(status, MALFORMED)
    kind = TYPES[code]
    return _encode(ProblemDocument(kind.uri, kind.title, status, code, detail))
