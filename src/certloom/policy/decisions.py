"""What the policy is told (``Facts``) and what it answers (``Decision``). Plain data, no I/O."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier
from certloom.pki.keys import PublicKeyFacts
from certloom.pki.names import Name


class Requester(msgspec.Struct, frozen=True):
    """Who is asking, as authenticated.

    ``kind`` is ``acme-account``, ``credential``, ``certificate`` (whose id is its SHA-256 in hex), ``token``,
    ``client-certificate`` (an identity of the API), ``person``, ``local`` or ``system``; ``id`` is that
    kind's own identifier.
    """

    kind: str
    id: str
    owner: str | None = None
    """On whose behalf: the id of a person, or what a service's credential names as its owner."""
    team: str | None = None
    """The team that what it asks for belongs to."""


class ShownCertificate(msgspec.Struct, frozen=True, omit_defaults=True):
    """What stands in the certificate by which a requester has shown who it is."""

    subject: Name
    identifiers: tuple[Identifier, ...] = ()
    issuer: str = ""
    """RFC 4514 text."""
    anchors: str = ""
    """The trust anchors it comes under, where a stranger issued it."""
    profile: str = ""
    """The profile it was issued by, where it was issued here."""


class NameHistory(msgspec.Struct, frozen=True):
    """What the inventory knows of one name, for rules that ask about it."""

    name: Identifier
    valid: int
    """How many certificates for it are neither revoked, expired nor replaced; counted up to 100."""
    last_team: str | None = None
    """The team of the certificate that was issued for it last."""
    last_owner: str | None = None
    last_requester: str | None = None
    last_profile: str | None = None
    last_issued: int | None = None
    """Unix seconds."""


class Facts(msgspec.Struct, frozen=True):
    """Everything a profile or a rule may look at. The caller fetches it; the policy does no I/O."""

    now: int
    protocol: str
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
    history: tuple[NameHistory, ...] | None = None
    """Of every name asked for; None unless the rules in force look at it."""
    certificate: ShownCertificate | None = None
    """By which the requester has shown who it is; None where it did so otherwise."""
    renewal: bool = False
    """Whether the requester has shown to hold a certificate of the same names that this one follows."""


class Outcome(StrEnum):
    ISSUE = "issue"
    ASK = "ask"
    REFUSE = "refuse"


class Reason(msgspec.Struct, frozen=True):
    """Why. ``code`` is for machines (``key-type-not-allowed``), ``message`` for the requester."""

    code: str
    message: str
    identifier: Identifier | None = None
    rule: str | None = None
    """``name@version`` of the policy rule that says so; None where the profile does."""


class LintMode(StrEnum):
    EVERY = "every"
    FIRST_OF_SHAPE = "first-of-shape"
    OFF = "off"


class LintRules(StrEnum):
    """What a certificate is linted by."""

    PKIX = "pkix"
    """RFC 5280 and the RFCs around it."""
    CABF_TLS = "cabf-tls"
    """PKIX and the CA/Browser Forum's TLS Baseline Requirements."""
    CABF_SMIME = "cabf-smime"
    """PKIX and the CA/Browser Forum's S/MIME Baseline Requirements."""


class CTTerms(msgspec.Struct, frozen=True):
    """Where a certificate is logged before it is issued (RFC 6962)."""

    logs: tuple[str, ...]
    """By their names in the settings."""
    needed: int
    """How many of them must have promised to log it."""


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
    lint_rules: LintRules = LintRules.PKIX
    ct: CTTerms | None = None
    """None: the certificate is not logged."""


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One round of agreement: so many people who hold a role."""

    role: Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9-]{0,62}$")] = "approver"
    approvers: Annotated[int, msgspec.Meta(ge=1, le=10)] = 1


class ApprovalTerms(msgspec.Struct, frozen=True):
    """What must be agreed to, by whom, and for how long."""

    stages: tuple[Stage, ...]
    """One after another."""
    wait: int
    """Seconds that a request waits for people."""
    good_for: int
    """Seconds that an agreement serves further requests for the same."""
    may_change: tuple[str, ...] = ()
    """Of ``validity`` and ``names``: what an approver may change."""


class Verdict(msgspec.Struct, frozen=True):
    """What one policy rule said to one ask."""

    rule: str
    """``name@version``."""
    effect: str
    """``refuse``, ``ask`` or ``warn``."""
    matched: bool
    message: str = ""
    error: str | None = None
    """Why the rule could not be evaluated; it then counts as matched."""


class Decision(msgspec.Struct, frozen=True):
    """The policy's answer.

    ``contents`` is set unless the outcome is REFUSE, ``reasons`` unless it is ISSUE, ``approval`` if ASK.
    """

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()
    contents: CertificateContents | None = None
    approval: ApprovalTerms | None = None
    warnings: tuple[Reason, ...] = ()
    """What rules want said, although they do not stand in the way."""
    verdicts: tuple[Verdict, ...] = ()
    """What each rule said, in their order."""
