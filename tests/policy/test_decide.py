from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certloom.pki.names import Name
from certloom.policy.decide import decide
from certloom.policy.decisions import CertificateContents, Decision, Facts, LintMode, Outcome, Stage
from certloom.policy.profiles import Profile, default_profiles
from tests.policy.asks import (
    DAY,
    EC,
    ED25519,
    ML_DSA,
    NOW,
    RSA,
    dns,
    email,
    facts,
    ip,
    key,
    profile,
    uri,
)

TLS_SERVER, TLS_CLIENT, DEVICE = default_profiles("issuing")
CN, O, C, SERIAL = "2.5.4.3", "2.5.4.10", "2.5.4.6", "2.5.4.5"  # noqa: E741 - as RFC 4514 calls it
HOUR = 3600


def issued(profile: Profile, facts: Facts) -> CertificateContents:
    decision = decide(profile, 7, facts)
    assert decision.outcome is Outcome.ISSUE, decision.reasons
    assert decision.contents is not None
    return decision.contents


def codes(profile: Profile, facts: Facts) -> list[str]:
    decision = decide(profile, 7, facts)
    assert decision.outcome is Outcome.REFUSE
    assert decision.contents is None
    return [reason.code for reason in decision.reasons]


# --- what is issued ---------------------------------------------------------------------------


def test_the_default_tls_server_certificate() -> None:
    names = (*dns("www.example.com", "*.example.com"), ip("192.0.2.1"))
    contents = issued(TLS_SERVER, facts(*names))
    assert contents == CertificateContents(
        spki=b"spki",
        subject=Name(((CN, "www.example.com"),)),
        identifiers=names,
        not_before=NOW - HOUR,
        not_after=NOW - HOUR + 90 * DAY - 1,
        key_usage=("digitalSignature",),
        extended_key_usage=("1.3.6.1.5.5.7.3.1",),
        extensions=(),
        authority="issuing",
        profile="tls-server",
        profile_version=7,
        lint=LintMode.FIRST_OF_SHAPE,
        lint_level="warning",
    )


def test_the_default_tls_client_certificate_is_named_after_its_first_name() -> None:
    contents = issued(TLS_CLIENT, facts(email("ann@example.com")))
    assert contents.subject == Name(((CN, "ann@example.com"),))
    assert contents.extended_key_usage == ("1.3.6.1.5.5.7.3.2",)
    assert "wildcard-not-allowed" in codes(TLS_CLIENT, facts(*dns("*.example.com")))


def test_the_default_device_certificate_keeps_the_identity_in_the_csr() -> None:
    subject = Name(((C, "DE"), (O, "Example"), (CN, "router-7"), (SERIAL, "A7-113")))
    contents = issued(DEVICE, facts(csr_subject=subject, identifiers=(), key=RSA))
    assert contents.subject == Name(((O, "Example"), (CN, "router-7"), (SERIAL, "A7-113")))
    assert contents.key_usage == ("digitalSignature", "keyEncipherment")
    assert codes(DEVICE, facts(identifiers=())) == ["no-names"]


@pytest.mark.parametrize(
    ("key", "usage"),
    [
        (EC, ("digitalSignature",)),
        (RSA, ("digitalSignature", "keyEncipherment")),
        (ED25519, ("digitalSignature",)),
        (ML_DSA, ("digitalSignature",)),
    ],
)
def test_automatic_key_usage_follows_the_key(key: object, usage: tuple[str, ...]) -> None:
    assert issued(TLS_SERVER, facts(key=key)).key_usage == usage


def test_an_explicit_key_usage_stands_in_bit_order() -> None:
    web = profile(keys=[{"type": "ec"}], key_usage=["keyAgreement", "digitalSignature"])
    assert issued(web, facts()).key_usage == ("digitalSignature", "keyAgreement")


def test_extra_extensions_are_in_every_certificate() -> None:
    web = profile(extensions=[{"oid": "1.3.6.1.5.5.7.1.24", "value": "3003020105"}])
    (extension,) = issued(web, facts()).extensions
    assert (extension.oid, extension.critical, extension.value) == (
        "1.3.6.1.5.5.7.1.24",
        False,
        bytes.fromhex("3003020105"),
    )


def test_a_name_given_twice_stands_in_the_certificate_once() -> None:
    assert issued(TLS_SERVER, facts(*dns("a.example", "b.example", "a.example"))).identifiers == dns(
        "a.example", "b.example"
    )


# --- keys -------------------------------------------------------------------------------------


def test_a_key_that_the_profile_has_no_rule_for_is_refused() -> None:
    web = profile(keys=[{"type": "rsa", "min": 3072}])
    assert codes(web, facts()) == ["key-type-not-allowed"]
    assert codes(web, facts(key=RSA)) == ["key-type-not-allowed"]
    assert issued(web, facts(key=key("rsa", 3072, "")))


def test_a_curve_that_the_profile_does_not_name_is_refused() -> None:
    web = profile(keys=[{"type": "ec", "curves": ["P-384"]}])
    assert codes(web, facts()) == ["key-type-not-allowed"]
    assert issued(web, facts(key=key("ec", 384, "P-384")))


def test_a_blocked_key_is_refused() -> None:
    assert codes(TLS_SERVER, facts(key_is_blocked=True)) == ["key-blocked"]


# --- names ------------------------------------------------------------------------------------


def test_each_name_outside_policy_is_named() -> None:
    web = profile(
        names={
            "types": ["dns", "ip", "uri"],
            "dns": {"allow": ["**.example.com"], "deny": ["secret.example.com"]},
            "ip": {"allow": ["10.0.0.0/8"]},
            "uri": {"schemes": ["spiffe"]},
        }
    )
    good = (*dns("a.example.com"), ip("10.0.0.1"), uri("spiffe://prod/a"))
    bad = (
        *dns("a.example.org", "secret.example.com"),
        ip("192.0.2.1"),
        uri("https://example.com/"),
    )
    decision = decide(web, 1, facts(*good, *bad, email("a@example.com")))
    assert [(reason.code, reason.identifier) for reason in decision.reasons] == [
        *(("name-not-allowed", name) for name in bad),
        ("identifier-type-not-allowed", email("a@example.com")),
    ]
    assert all(reason.identifier.value in reason.message for reason in decision.reasons if reason.identifier)


def test_a_wildcard_needs_leave_and_must_not_stand_for_a_denied_name() -> None:
    assert codes(profile(), facts(*dns("*.example.com"))) == ["wildcard-not-allowed"]
    web = profile(names={"wildcards": True, "dns": {"deny": ["secret.example.com"]}})
    assert issued(web, facts(*dns("*.example.org")))
    assert codes(web, facts(*dns("*.example.com"))) == ["name-not-allowed"]


def test_too_many_names_cost_little_and_get_one_reason() -> None:
    names = dns(*(f"h{i}.example.com" for i in range(10_000)))
    begun = time.process_time()
    assert codes(TLS_SERVER, facts(*names)) == ["too-many-names"]
    assert time.process_time() - begun < 0.1


def test_no_names_are_refused_where_one_is_required() -> None:
    assert codes(TLS_SERVER, facts(identifiers=())) == ["no-names"]


def test_every_reason_is_collected() -> None:
    web = profile(names={"types": ["dns"]}, subject=[{"type": "O", "value": "{csr.O}", "required": True}])
    asked = facts(
        *dns("*.example.com"),
        ip("192.0.2.1"),
        key=key("ed448", 0, ""),
        key_is_blocked=True,
        not_before=NOW,
        not_after=NOW + 1000 * DAY,
    )
    assert codes(web, asked) == [
        "key-type-not-allowed",
        "key-blocked",
        "wildcard-not-allowed",
        "identifier-type-not-allowed",
        "subject-not-allowed",
        "validity-too-long",
    ]


# --- subject ----------------------------------------------------------------------------------


def test_an_ip_address_never_stands_in_the_common_name() -> None:
    assert issued(TLS_SERVER, facts(ip("192.0.2.1"))).subject == Name()
    from_csr = profile(names={"types": ["ip"]}, subject=[{"type": "CN", "value": "{csr.CN}"}])
    for text in ("192.0.2.1", "2001:db8::1", "[2001:db8::1]"):
        asked = facts(ip("192.0.2.1"), csr_subject=Name(((CN, text),)))
        assert issued(from_csr, asked).subject == Name()


def test_a_name_too_long_for_the_common_name_leaves_it_to_the_next_or_out() -> None:
    long = f"{'a' * 60}.example.com"
    assert issued(TLS_SERVER, facts(*dns(long))).subject == Name()
    assert issued(TLS_SERVER, facts(*dns(long, "b.example.com"))).subject == Name(((CN, "b.example.com"),))


def test_the_csrs_common_name_must_be_a_name_of_a_tls_server_certificate() -> None:
    web = profile(subject=[{"type": "CN", "value": "{csr.CN}"}])
    for text in ("www.example.com", "WWW.Example.Com"):
        assert issued(web, facts(csr_subject=Name(((CN, text),)))).subject == Name(((CN, text),))
    assert codes(web, facts(csr_subject=Name(((CN, "bank.example"),)))) == ["subject-not-allowed"]
    client = profile(subject=[{"type": "CN", "value": "{csr.CN}"}], extended_key_usage=["clientAuth"])
    assert issued(client, facts(csr_subject=Name(((CN, "Ann"),)))).subject == Name(((CN, "Ann"),))


@pytest.mark.parametrize(
    ("attribute", "text"),
    [
        ({"type": "O", "value": "{csr.O}"}, "x" * 65),
        ({"type": "O", "value": "{csr.O}"}, "a\x00b"),
        ({"type": "O", "value": "{csr.O}"}, " a"),
        ({"type": "O", "value": "{csr.O}", "allow": ["Example*", "Beis?iel"]}, "Evil Example"),
        ({"type": "C", "value": "{csr.O}"}, "de"),
        ({"type": "serialNumber", "value": "{csr.O}"}, "ä"),
        ({"type": "DC", "value": "{csr.O}"}, "a.b"),
    ],
)
def test_text_from_a_csr_that_does_not_fit_is_refused(attribute: dict[str, object], text: str) -> None:
    web = profile(subject=[attribute])
    assert codes(web, facts(csr_subject=Name(((O, text),)))) == ["subject-not-allowed"]


def test_a_template_mixes_text_and_placeholders_in_order() -> None:
    web = profile(
        subject=[
            {"type": "C", "value": "DE"},
            {"type": "O", "value": "{csr.O} Ltd", "allow": ["Example*"]},
            {"type": "OU", "value": "{csr.OU}"},
            {"type": "CN", "value": "{first_dns}"},
        ]
    )
    asked = facts(csr_subject=Name(((CN, "ignored"), (O, "Example"), (O, "Second"))))
    assert issued(web, asked).subject == Name(((C, "DE"), (O, "Example Ltd"), (CN, "www.example.com")))


def test_what_the_template_does_not_ask_for_is_left_behind() -> None:
    asked = facts(csr_subject=Name(((O, "Evil"), (CN, "whatever"))))
    assert issued(TLS_SERVER, asked).subject == Name(((CN, "www.example.com"),))


# --- validity ---------------------------------------------------------------------------------


def test_asked_times_are_granted_exactly() -> None:
    contents = issued(TLS_SERVER, facts(not_before=NOW + DAY, not_after=NOW + 3 * DAY))
    assert (contents.not_before, contents.not_after) == (NOW + DAY, NOW + 3 * DAY)
    contents = issued(TLS_SERVER, facts(not_before=NOW + 5))
    assert (contents.not_before, contents.not_after) == (NOW + 5, NOW + 5 + 90 * DAY - 1)
    contents = issued(TLS_SERVER, facts(not_after=NOW + 7 * DAY))
    assert (contents.not_before, contents.not_after) == (NOW - HOUR, NOW + 7 * DAY)


def test_backdating_makes_room_for_the_longest_validity_that_may_be_asked() -> None:
    contents = issued(TLS_SERVER, facts(not_after=NOW + 90 * DAY - 1))
    assert (contents.not_before, contents.not_after) == (NOW, NOW + 90 * DAY - 1)
    assert codes(TLS_SERVER, facts(not_after=NOW + 90 * DAY)) == ["validity-too-long"]


@pytest.mark.parametrize(
    ("not_before", "not_after", "code"),
    [
        (None, NOW - 1, "validity-in-past"),
        (None, NOW + 30, "validity-in-past"),
        (NOW - HOUR - 1, None, "validity-in-past"),
        (NOW - HOUR, NOW + HOUR, "validity-in-past"),
        (NOW + 31 * DAY, None, "validity-too-far-ahead"),
        (NOW + DAY, NOW + DAY, "validity-empty"),
        (NOW + 2 * DAY, NOW + DAY, "validity-empty"),
        (NOW, NOW + 90 * DAY, "validity-too-long"),
    ],
)
def test_asked_times_that_cannot_be_granted_are_refused(
    not_before: int | None, not_after: int | None, code: str
) -> None:
    assert codes(TLS_SERVER, facts(not_before=not_before, not_after=not_after)) == [code]


def test_a_profile_may_keep_validity_to_itself() -> None:
    web = profile(validity={"default": "90d", "requester_may_ask": False})
    assert codes(web, facts(not_after=NOW + DAY)) == ["validity-not-allowed"]
    assert issued(web, facts()).not_before == NOW


def test_no_certificate_outlives_its_authority() -> None:
    end = NOW + 10 * DAY
    assert issued(TLS_SERVER, facts(authority_not_after=end)).not_after == end
    assert issued(TLS_SERVER, facts(authority_not_after=end, not_before=NOW)).not_after == end
    assert codes(TLS_SERVER, facts(authority_not_after=end, not_after=end + 1)) == ["validity-too-long"]
    assert codes(TLS_SERVER, facts(authority_not_after=NOW + 10)) == ["authority-expired"]


_moments = st.one_of(st.none(), st.integers(NOW - 10 * DAY, NOW + 200 * DAY))


@given(
    not_before=_moments,
    not_after=_moments,
    authority_not_after=_moments,
    default=st.integers(60, 200 * DAY),
    backdate=st.integers(0, 50 * DAY),
)
def test_validity_is_exact_bounded_and_never_mostly_over(
    not_before: int | None,
    not_after: int | None,
    authority_not_after: int | None,
    default: int,
    backdate: int,
) -> None:
    web = profile(validity={"default": default, "backdate": min(backdate, default // 4)})
    asked = facts(not_before=not_before, not_after=not_after, authority_not_after=authority_not_after)
    decision = decide(web, 1, asked)
    if decision.contents is None:
        assert decision.reasons
        return
    contents = decision.contents
    assert not_before in (None, contents.not_before)
    assert not_after in (None, contents.not_after)
    lifetime = contents.not_after - contents.not_before + 1
    assert 1 < lifetime <= default
    assert contents.not_after > NOW
    assert authority_not_after is None or contents.not_after <= authority_not_after
    assert (NOW - contents.not_before) * 4 <= lifetime


# --- approval ---------------------------------------------------------------------------------


def test_people_are_asked_where_the_profile_wants_them() -> None:
    web = profile(approval={"approvers": 2, "wait": "3d"})
    decision = decide(web, 1, facts())
    assert decision.outcome is Outcome.ASK
    assert [reason.code for reason in decision.reasons] == ["approval-needed"]
    assert decision.approval is not None
    assert (decision.approval.stages, decision.approval.wait) == ((Stage(approvers=2),), 3 * DAY)
    assert decision.contents is not None
    assert decide(web, 1, facts(approved=True)) == Decision(Outcome.ISSUE, (), decision.contents)


def test_approval_does_not_allow_what_policy_refuses() -> None:
    web = profile(approval={"approvers": 1})
    assert codes(web, facts(key_is_blocked=True, approved=True)) == ["key-blocked"]


def test_what_was_asked_is_still_granted_exactly_after_people_took_their_time() -> None:
    web = profile(approval={"approvers": 1})
    contents = issued(web, facts(not_before=NOW - 5 * DAY, not_after=NOW + DAY, approved=True))
    assert (contents.not_before, contents.not_after) == (NOW - 5 * DAY, NOW + DAY)


# --- speed ------------------------------------------------------------------------------------


def test_a_decision_costs_microseconds() -> None:
    asked = facts()
    decide(TLS_SERVER, 1, asked)
    best = min(_seconds(asked) for _ in range(5))
    assert best / 1000 < 25e-6


def _seconds(asked: Facts) -> float:
    begun = time.process_time()
    for _ in range(1000):
        decide(TLS_SERVER, 1, asked)
    return time.process_time() - begun
