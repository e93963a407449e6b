"""What the policy is told (``Facts``) and what it answers (``Decision``). Plain data, no I/O."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import PublicKeyFacts
from certloom.pki.names import Name


class Requester(msgspec.Struct, frozen=True):
    """Who is asking, as authenticated.

    ``kind`` is ``acme-account``, ``credential``, ``certificate``, ``token``, ``person`` or ``system``;
    ``id`` is that kind's own identifier.
    """

    kind: str
    id: str


class Facts(msgspec.Struct, frozen=True):
    """Everything a profile or a rule may look at. The caller fetches it; the policy does no I/O."""

    now: int
    channel: str
    requester: Requester
    key: PublicKeyFacts
    key_is_blocked: bool
    identifiers: tuple[Identifier, ...]
    csr_subject: Name
    not_before: int | None = None
    """Asked start in Unix seconds, or None for the profile's."""
    not_after: int | None = None
    """Asked end in Unix seconds (inclusive), or None for the profile's."""
    approved: bool = False
    """Whether the people whom the profile asks for have agreed."""
    authority_not_after: int | None = None
    """The end of the authority's certificate, beyond which nothing it signs is of use; None if not known."""


class Outcome(StrEnum):
    ISSUE = "issue"
    ASK = "ask"
    REFUSE = "refuse"


class Reason(msgspec.Struct, frozen=True):
    """Why. ``code`` is for machines (``key-type-not-allowed``), ``message`` for the requester."""

    code: str
    message: str
    identifier: Identifier | None = None


class LintMode(StrEnum):
    EVERY = "every"
    FIRST_OF_SHAPE = "first-of-shape"
    OFF = "off"


class CertificateContents(msgspec.Struct, frozen=True):
    """All of a certificate that policy decides.

    The authority adds serial, issuer, key identifiers, CRL distribution point and AIA.
    """

    spki: bytes
    """DER SubjectPublicKeyInfo."""
    subject: Name
    identifiers: tuple[Identifier, ...]
    not_before: int
    not_after: int
    """Unix seconds, inclusive (RFC 5280 section 4.1.2.5)."""
    key_usage: tuple[str, ...]
    """RFC 5280 names: digitalSignature, keyEncipherment, ..."""
    extended_key_usage: tuple[str, ...]
    """Dotted OIDs."""
    extensions: tuple[Extension, ...]
    authority: str
    profile: str
    profile_version: int
    lint: LintMode
    lint_level: str
    """Findings at or above this severity stop issuance: notice, warning, error or fatal."""


class Decision(msgspec.Struct, frozen=True):
    """The policy's answer.

    ``contents`` is set unless the outcome is REFUSE; ``reasons`` unless it is ISSUE.
    """

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    contents: CertificateContents | None = None
    approvals_needed: int = 0
    approval_seconds: int = 0
    """How long the request may wait for people."""
