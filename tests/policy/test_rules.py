"""Rules: what they say together, and how that stands beside the profile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from certloom.pki.keys import PublicKeyFacts
from certloom.policy.decide import decide
from certloom.policy.decisions import Decision, NameHistory, Outcome, Requester, Stage
from certloom.policy.explain import explain
from certloom.policy.rules import Rule, RuleError, Ruleset, encode_rule, parse_rule, stored_rule
from tests.policy.asks import EC, RSA, dns, facts, profile

NO_SHORT_RSA = {
    "name": "no-short-rsa",
    "when": 'request.key.type == "rsa" && request.key.bits < 3072'
    ' && request.dns.exists(n, under(n, "prod.example.com"))',
    "effect": "refuse",
    "message": "names under prod.example.com need RSA keys of at least 3072 bits",
}
OTHER_TEAM = {
    "name": "other-team",
    "when": 'inventory.exists(h, h.last_team != "" && h.last_team != requester.team)',
    "effect": "ask",
    "message": "another team had a certificate for this name last",
}


def rule(**changes: Any) -> Rule:
    return parse_rule({"name": "a", "when": "true", "effect": "refuse", "message": "no", **changes})


def said(*rules: Rule, told: Any = None, **sections: Any) -> Decision:
    ruleset = Ruleset((rule, 3) for rule in rules)
    return decide(profile(**sections), 1, told or facts(), ruleset)


@pytest.mark.parametrize(
    ("name", "key", "outcome"),
    [
        ("www.prod.example.com", RSA, Outcome.REFUSE),
        ("www.prod.example.com", EC, Outcome.ISSUE),
        ("www.prod.example.com", PublicKeyFacts(b"", b"", "rsa", 3072), Outcome.ISSUE),
        ("www.example.com", RSA, Outcome.ISSUE),
        ("wwwprod.example.com", RSA, Outcome.ISSUE),
    ],
)
def test_no_short_rsa_for_names_under_a_domain(name: str, key: PublicKeyFacts, outcome: Outcome) -> None:
    decision = said(parse_rule(NO_SHORT_RSA), told=facts(*dns(name), key=key))
    assert decision.outcome is outcome
    if outcome is Outcome.REFUSE:
        (reason,) = decision.reasons
        assert (reason.code, reason.rule) == ("rule-refuses", "no-short-rsa@3")
        assert reason.message == NO_SHORT_RSA["message"]


@pytest.mark.parametrize(
    ("last", "team", "outcome"),
    [
        ("web", "web", Outcome.ISSUE),
        ("db", "web", Outcome.ASK),
        ("db", None, Outcome.ASK),
        (None, "web", Outcome.ISSUE),
    ],
)
def test_a_person_must_look_when_a_name_was_last_issued_to_another_team(
    last: str | None, team: str | None, outcome: Outcome
) -> None:
    (name,) = dns("www.example.com")
    told = facts(
        name,
        requester=Requester("token", "1", None, team),
        history=(NameHistory(name, 1, last_team=last, last_issued=1),),
    )
    ruleset = Ruleset([(parse_rule(OTHER_TEAM), 1)])
    assert ruleset.needs_history
    decision = decide(profile(), 1, told, ruleset)
    assert decision.outcome is outcome
    if outcome is Outcome.ASK:
        assert decision.approval is not None
        assert decision.approval.stages == (Stage(),)
        assert [r.rule for r in decision.reasons] == ["other-team@1"]


def test_a_refusal_beats_a_question_and_that_beats_consent() -> None:
    asks, refuses, warns = rule(name="asks", effect="ask"), rule(name="no"), rule(name="w", effect="warn")
    assert said(warns).outcome is Outcome.ISSUE
    assert [w.rule for w in said(warns).warnings] == ["w@3"]
    assert said(warns, asks).outcome is Outcome.ASK
    everything = said(asks, refuses, warns)
    assert everything.outcome is Outcome.REFUSE
    assert [v.rule for v in everything.verdicts] == ["asks@3", "no@3", "w@3"]
    assert [r.code for r in everything.reasons] == ["rule-refuses"]


def test_what_the_profile_refuses_is_told_beside_what_rules_refuse() -> None:
    decision = said(rule(), told=facts(*dns("*.example.com")))
    assert [r.code for r in decision.reasons] == ["wildcard-not-allowed", "rule-refuses"]
    explained = explain(decision, "web", 1)
    assert explained.decided_by == ("profile web@1", "rule a@3")


def test_all_stages_are_demanded_and_a_role_is_asked_once() -> None:
    decision = said(
        rule(
            name="one",
            effect="ask",
            stages=[{"role": "security", "approvers": 2}, {"role": "approver", "approvers": 3}],
            wait="1d",
            good_for="1h",
        ),
        rule(name="two", effect="ask", stages=[{"role": "approver"}], wait="2d"),
        approval={"approvers": 1, "wait": "1h", "may_change": ["validity"]},
    )
    terms = decision.approval
    assert terms is not None
    assert terms.stages == (Stage(approvers=3), Stage(role="security", approvers=2))
    assert (terms.wait, terms.good_for, terms.may_change) == (2 * 86400, 3600, ("validity",))
    assert [r.code for r in decision.reasons] == ["approval-needed", "rule-asks", "rule-asks"]


def test_agreement_answers_questions_but_not_refusals() -> None:
    asks = rule(effect="ask")
    assert said(asks, told=facts(approved=True)).outcome is Outcome.ISSUE
    assert said(asks, rule(name="b"), told=facts(approved=True)).outcome is Outcome.REFUSE


def test_what_cannot_be_evaluated_counts_as_matched_and_says_why() -> None:
    decision = said(rule(when="request.dns[7] == 'x'"))
    assert decision.outcome is Outcome.REFUSE
    assert decision.verdicts[0].matched
    assert decision.verdicts[0].error
    unlooked = said(parse_rule(OTHER_TEAM))
    assert unlooked.outcome is Outcome.ASK
    assert "not looked up" in str(unlooked.verdicts[0].error)


def test_a_rule_of_another_age_that_is_not_taken_any_more_stands_in_the_way() -> None:
    old = msgspec.structs.replace(rule(), when="request.gone == 1")
    decision = said(stored_rule(encode_rule(old)))
    assert decision.outcome is Outcome.REFUSE
    assert "there is no field 'gone'" in str(decision.verdicts[0].error)


def test_rules_may_be_about_some_profiles_or_not_enabled() -> None:
    assert said(rule(profiles=["other"])).outcome is Outcome.ISSUE
    assert said(rule(profiles=["other", "web"])).outcome is Outcome.REFUSE
    assert said(rule(enabled=False)).outcome is Outcome.ISSUE
    assert not Ruleset([(rule(enabled=False), 1)])


def test_before_there_is_a_key_only_rules_that_need_none_are_asked() -> None:
    unknown = facts(*dns("a.prod.example.com"), key=PublicKeyFacts(b"", b"", "", 0))
    decision = said(parse_rule(NO_SHORT_RSA), parse_rule(OTHER_TEAM), rule(name="z"), told=unknown)
    assert [v.rule for v in decision.verdicts] == ["z@3"]


def test_conditions_see_the_lifetime_that_is_granted() -> None:
    long = rule(when="request.lifetime > 30 * 86400")
    assert said(long).outcome is Outcome.REFUSE
    assert said(long, validity={"default": "30d"}).outcome is Outcome.ISSUE


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"when": "request.foo"}, "$.when"),
        ({"effect": "explode"}, "$.effect"),
        ({"stages": [{"role": "approver"}]}, "$.stages"),
        ({"wait": "soon"}, "$.wait"),
        ({"name": "A B"}, "$.name"),
        ({"message": ""}, "$.message"),
        ({"profiles": ["a", "a"]}, "$.profiles"),
        ({"what": 1}, "$"),
    ],
)
def test_what_is_no_rule_is_refused_with_its_place(changes: dict[str, Any], path: str) -> None:
    with pytest.raises(RuleError) as refused:
        rule(**changes)
    assert refused.value.path == path


def test_a_rule_is_kept_with_every_default() -> None:
    made = rule(effect="ask")
    assert stored_rule(encode_rule(made)) == made
    assert parse_rule(encode_rule(made)) == made
