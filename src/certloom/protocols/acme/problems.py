"""ACME errors: problem documents (RFC 8555 section 6.7, RFC 7807).

A ``Problem`` is raised wherever a request cannot be answered, and encoded in one place (``routes``). What the
pipeline, the key checks and the validators say is turned into problems here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal, get_args

import msgspec

from certloom.enrollment.errors import EnrollmentError, Refused, Unavailable
from certloom.pki.identifiers import Identifier
from certloom.policy.decisions import Reason

ProblemType = Literal[
    # RFC 8555 section 6.7, in its order.
    "accountDoesNotExist",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
    # RFC 9773 section 7.4.
    "alreadyReplaced",
    # draft-ietf-acme-profiles.
    "invalidProfile",
]
"""Every type this server sends. The registry's others belong to what it does not offer: RFC 8739's
``autoRenewal...`` (short-term renewed certificates) and RFC 9115's ``unknownDelegation``."""

STATUS: Final[dict[ProblemType, int]] = {
    "accountDoesNotExist": 400,
    "alreadyRevoked": 400,
    "badCSR": 400,
    "badNonce": 400,
    "badPublicKey": 400,
    "badRevocationReason": 400,
    "badSignatureAlgorithm": 400,
    "caa": 403,
    "compound": 400,
    "connection": 400,
    "dns": 400,
    "externalAccountRequired": 403,
    "incorrectResponse": 403,
    "invalidContact": 400,
    "malformed": 400,
    "orderNotReady": 403,
    "rateLimited": 429,
    "rejectedIdentifier": 400,
    "serverInternal": 500,
    "tls": 400,
    "unauthorized": 403,
    "unsupportedContact": 400,
    "unsupportedIdentifier": 400,
    "userActionRequired": 403,
    "alreadyReplaced": 409,
    "invalidProfile": 400,
}
"""The HTTP status each type is sent with, unless the RFC names another one for the case."""

PROBLEM_TYPES: Final[tuple[ProblemType, ...]] = get_args(ProblemType)
_URN: Final = "urn:ietf:params:acme:error:"

_LONGEST_TEXT: Final = 1_000
"""Characters of a detail; whatever a client sent in, it gets no more of it back."""


class _IdentifierObject(msgspec.Struct, frozen=True):
    type: str
    value: str


class Subproblem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of several causes, usually about one identifier (RFC 8555 section 6.7.1)."""

    type: str
    detail: str
    identifier: _IdentifierObject | None = None


class ProblemDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """The wire form. ``identifier`` stands in subproblems only (RFC 8555 section 6.7.1)."""

    type: str
    detail: str
    status: int
    instance: str | None = None
    algorithms: tuple[str, ...] | None = None
    subproblems: tuple[Subproblem, ...] = ()


_encode = msgspec.json.Encoder().encode


def subproblem(type: ProblemType, detail: str, kind: str = "", value: str = "") -> Subproblem:
    """One cause; ``kind`` and ``value`` name the identifier as the client wrote it."""
    return Subproblem(
        _URN + type,
        detail[:_LONGEST_TEXT],
        _IdentifierObject(kind[:32], value[:256]) if kind else None,
    )


class Problem(Exception):
    """The answer is a problem document. Nothing was changed."""

    def __init__(
        self,
        type: ProblemType,
        detail: str,
        *,
        status: int | None = None,
        subproblems: Iterable[Subproblem] = (),
        algorithms: tuple[str, ...] | None = None,
        instance: str | None = None,
        retry_after: int | None = None,
        location: str | None = None,
        links: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.type = type
        self.detail = detail[:_LONGEST_TEXT]
        self.status = STATUS[type] if status is None else status
        self.subproblems = tuple(subproblems)
        self.algorithms = algorithms
        self.instance = instance
        self.retry_after = retry_after
        """Whole seconds: some clients read nothing else."""
        self.location = location
        self.links = links
        """(relation, URL) pairs for the Link header."""

    def document(self) -> bytes:
        """``application/problem+json``."""
        return _encode(
            ProblemDocument(
                _URN + self.type, self.detail, self.status, self.instance, self.algorithms, self.subproblems
            )
        )


def malformed(detail: str, status: int = 400) -> Problem:
    """The commonest one; ``status`` tells 404, 405, 413 and 415 apart."""
    return Problem("malformed", detail, status=status)


def from_identifiers(found: Sequence[Subproblem], detail: str = "") -> Problem:
    """One problem for what is wrong with several identifiers: their common type, or ``compound``."""
    types = {s.type for s in found}
    type: ProblemType = "compound" if len(types) > 1 else _of_urn(types.pop())
    if not detail:
        detail = found[0].detail if len(found) == 1 else f"{len(found)} identifiers cannot be served"
    return Problem(type, detail, subproblems=found[:100])


def _of_urn(urn: str) -> ProblemType:
    name = urn.removeprefix(_URN)
    for known in PROBLEM_TYPES:
        if known == name:
            return known
    raise ValueError(f"{urn} is not an ACME error")


_OF_REASON: Final[dict[str, ProblemType]] = {
    # policy.decide
    "key-type-not-allowed": "badCSR",
    "key-blocked": "badCSR",
    "subject-not-allowed": "badCSR",
    "no-names": "badCSR",
    "too-many-names": "malformed",
    "identifier-type-not-allowed": "unsupportedIdentifier",
    "wildcard-not-allowed": "rejectedIdentifier",
    "name-not-allowed": "rejectedIdentifier",
    "validity-not-allowed": "malformed",
    "validity-in-past": "malformed",
    "validity-too-far-ahead": "malformed",
    "validity-too-long": "malformed",
    "validity-empty": "malformed",
    "authority-expired": "serverInternal",
    # policy.rules
    "rule-refuses": "unauthorized",
    "rule-asks": "unauthorized",
    # enrollment
    "different-ask": "orderNotReady",
    "too-many-waiting": "rateLimited",
    "withdrawn": "unauthorized",
    "not-configured": "serverInternal",
    "denied": "unauthorized",
    "approval-expired": "unauthorized",
    "authority-unavailable": "serverInternal",
    # enrollment.revoke
    "bad-revocation-reason": "badRevocationReason",
    "already-revoked": "alreadyRevoked",
    "unknown-certificate": "malformed",
    # authorities
    "lint": "rejectedIdentifier",
    "not-encodable": "badCSR",
}
"""What the pipeline's reasons are in ACME. A code that is not here is the server's matter: serverInternal."""


def of_reasons(reasons: Sequence[Reason]) -> Problem:
    """The pipeline's no, in ACME's words; what concerns single identifiers becomes subproblems."""
    if not reasons:
        return Problem("serverInternal", "the certificate was not issued")
    types = [_OF_REASON.get(reason.code, "serverInternal") for reason in reasons]
    type: ProblemType = types[0] if len(set(types)) == 1 else "compound"
    subproblems = [
        subproblem(kind, reason.message, *_sent(reason.identifier))
        for kind, reason in zip(types, reasons, strict=True)
        if len(reasons) > 1 or reason.identifier is not None
    ]
    detail = reasons[0].message if len(reasons) == 1 else f"{len(reasons)} things stand against it"
    if all(reason.code == "lint" for reason in reasons):
        # Most clients show nothing else.
        detail = "lint stops this certificate: " + "; ".join([reason.message for reason in reasons])
    return Problem(type, detail, subproblems=subproblems[:100])


def _sent(identifier: Identifier | None) -> tuple[str, str]:
    return ("", "") if identifier is None else (identifier.type.value, identifier.value)


def of_enrollment(error: EnrollmentError) -> Problem:
    """What the pipeline raised. ``Waiting`` is no problem: the order is ``processing`` then."""
    if isinstance(error, Refused):
        return of_reasons(error.reasons)
    after = error.retry_after if isinstance(error, Unavailable) else 30
    return Problem("serverInternal", str(error), status=503, retry_after=after)


def validation_error(code: str, detail: str) -> ProblemDocument:
    """What a challenge's ``error`` holds. ``code`` is the validator's, which speaks ACME's names already."""
    type: ProblemType = next((known for known in PROBLEM_TYPES if known == code), "serverInternal")
    return ProblemDocument(_URN + type, detail[:_LONGEST_TEXT], STATUS[type])


def about_identifier(error: ProblemDocument, kind: str, value: str) -> str:
    """A challenge's error as its order shows it: with the identifier, in JSON."""
    cause = Subproblem(error.type, error.detail, _IdentifierObject(kind, value))
    return _encode(ProblemDocument(error.type, error.detail, error.status, subproblems=(cause,))).decode()
