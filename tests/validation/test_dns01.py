from __future__ import annotations

import base64
import hashlib

import pytest

from certloom.validation.dns_account01 import account_label
from tests.outbound.conftest import Run
from tests.validation.lab import KEY_AUTHORIZATION, lab, proof

DIGEST = base64.urlsafe_b64encode(hashlib.sha256(KEY_AUTHORIZATION.encode()).digest()).decode().rstrip("=")
NAME = "_acme-challenge.site.example"
DNS = proof("dns-01", "site.example")


def test_the_digest_in_a_txt_record_proves_control(run: Run) -> None:
    with lab(run, {(NAME, "TXT"): [DIGEST]}) as here:
        (record,) = here.validate(DNS).records
        assert record.hostname == NAME


def test_one_of_many_records_is_enough_in_several_strings_and_behind_a_cname(run: Run) -> None:
    records = {
        (NAME, "CNAME"): ["proofs.elsewhere.example"],
        ("proofs.elsewhere.example", "TXT"): ["old", f'"{DIGEST[:10]}" "{DIGEST[10:]}"', '"v=spf1 -all"'],
    }
    with lab(run, records) as here:
        here.validate(DNS)


def test_a_wildcard_is_proved_at_its_base_name(run: Run) -> None:
    with lab(run, {(NAME, "TXT"): [DIGEST]}) as here:
        here.validate(proof("dns-01", "*.site.example"))
        here.validate(proof("dns-01", "site.example", wildcard=True))


@pytest.mark.parametrize("value", [DIGEST + "=", DIGEST[:-1], DIGEST.swapcase(), f'"{DIGEST} "', '""'])
def test_nearly_right_is_wrong(run: Run, value: str) -> None:
    with lab(run, {(NAME, "TXT"): [value]}) as here:
        failed = here.failure(DNS)
    assert (failed.code, failed.retryable) == ("incorrectResponse", True)
    assert DIGEST in failed.detail


def test_what_was_found_is_shown_in_part(run: Run) -> None:
    with lab(run, {(NAME, "TXT"): ['"\\007bell' + "x" * 200 + '"']}) as here:
        failed = here.failure(DNS)
    assert '"?bell' in failed.detail
    assert "x" * 65 not in failed.detail


def test_no_record_and_no_name_are_dns_errors_worth_retrying(run: Run) -> None:
    with lab(run, {(NAME, "A"): ["192.0.2.1"]}) as here:
        failed = here.failure(DNS)
        assert (failed.code, failed.retryable) == ("dns", True)
        assert failed.detail == f"looking up TXT of {NAME}: the name has no TXT record"
        assert "NXDOMAIN" in here.failure(proof("dns-01", "other.example")).detail
        here.dns.behaviour["*"] = "servfail"
        assert "SERVFAIL" in here.failure(DNS).detail


def test_a_retry_sees_a_record_that_has_just_been_added(run: Run) -> None:
    with lab(run, {(NAME, "TXT"): ["old"]}) as here:
        here.failure(DNS)
        here.dns.records[NAME, "TXT"].append(DIGEST)
        here.validate(DNS)


@pytest.mark.parametrize("kind", ["dns-01", "dns-account-01", "dns-persist-01"])
def test_an_address_cannot_be_proved_by_dns(run: Run, kind: str) -> None:
    with lab(run, {}) as here:
        assert here.failure(proof(kind, "192.0.2.1")).code == "malformed"
        assert here.dns.asked == []


def test_an_unknown_type_is_malformed(run: Run) -> None:
    with lab(run, {}) as here:
        assert here.failure(proof("dns-99", "site.example")).code == "malformed"


def test_the_account_label_is_the_drafts() -> None:
    assert account_label("https://example.com/acme/acct/ExampleAccount") == "_ujmmovf2vn55tgye"


def test_dns_account_01_looks_under_the_accounts_label_only(run: Run) -> None:
    url = "https://example.com/acme/acct/ExampleAccount"
    name = f"_ujmmovf2vn55tgye.{NAME}"
    with lab(run, {(name, "TXT"): [DIGEST]}) as here:
        here.validate(proof("dns-account-01", "site.example", account_url=url))
        here.validate(proof("dns-account-01", "*.site.example", account_url=url))
        assert here.failure(proof("dns-account-01", "site.example", account_url=url + "/")).code == "dns"
        assert here.failure(proof("dns-account-01", "site.example", account_url="")).code == "malformed"
        assert {name for name, _, _ in here.dns.asked} >= {name}
