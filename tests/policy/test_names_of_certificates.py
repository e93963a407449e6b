"""Names and subjects that are made of what stands in the requester's certificate."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from certloom.pki.identifiers import Identifier, parse_dns
from certloom.pki.names import Name, format_name, parse_name
from certloom.policy.decide import decide, names_to_issue, objections
from certloom.policy.decisions import Facts, Outcome, Requester, ShownCertificate
from certloom.policy.profiles import Profile, ProfileError, parse_profile
from certloom.policy.rules import Ruleset, parse_rule
from tests.policy.asks import facts

SHOWN = ShownCertificate(
    parse_name("CN=Sensor,serialNumber=SN-7"), (parse_dns("s7.acme.example"),), "CN=Acme", "acme"
)


def profile(**names: Any) -> Profile:
    return parse_profile(
        {
            "name": "device",
            "authority": "issuing",
            "keys": [{"type": "ec"}],
            "subject": [{"type": "CN", "value": "{cert.serialNumber}"}, {"type": "OU", "value": "{cert.OU}"}],
            "names": {"types": ["dns", "uri"], "required": False, **names},
            "extended_key_usage": ["clientAuth"],
            "validity": {"default": "30d"},
        }
    )


def told(*dns: str, shown: ShownCertificate | None = SHOWN, renewal: bool = False) -> Facts:
    return msgspec.structs.replace(
        facts(),
        identifiers=tuple(map(parse_dns, dns)),
        csr_subject=Name(),
        certificate=shown,
        renewal=renewal,
        requester=Requester("certificate", "00" * 32),
    )


def names_of(profile: Profile, facts: Facts) -> list[str]:
    decision = decide(profile, 1, facts)
    assert decision.contents is not None, decision.reasons
    return [str(i) for i in decision.contents.identifiers]


def test_names_are_made_of_the_subject_and_of_names() -> None:
    made = profile(
        from_certificate=[
            "dns:{cert.serialNumber}.devices.example",
            "uri:urn:device:{cert.CN}",
            "dns:{cert.dns}",
            "dns:{cert.OU}.devices.example",
        ]
    )
    assert names_of(made, told()) == [
        "dns:sn-7.devices.example",
        "uri:urn:device:Sensor",
        "dns:s7.acme.example",
    ]
    decision = decide(made, 1, told())
    assert decision.contents is not None
    assert format_name(decision.contents.subject) == "CN=SN-7"


def test_who_shows_no_certificate_is_given_none() -> None:
    made = profile(from_certificate=["dns:{cert.serialNumber}.devices.example"])
    assert names_of(made, told("a.example", shown=None)) == ["dns:a.example"]


def test_others_may_be_asked_for_unless_the_profile_says_no() -> None:
    template = ["dns:{cert.serialNumber}.devices.example"]
    free = profile(from_certificate=template)
    assert names_of(free, told("a.example")) == ["dns:sn-7.devices.example", "dns:a.example"]
    # Asked for, and made: once.
    assert names_of(free, told("sn-7.devices.example")) == ["dns:sn-7.devices.example"]
    strict = profile(from_certificate=template, asked=False)
    assert decide(strict, 1, told("a.example")).outcome is Outcome.REFUSE
    assert names_of(strict, told("sn-7.devices.example")) == ["dns:sn-7.devices.example"]
    allowed = profile(from_certificate=template, dns={"allow": ["*.plant.example"]})
    assert names_of(allowed, told("b.plant.example"))[0] == "dns:sn-7.devices.example"
    assert decide(allowed, 1, told("b.office.example")).outcome is Outcome.REFUSE


@pytest.mark.parametrize("serial", ["*", "a b", "a..b", "-a", "ä", "x" * 64, "a/b", ".", "a\u0000b"])
def test_what_makes_no_name_is_refused(serial: str) -> None:
    made = profile(from_certificate=["dns:{cert.serialNumber}.devices.example"])
    shown = ShownCertificate(Name((("2.5.4.5", serial),)))
    decision = decide(made, 1, told(shown=shown))
    assert decision.outcome is Outcome.REFUSE
    assert decision.reasons[0].code in ("name-not-allowed", "subject-not-allowed")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("dns:fixed.example", "nothing of a certificate"),
        ("{cert.CN}", "does not begin with"),
        ("dns:{csr.CN}.example", "is not a placeholder here"),
        ("dns:{cert.XX}.example", "is not a placeholder here"),
        ("dns:{cert.CN.example", "brace without its partner"),
        ("ip:{cert.CN}", "are not allowed here"),
    ],
)
def test_templates_that_cannot_work_are_refused(text: str, complaint: str) -> None:
    with pytest.raises(ProfileError, match=complaint) as error:
        profile(from_certificate=[text])
    assert error.value.path == "$.names.from_certificate[0]"


def test_the_inventory_is_asked_about_what_will_be_issued() -> None:
    made = profile(from_certificate=["dns:{cert.serialNumber}.devices.example"])
    asked: tuple[Identifier, ...] = (parse_dns("a.example"),)
    assert [i.value for i in names_to_issue(made, asked, SHOWN)] == ["sn-7.devices.example", "a.example"]
    assert names_to_issue(made, asked, None) == asked


def test_plans_take_a_name_that_may_have_been_made() -> None:
    strict = profile(from_certificate=["dns:{cert.serialNumber}.devices.example"], asked=False)
    key = facts().key
    assert objections(strict, key, (parse_dns("sn-9.devices.example"),), None) == []
    assert objections(strict, key, (parse_dns("sn-9.others.example"),), None)


def test_rules_look_at_the_certificate_and_know_a_renewal() -> None:
    rule = parse_rule(
        {
            "name": "acme-only",
            "effect": "refuse",
            "when": 'requester.certificate.anchors != "acme" || requester.certificate.subject.CN != "Sensor"'
            " || request.renewal",
            "message": "only Acme's sensors",
        }
    )
    rules = Ruleset(((rule, 1),))
    made = profile()
    assert decide(made, 1, told(), rules).outcome is Outcome.ISSUE
    assert decide(made, 1, told(renewal=True), rules).outcome is Outcome.REFUSE
    assert decide(made, 1, told(shown=None), rules).outcome is Outcome.REFUSE


def test_people_need_not_agree_to_renewals() -> None:
    asked = msgspec.structs.replace(
        profile(), approval=msgspec.structs.replace(profile().approval, approvers=1)
    )
    assert decide(asked, 1, told()).outcome is Outcome.ASK
    assert decide(asked, 1, told(renewal=True)).outcome is Outcome.ASK
    quiet = msgspec.structs.replace(asked, approval=msgspec.structs.replace(asked.approval, renewals=False))
    assert decide(quiet, 1, told()).outcome is Outcome.ASK
    assert decide(quiet, 1, told(renewal=True)).outcome is Outcome.ISSUE
