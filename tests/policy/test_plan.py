"""Plans: what one certificate would be told under other terms."""

from __future__ import annotations

from typing import Any

import pytest

from certloom.pki.identifiers import Identifier
from certloom.policy.decisions import NameHistory
from certloom.policy.plan import Finding, Held, Planner, Terms
from certloom.policy.profiles import Profile
from certloom.policy.rules import parse_rule
from tests.policy.asks import DAY, NOW, dns, profile
from tests.policy.test_rules import NO_SHORT_RSA, OTHER_TEAM, rule

END = NOW + 1000 * DAY


def terms(changed: Profile | None = None, *rules: Any, authorities: dict[str, int] | None = None) -> Terms:
    made = changed or profile()
    return Terms(
        {"web": (made, 1 if changed is None else 2)},
        tuple((rule, 1) for rule in rules),
        {"issuing": END} if authorities is None else authorities,
    )


def held(*names: Identifier, **changes: Any) -> Held:
    values: dict[str, Any] = {
        "id": 1,
        "authority": "issuing",
        "profile": "web",
        "profile_version": 1,
        "names": names or dns("www.example.com"),
        "key_type": "rsa-2048",
        "not_before": NOW,
        "not_after": NOW + 90 * DAY - 1,
        "requester": "token:1",
        "team": "web",
        "channel": "api/default",
    }
    return Held(**(values | changes))


def after(changed: Terms, certificate: Held | None = None, *, before: Terms | None = None) -> Finding:
    planner = Planner(before or terms(), changed, {("web", 1): profile()}, NOW)
    today, tomorrow = planner.compare(certificate or held(), None, None)
    assert before is not None or today.outcome == "compliant"
    return tomorrow


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"keys": [{"type": "ec"}]}, ["key-type-not-allowed"]),
        ({"keys": [{"type": "rsa", "min": 3072}]}, ["key-type-not-allowed"]),
        ({"validity": {"default": "30d"}}, ["validity-too-long"]),
        ({"names": {"dns": {"allow": ["**.example.org"]}}}, ["name-not-allowed"]),
        ({"extended_key_usage": ["clientAuth"]}, ["contents-differ"]),
        ({"authority": "other"}, ["authority-gone"]),
        ({"description": "the same"}, []),
    ],
)
def test_a_changed_profile_is_held_against_what_there_is(changes: dict[str, Any], codes: list[str]) -> None:
    finding = after(terms(profile(**changes)))
    assert [reason.code for reason in finding.reasons] == codes
    assert finding.outcome == ("refused" if codes else "compliant")


def test_people_would_be_asked() -> None:
    assert after(terms(profile(approval={"approvers": 2}))).outcome == "ask"
    assert after(terms(None, rule(effect="ask"))).outcome == "ask"
    assert after(terms(None, rule(effect="warn"))).outcome == "compliant"


def test_rules_look_at_the_certificate_as_it_is() -> None:
    strict = terms(None, parse_rule(NO_SHORT_RSA))
    assert after(strict).outcome == "compliant"
    assert after(strict, held(*dns("a.prod.example.com"))).outcome == "refused"
    assert after(strict, held(*dns("a.prod.example.com"), key_type="P-256")).outcome == "compliant"
    by_version = terms(profile(), rule(when="profile.version == 2"))
    assert after(by_version).outcome == "refused"


def test_a_rule_over_the_inventory_is_told_what_it_knows() -> None:
    planner = Planner(terms(), terms(None, parse_rule(OTHER_TEAM)), {}, NOW)
    assert planner.needs_history
    (name,) = dns("www.example.com")
    certificate = held(name)
    for team, outcome in (("web", "compliant"), ("db", "ask")):
        _, tomorrow = planner.compare(certificate, (NameHistory(name, 1, team),), None)
        assert tomorrow.outcome == outcome


def test_authorities_and_profiles_may_go() -> None:
    ends = terms(authorities={"issuing": NOW + DAY})
    assert [r.code for r in after(ends).reasons] == ["validity-too-long"]
    gone = terms(authorities={})
    assert [r.code for r in after(gone).reasons] == ["authority-gone"]
    without = Terms({}, (), {"issuing": END})
    assert [r.code for r in after(without).reasons] == ["profile-gone"]


def test_what_does_not_comply_today_is_no_news() -> None:
    strict = terms(profile(keys=[{"type": "ec"}]))
    planner = Planner(strict, terms(profile(keys=[{"type": "ec"}]), rule(effect="ask")), {}, NOW)
    today, tomorrow = planner.compare(held(), None, None)
    assert today == tomorrow
