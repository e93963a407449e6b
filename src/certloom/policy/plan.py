"""Plans: what a certificate that exists would be told, were it asked for again under other terms. Pure.

*Terms* are what decides: profiles, rules, authorities. A certificate is judged by what it is: its key, names,
lifetime, authority, requester and team. It is ``compliant``, people would be asked (``ask``), or it would be
``refused``. Beyond the policy's own reasons there are these, which only what exists already can meet:

===================== =========================================================================
code                  meaning
===================== =========================================================================
profile-gone          there is no such profile
other-authority       the profile issues from another authority
authority-gone        the profile's authority is not there
contents-differ       the profile gives other usages or extensions than the version it came from
===================== =========================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from certloom.pki.identifiers import Identifier
from certloom.pki.keys import PublicKeyFacts
from certloom.pki.names import Name
from certloom.policy.decide import key_usage_for, objections
from certloom.policy.decisions import Facts, NameHistory, Reason, Requester
from certloom.policy.key_types import key_of_type
from certloom.policy.profiles import Profile
from certloom.policy.rule_facts import Moment
from certloom.policy.rules import NOTHING_SAID, Judgement, Rule, Ruleset

Outcome = Literal["compliant", "ask", "refused"]


class Terms(msgspec.Struct, frozen=True):
    """What decides. Rules and profiles with their versions."""

    profiles: Mapping[str, tuple[Profile, int]]
    rules: tuple[tuple[Rule, int], ...]
    authorities: Mapping[str, int]
    """Name and the end of its certificate (Unix seconds) of each authority."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A certificate, as far as plans look at it."""

    id: int
    authority: str
    profile: str
    profile_version: int
    names: tuple[Identifier, ...]
    key_type: str
    not_before: int
    not_after: int
    requester: str
    owner: str = ""
    team: str = ""
    channel: str = ""
    """``protocol/name``."""


class Finding(msgspec.Struct, frozen=True):
    """What a certificate would be told."""

    outcome: Outcome
    reasons: tuple[Reason, ...] = ()


_COMPLIANT = Finding("compliant")
_NO_KEY = PublicKeyFacts(b"", b"", "unknown", 0)


class Planner:
    """Judges certificates by the terms of today and those of tomorrow."""

    def __init__(
        self,
        before: Terms,
        after: Terms,
        versions: Mapping[tuple[str, int], Profile],
        now: int,
    ) -> None:
        """``versions`` has every version of every profile, for what certificates were made from."""
        self._before, self._after, self._versions, self._now = before, after, versions, now
        # A rule that stays as it is is asked once.
        kept = {rule for rule, _ in before.rules} & {rule for rule, _ in after.rules}
        self._kept = Ruleset(pair for pair in after.rules if pair[0] in kept)
        self._only_before = Ruleset(pair for pair in before.rules if pair[0] not in kept)
        self._only_after = Ruleset(pair for pair in after.rules if pair[0] not in kept)
        every = (self._kept, self._only_before, self._only_after)
        self.needs_history = any(rules.needs_history for rules in every)
        self.needs_subject = any("request.subject" in rules.uses for rules in every) or any(
            "{csr." in attribute.value
            for terms in (before, after)
            for profile, _ in terms.profiles.values()
            for attribute in profile.subject
        )
        self._standing: dict[tuple[bool, str, int, str, str], tuple[Reason, ...]] = {}
        self._differing: dict[tuple[Profile, str, int, str], tuple[Reason, ...]] = {}

    def compare(
        self, held: Held, history: tuple[NameHistory, ...] | None, subject: Name | None
    ) -> tuple[Finding, Finding]:
        """What it is told today, and what it would be told."""
        before, after = self._before.profiles.get(held.profile), self._after.profiles.get(held.profile)
        key = _key(held.key_type)
        own_before = self._own(self._before, False, held, key, subject)
        same = before is not None and after is not None and before[0] == after[0]
        if same and self._before.authorities == self._after.authorities:
            own_after = own_before
        else:
            own_after = self._own(self._after, True, held, key, subject)
        if not (self._kept or self._only_before or self._only_after):
            return _finding(own_before, before, NOTHING_SAID), _finding(own_after, after, NOTHING_SAID)
        facts = self._facts(held, key, history, subject)
        kept = NOTHING_SAID
        # Rules may look at the profile's version and authority: where those differ, both are asked.
        shared = before == after and self._kept
        if shared and before is not None:
            kept = self._kept.judge(_moment(facts, before, held))
        said = []
        for terms, only in ((before, self._only_before), (after, self._only_after)):
            judgement = kept
            if terms is not None:
                if self._kept and not shared:
                    judgement = self._kept.judge(_moment(facts, terms, held))
                if only:
                    judgement = _both(judgement, only.judge(_moment(facts, terms, held)))
            said.append(judgement)
        return _finding(own_before, before, said[0]), _finding(own_after, after, said[1])

    def _own(
        self, terms: Terms, later: bool, held: Held, key: PublicKeyFacts, subject: Name | None
    ) -> tuple[Reason, ...]:
        """What the profile and the authority have against it."""
        found = terms.profiles.get(held.profile)
        if found is None:
            return (Reason("profile-gone", f"there is no profile {held.profile}"),)
        profile = found[0]
        standing = (later, held.profile, held.profile_version, held.key_type, held.authority)
        reasons = self._standing.get(standing)
        if reasons is None:
            reasons = self._standing[standing] = self._stand(terms, profile, held, key)
        more = objections(profile, key, held.names, subject)
        lifetime = held.not_after - held.not_before + 1
        longest = profile.validity.max or profile.validity.default
        if lifetime > longest:
            more.append(Reason("validity-too-long", f"{lifetime} seconds, of at most {longest} allowed"))
        end = terms.authorities.get(profile.authority)
        if end is not None and held.not_after > end:
            more.append(Reason("validity-too-long", "the authority's own certificate ends earlier"))
        return (*reasons, *more) if more else reasons

    def _stand(self, terms: Terms, profile: Profile, held: Held, key: PublicKeyFacts) -> tuple[Reason, ...]:
        reasons = []
        if profile.authority not in terms.authorities:
            reasons.append(Reason("authority-gone", f"there is no authority {profile.authority}"))
        elif held.authority != profile.authority:
            reasons.append(
                Reason("other-authority", f"it is from {held.authority}, not from {profile.authority}")
            )
        made_from = self._versions.get((held.profile, held.profile_version))
        if made_from is not None and made_from != profile:
            different = [
                what
                for what, was, now in (
                    ("key usage", key_usage_for(made_from, key), key_usage_for(profile, key)),
                    (
                        "extended key usage",
                        set(made_from.extended_key_usage),
                        set(profile.extended_key_usage),
                    ),
                    ("extensions", set(made_from.extensions), set(profile.extensions)),
                )
                if was != now
            ]
            if different and key_usage_for(profile, key):
                told = f"the profile gives another {' and another '.join(different)} now"
                reasons.append(Reason("contents-differ", told))
        return tuple(reasons)

    def _facts(
        self,
        held: Held,
        key: PublicKeyFacts,
        history: tuple[NameHistory, ...] | None,
        subject: Name | None,
    ) -> Facts:
        kind, _, id = held.requester.partition(":")
        protocol, _, channel = held.channel.partition("/")
        return Facts(
            now=self._now,
            protocol=protocol,
            channel=channel,
            requester=Requester(kind, id, held.owner or None, held.team or None),
            key=key,
            key_is_blocked=False,
            identifiers=held.names,
            csr_subject=Name() if subject is None else subject,
            history=history,
        )


def differ(before: Finding, after: Finding) -> bool:
    """Whether a plan has to tell of it."""
    return before != after


def _key(key_type: str) -> PublicKeyFacts:
    try:
        return key_of_type(key_type)
    except ValueError:
        return _NO_KEY


def _moment(facts: Facts, profile: tuple[Profile, int], held: Held) -> Moment:
    return Moment(facts, profile[0], profile[1], held.names, held.not_before, held.not_after)


def _both(one: Judgement, other: Judgement) -> Judgement:
    return Judgement(
        one.refusals + other.refusals,
        one.questions + other.questions,
        one.terms + other.terms,
        one.warnings + other.warnings,
        one.verdicts + other.verdicts,
    )


def _finding(own: tuple[Reason, ...], profile: tuple[Profile, int] | None, said: Judgement) -> Finding:
    if own or said.refusals:
        return Finding("refused", own + said.refusals)
    questions = said.questions
    if profile is not None and (terms := profile[0].approval.terms()) is not None:
        count = sum(stage.approvers for stage in terms.stages)
        questions = (Reason("approval-needed", f"{count} must agree"), *questions)
    return Finding("ask", questions) if questions else _COMPLIANT
