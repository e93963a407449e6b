"""What an agreement covers, how far it has come, and what it makes of an ask. Pure functions.

An approval binds, as one hash: who asks and for whom, the names, the subject as it would be rendered, the
profile and its limits, the lifetime asked for, who has to agree and which policy rules said so. Not the key
and not the order: those are new each time a client asks. A later ask with the same binding is the same
question.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import msgspec

from certloom.enrollment.asks import Ask, requester_text
from certloom.pki.identifiers import Identifier, IdentifierError, parse
from certloom.pki.names import format_name
from certloom.policy.decisions import Decision, Facts, Stage
from certloom.policy.profiles import Profile, encode_profile
from certloom.store.approvals import StoredApproval

_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400
_encode = msgspec.json.Encoder(order="deterministic").encode

_NOT_LIMITS = ("description", "renewal", "lint", "server_keys")
"""What a profile may change without asking people again; and how long they have, and are believed."""


@lru_cache(maxsize=1024)
def _limits(profile: Profile) -> Any:
    body = msgspec.json.decode(encode_profile(profile))
    for key in _NOT_LIMITS:
        body.pop(key, None)
    for key in ("wait", "good_for"):
        body["approval"].pop(key, None)
    # Agreements from before there were such things stay good.
    if profile.ct is None:
        body.pop("ct")
    if profile.approval.renewals:
        body["approval"].pop("renewals")
    if profile.names.asked and not profile.names.from_certificate:
        for key in ("asked", "from_certificate"):
            body["names"].pop(key)
    return body


def asked_lifetime(ask: Ask, now: int) -> int | None:
    """Seconds of life that were asked for, or None.

    Where they follow from times (ACME), they are rounded: a client that asks for thirty days from now, each
    time it asks, asks for the same.
    """
    if ask.lifetime is not None:
        return ask.lifetime
    if ask.not_after is None:
        return None
    span = ask.not_after - (now if ask.not_before is None else ask.not_before)
    unit = _DAY if span >= 7 * _DAY else _HOUR if span >= 12 * _HOUR else _MINUTE
    return max(unit, (span + unit // 2) // unit * unit)


def binding(ask: Ask, decision: Decision, profile: Profile, now: int) -> bytes:
    """SHA-256 over what people agree to. ``decision`` is the policy's: that people must be asked."""
    assert decision.contents is not None
    assert decision.approval is not None
    rules = sorted({reason.rule for reason in decision.reasons if reason.rule is not None})
    bound = [
        "certloom approval 1",
        [requester_text(ask.requester), ask.requester.owner, ask.requester.team],
        [ask.protocol, ask.channel],
        sorted(str(identifier) for identifier in decision.contents.identifiers),
        format_name(decision.contents.subject),
        ask.profile,
        _limits(profile),
        asked_lifetime(ask, now),
        decision.approval.stages,
        rules,
    ]
    return hashlib.sha256(_encode(bound)).digest()


def stage_of(approval: StoredApproval) -> int:
    """The first stage that still lacks agreement; the number of stages where none does."""
    counts = [0] * len(approval.stages)
    for agreement in approval.agreements:
        if agreement.stage < len(counts):
            counts[agreement.stage] += 1
    for index, stage in enumerate(approval.stages):
        if counts[index] < stage.approvers:
            return index
    return len(approval.stages)


def still_missing(approval: StoredApproval) -> int:
    """How many people its present stage still lacks."""
    if approval.stage >= len(approval.stages):
        return 0
    agreed = sum(1 for agreement in approval.agreements if agreement.stage == approval.stage)
    return max(0, approval.stages[approval.stage].approvers - agreed)


def merged(stages: tuple[Stage, ...], more: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """All that either demands: stages of one role become one, of the larger count."""
    counts = {stage.role: 0 for stage in (*stages, *more)}
    for stage in (*stages, *more):
        counts[stage.role] = max(counts[stage.role], stage.approvers)
    if len({stage.role for stage in stages}) < len(stages):
        # A profile may ask one role twice; then its own order stands and only the missing roles are added.
        known = {stage.role for stage in stages}
        return (*stages, *(stage for stage in more if stage.role not in known))
    return tuple(Stage(role=role, approvers=count) for role, count in counts.items())


def parse_names(names: tuple[str, ...]) -> tuple[Identifier, ...]:
    """Names from ``type:value``, each once. Raises ``IdentifierError``."""
    found = []
    for text in names:
        type, colon, value = text.partition(":")
        if not colon:
            raise IdentifierError(
                "unsupported-identifier-type", f"a name is written type:value, not {text!r}"
            )
        found.append(parse(type, value))
    return tuple(dict.fromkeys(found))


def as_agreed(
    profile: Profile, told: Facts, names: tuple[str, ...] | None, lifetime: int | None
) -> tuple[Profile, Facts]:
    """The profile and the facts with an approver's changes in them."""
    if names is not None:
        told = msgspec.structs.replace(told, identifiers=parse_names(names))
    if lifetime is not None:
        validity = profile.validity
        # The longest stays the profile's; what differs is what is taken when nothing else is asked.
        profile = msgspec.structs.replace(
            profile,
            validity=msgspec.structs.replace(
                validity,
                default=lifetime,
                max=validity.max or validity.default,
                backdate=min(validity.backdate, lifetime // 4),
            ),
        )
        told = msgspec.structs.replace(told, not_after=None)
    return profile, told


def changed_names(approval: StoredApproval) -> tuple[str, ...] | None:
    """What an approver made of the names, or None."""
    names = approval.effective_names
    return names if names != approval.names else None


def notes(approval: StoredApproval | None) -> dict[str, object]:
    """What the event of an issued certificate says of the agreement behind it."""
    if approval is None:
        return {}
    changed: dict[str, object] = {}
    if changed_names(approval) is not None:
        changed["names"] = {"before": approval.names, "after": approval.effective_names}
    if approval.changed_lifetime is not None:
        changed["lifetime"] = {"before": approval.asked.lifetime, "after": approval.changed_lifetime}
    return {
        "approval": approval.id,
        "approved_by": [agreement.actor for agreement in approval.agreements],
        **({"changed": changed} if changed else {}),
    }
