"""Why the policy says what it says: a decision, told rule by rule."""

from __future__ import annotations

import msgspec

from certloom.policy.decisions import Decision, Reason, Stage, Verdict


class Explanation(msgspec.Struct, frozen=True):
    """What is decided, by whom, and what each rule says."""

    outcome: str
    """``issue``, ``ask`` or ``refuse``."""
    decided_by: tuple[str, ...]
    """``profile NAME@VERSION`` and ``rule NAME@VERSION`` of all who object; else the profile."""
    profile: str
    """``name@version``."""
    reasons: tuple[Reason, ...]
    warnings: tuple[Reason, ...]
    rules: tuple[Verdict, ...]
    """What each rule about this profile says; with too many names none is asked."""
    stages: tuple[Stage, ...] = ()
    """Who must agree, where people are asked."""


def explain(decision: Decision, profile: str, version: int) -> Explanation:
    """A decision by this profile and the rules in force."""
    name = f"{profile}@{version}"
    deciders = dict.fromkeys(
        f"profile {name}" if reason.rule is None else f"rule {reason.rule}" for reason in decision.reasons
    )
    return Explanation(
        decision.outcome.value,
        tuple(deciders) or (f"profile {name}",),
        name,
        decision.reasons,
        decision.warnings,
        decision.verdicts,
        decision.approval.stages if decision.approval is not None else (),
    )
