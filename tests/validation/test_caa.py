from __future__ import annotations

import pytest

from certloom.outbound.resolver import Resolver
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.validation import CAAChecker, ValidationFailed
from tests.dns_server import Behaviour, DNSServer, serve_dns
from tests.outbound.conftest import Run

OURS = ("ca.example", "ca.example.net")


def check(
    run: Run, dns: DNSServer, name: str, *, dnssec: bool = False, account_url: str = "", method: str = ""
) -> str:
    """The code of the refusal, or an empty string."""
    checker = CAAChecker(Resolver([dns.address], dnssec=dnssec, timeout_seconds=0.4))
    identifier = Identifier(IdentifierType.DNS, name)
    try:
        run(checker.check(identifier, issuer_domains=OURS, account_url=account_url, method=method))
    except ValidationFailed as failed:
        assert all(" " <= c <= "~" for c in failed.detail)  # noqa: PT017 - a check of the detail on the way
        return failed.code
    return ""


def caa(*records: str, at: str = "site.example") -> dict[tuple[str, str], list[str]]:
    return {(at, "CAA"): list(records), ("a.b.c.site.example", "A"): ["192.0.2.1"]}


@pytest.mark.parametrize(
    ("records", "name", "code"),
    [
        ((), "site.example", ""),
        (('0 issue "ca.example"',), "site.example", ""),
        (('0 issue " CA.Example ; x=y"',), "site.example", ""),
        (('0 issue "other.example"', '0 issue "ca.example.net"'), "site.example", ""),
        (('0 issue "other.example"',), "site.example", "caa"),
        (('0 issue ";"',), "site.example", "caa"),
        (('0 issue ""',), "site.example", "caa"),
        (('0 issue "%%%%"',), "site.example", "caa"),
        (('0 issue "ca.example; broken"',), "site.example", "caa"),
        (('0 ISSUE "other.example"',), "site.example", "caa"),
        (('0 iodef "mailto:x@site.example"',), "site.example", ""),
        (('128 iodef "mailto:x@site.example"',), "site.example", ""),
        (('0 future "x"',), "site.example", ""),
        (('128 future "x"',), "site.example", "caa"),
        (('128 future "x"', '0 issue "ca.example"'), "site.example", "caa"),
        (('1 future "x"',), "site.example", ""),
        (('0 issuewild ";"',), "site.example", ""),
        (('0 issuewild ";"',), "*.site.example", "caa"),
        (('0 issue ";"', '0 issuewild "ca.example"'), "*.site.example", ""),
        (('0 issue ";"', '0 issuewild "ca.example"'), "site.example", "caa"),
        (('0 issue "ca.example"', '0 issuewild "other.example"'), "*.site.example", "caa"),
        (('0 issue "ca.example"',), "*.site.example", ""),
        (('0 issue "other.example"',), "*.site.example", "caa"),
        (('0 issue "other.example"',), "a.b.c.site.example", "caa"),
        (('0 issue "other.example"',), "*.b.c.site.example", "caa"),
    ],
)
def test_the_records_decide(run: Run, records: tuple[str, ...], name: str, code: str) -> None:
    with serve_dns(caa(*records) if records else {("site.example", "A"): ["192.0.2.1"]}) as dns:
        assert check(run, dns, name) == code


def test_the_closest_records_decide(run: Run) -> None:
    records = {
        ("example", "CAA"): ['0 issue ";"'],
        ("site.example", "CAA"): ['0 issue "ca.example"'],
        ("c.site.example", "CAA"): ['0 issue "other.example"'],
    }
    with serve_dns(records) as dns:
        assert check(run, dns, "site.example") == ""
        assert check(run, dns, "b.site.example") == ""
        assert check(run, dns, "b.c.site.example") == "caa"
        assert check(run, dns, "other.example") == "caa"


def test_all_levels_up_to_the_top_are_asked(run: Run) -> None:
    with serve_dns({}) as dns:
        assert check(run, dns, "a.b.c.d.e.f.g.h.i.example") == ""
        assert sorted({name for name, _, _ in dns.asked}, key=len) == sorted(
            ["a.b.c.d.e.f.g.h.i.example"[2 * i :] for i in range(10)], key=len
        )


def test_a_cname_is_followed_but_the_climb_goes_on_from_the_name_itself(run: Run) -> None:
    records = {
        ("www.site.example", "CNAME"): ["host.elsewhere.test"],
        ("elsewhere.test", "CAA"): ['0 issue ";"'],
        ("site.example", "CAA"): ['0 issue "ca.example"'],
        ("aliased.site.example", "CNAME"): ["elsewhere.test"],
    }
    with serve_dns(records) as dns:
        assert check(run, dns, "www.site.example") == ""
        assert check(run, dns, "aliased.site.example") == "caa"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("ca.example; accounturi=https://ca.example/acct/1", ""),
        ("ca.example; accounturi=https://ca.example/acct/2", "caa"),
        ("ca.example; AccountURI=https://ca.example/acct/2", "caa"),
        ("ca.example; accounturi=https://CA.example/acct/1", "caa"),
        ("ca.example; accounturi=", "caa"),
        ("ca.example; accounturi=https://ca.example/acct/1; accounturi=https://ca.example/acct/1", "caa"),
        ("ca.example; validationmethods=dns-01", ""),
        ("ca.example; validationmethods=http-01,dns-01,ca-special", ""),
        ("ca.example; validationmethods=http-01", "caa"),
        ("ca.example; validationmethods=", "caa"),
        ("ca.example; validationmethods=dns-01,", "caa"),
        ("ca.example; validationmethods=dns-01; validationmethods=dns-01", "caa"),
        ("ca.example; validationmethods=dns-01; accounturi=https://ca.example/acct/2", "caa"),
    ],
)
def test_the_parameters_of_rfc_8657_restrict_the_property_they_stand_in(
    run: Run, value: str, code: str
) -> None:
    url = "https://ca.example/acct/1"
    quoted = '"' + value.replace(";", "\\;") + '"'
    with serve_dns(caa(f"0 issue {quoted}")) as dns:
        assert check(run, dns, "site.example", account_url=url, method="dns-01") == code
    with serve_dns(caa(f"0 issue {quoted}", '0 issue "ca.example.net"')) as dns:
        assert check(run, dns, "site.example", account_url=url, method="dns-01") == ""


def test_a_restriction_cannot_be_met_by_knowing_nothing(run: Run) -> None:
    with serve_dns(caa('0 issue "ca.example\\; accounturi=x"')) as dns:
        assert check(run, dns, "site.example") == "caa"
    with serve_dns(caa('0 issue "ca.example\\; validationmethods=dns-01"')) as dns:
        assert check(run, dns, "site.example") == "caa"


def test_a_lookup_that_fails_is_no_permission(run: Run) -> None:
    with serve_dns({("site.example", "A"): ["192.0.2.1"]}) as dns:
        failures: tuple[Behaviour, ...] = ("servfail", "refused", "garbage", "silent")
        for behaviour in failures:
            dns.behaviour["site.example"] = behaviour
            assert check(run, dns, "www.site.example") == "dns"
        dns.behaviour = {"example": "servfail"}
        assert check(run, dns, "site.example") == "dns"


def test_a_failure_above_the_deciding_records_does_not_matter(run: Run) -> None:
    with serve_dns(caa('0 issue "ca.example"')) as dns:
        dns.behaviour["example"] = "servfail"
        assert check(run, dns, "www.site.example") == ""


def test_with_dnssec_unproven_answers_are_no_permission(run: Run) -> None:
    with serve_dns(caa('0 issue "ca.example"')) as dns:
        assert check(run, dns, "site.example", dnssec=True) == "dns"
        dns.authentic = True
        assert check(run, dns, "site.example", dnssec=True) == ""


def test_with_dnssec_an_unproven_absence_is_no_permission_either(run: Run) -> None:
    with serve_dns({("site.example", "A"): ["192.0.2.1"]}) as dns:
        assert check(run, dns, "site.example", dnssec=True) == "dns"
        assert check(run, dns, "nothing.test", dnssec=True) == "dns"
        dns.authentic = True
        assert check(run, dns, "site.example", dnssec=True) == ""


def test_addresses_have_no_caa(run: Run) -> None:
    with serve_dns({}) as dns:
        checker = CAAChecker(Resolver([dns.address]))
        run(checker.check(Identifier(IdentifierType.IP, "192.0.2.1"), issuer_domains=OURS))
        assert dns.asked == []
