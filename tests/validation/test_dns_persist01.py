from __future__ import annotations

import pytest

from certloom.validation.dns_persist01 import hashed_account_uri
from tests.outbound.conftest import Run
from tests.validation.lab import ACCOUNT_URL, THUMBPRINT, lab, proof

PREFIX = "https://ca.example/account-hash/"
NAME = "_validation-persist.example.com"
URI = PREFIX + "sha-256/5SQm7n6tPh2-PlLbCKGnViTXX5z19SCN4cPGQHSk-kw"
ANY_DOMAIN = PREFIX + "sha-256/NpDnSwUthQK8zCgFdefYxAdAVPnygMLbs9US6oO-5ug"
NOW = 1_800_000_000  # where the lab's clock stands

MORE = {"issuer_domains": ("authority.example", "ca.example.net"), "account_hash_prefix": PREFIX}
PERSIST = proof("dns-persist-01", "example.com", **MORE)
WILDCARD = proof("dns-persist-01", "*.example.com", **MORE)


def txt(*values: str) -> dict[tuple[str, str], list[str]]:
    """TXT records, each cut into strings in the middle."""
    return {(NAME, "TXT"): [f'"{v[: len(v) // 2]}" "{v[len(v) // 2 :]}"' for v in values]}


def test_the_hashed_uri_is_the_drafts() -> None:
    assert hashed_account_uri(PREFIX, "example.com", THUMBPRINT, ACCOUNT_URL) == URI
    assert hashed_account_uri(PREFIX, "*", THUMBPRINT, ACCOUNT_URL) == ANY_DOMAIN


@pytest.mark.parametrize(
    "record",
    [
        f"authority.example; accounturi={URI}",
        f"CA.example.NET ;accounturi = {URI};future=thing",
        f"authority.example; accounturi={ANY_DOMAIN}",
        f"authority.example; accounturi={URI}; policy=whatever",
        f"authority.example; policy=wildcard; accounturi={URI}",
    ],
)
def test_a_record_for_issuer_and_account_proves_control(run: Run, record: str) -> None:
    with lab(run, txt(record)) as here:
        assert here.validate(PERSIST).valid_until is None


def test_a_record_made_with_an_earlier_key_still_counts(run: Run) -> None:
    more = {**MORE, "key_thumbprints": ("A" * 43, THUMBPRINT), "key_authorization": ""}
    with lab(run, txt(f"authority.example; accounturi={URI}")) as here:
        here.validate(proof("dns-persist-01", "example.com", **more))
        more["key_thumbprints"] = ("A" * 43,)
        assert here.failure(proof("dns-persist-01", "example.com", **more)).code == "unauthorized"


@pytest.mark.parametrize("policy", ["wildcard", "WildCard"])
def test_a_wildcard_needs_the_policy(run: Run, policy: str) -> None:
    with lab(run, txt(f"authority.example; accounturi={URI}; policy={policy}")) as here:
        here.validate(WILDCARD)
    with lab(run, txt(f"authority.example; accounturi={URI}; policy=wild")) as here:
        assert here.failure(WILDCARD).code == "unauthorized"
    with lab(run, txt(f"authority.example; accounturi={URI}")) as here:
        assert here.failure(WILDCARD).code == "unauthorized"


def test_persist_until_bounds_the_proof(run: Run) -> None:
    with lab(run, txt(f"authority.example; accounturi={URI}; persistUntil={NOW + 5}")) as here:
        assert here.validate(PERSIST).valid_until == NOW + 5
        here.clock.advance(6)
        failed = here.failure(PERSIST)
        assert (failed.code, failed.retryable) == ("unauthorized", False)
        assert "persistUntil has passed" in failed.detail


def test_of_several_records_the_longest_lasting_counts(run: Run) -> None:
    records = [
        f"authority.example; accounturi={URI}; persistUntil={NOW + 5}",
        f"ca.example.net; accounturi={URI}; persistUntil={NOW + 50}",
        "authority.example; accounturi=broken",
        "someone.else; accounturi=x; accounturi=x",
        "v=spf1 -all",
    ]
    with lab(run, txt(*records)) as here:
        assert here.validate(PERSIST).valid_until == NOW + 50


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ("authority.example", "malformed"),
        (f"authority.example accounturi={URI}", "unauthorized"),
        (f"authority.example; accounturi={URI}; accounturi={URI}", "malformed"),
        (f"authority.example; accounturi={URI}; future=1; Future=2", "malformed"),
        (f"authority.example; accounturi={URI}; persistUntil=tomorrow", "malformed"),
        (f"authority.example; accounturi={URI}; persistUntil=", "malformed"),
        (f"authority.example; accounturi={URI}; persistUntil=0x7fffffff", "malformed"),
        (f"authority.example; accounturi={URI}; persistUntil=-1", "unauthorized"),
        (f"authority.example; accounturi={URI}; nonsense", "malformed"),
        (f"authority.example; accounturi={ACCOUNT_URL}", "malformed"),
        (f"authority.example; accounturi={URI[:-1]}", "malformed"),
        (f"authority.example; accounturi={URI}=", "malformed"),
        (f"authority.example; accounturi={URI.replace('sha-256', 'sha-512')}", "malformed"),
        (f"authority.example; accounturi={URI[:-1]}A", "unauthorized"),
        (f"authority.example; accounturi={URI.replace('https', 'HTTPS')}", "malformed"),
        (f"other.example; accounturi={URI}", "unauthorized"),
        (f"; accounturi={URI}", "unauthorized"),
        ("", "unauthorized"),
    ],
)
def test_what_is_wrong_with_a_record_is_told_apart(run: Run, record: str, code: str) -> None:
    with lab(run, txt(record)) as here:
        assert here.failure(PERSIST).code == code


def test_an_absurd_time_is_no_bound(run: Run) -> None:
    with lab(run, txt(f"authority.example; accounturi={URI}; persistUntil={'9' * 20}")) as here:
        assert here.validate(PERSIST).valid_until is None


def test_a_record_for_another_domain_does_not_count(run: Run) -> None:
    uri = hashed_account_uri(PREFIX, "example.net", THUMBPRINT, ACCOUNT_URL)
    with lab(run, txt(f"authority.example; accounturi={uri}")) as here:
        assert here.failure(PERSIST).code == "unauthorized"


def test_without_a_hash_prefix_the_account_url_itself_counts(run: Run) -> None:
    old = proof("dns-persist-01", "example.com", **{**MORE, "account_hash_prefix": ""})
    with lab(run, txt(f"authority.example; accounturi={ACCOUNT_URL}")) as here:
        here.validate(old)
    with lab(run, txt(f"authority.example; accounturi={ACCOUNT_URL}4")) as here:
        assert here.failure(old).code == "unauthorized"


def test_no_record_is_a_dns_error_and_no_issuer_a_mistake(run: Run) -> None:
    with lab(run, {}) as here:
        failed = here.failure(PERSIST)
        assert (failed.code, failed.retryable) == ("dns", True)
        assert here.failure(proof("dns-persist-01", "example.com")).code == "malformed"
