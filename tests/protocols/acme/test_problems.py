"""Problem documents, and what the rest of the product says in ACME's words."""

from __future__ import annotations

import json
import re

import pytest

from certloom.enrollment.errors import Refused, Unavailable, Waiting
from certloom.pki.identifiers import parse_dns
from certloom.policy import decide
from certloom.policy.decisions import Reason
from certloom.protocols.acme.problems import (
    PROBLEM_TYPES,
    STATUS,
    Problem,
    about_identifier,
    from_identifiers,
    malformed,
    of_enrollment,
    of_reasons,
    subproblem,
    validation_error,
)

RFC_8555 = [
    "accountDoesNotExist",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
]


def test_every_type_of_the_rfc_is_known_in_its_order() -> None:
    assert list(PROBLEM_TYPES) == [*RFC_8555, "alreadyReplaced", "invalidProfile"]
    assert list(STATUS) == list(PROBLEM_TYPES)
    assert all(400 <= status <= 500 for status in STATUS.values())


def test_a_document_has_type_detail_and_status() -> None:
    assert json.loads(malformed("what is wrong", 404).document()) == {
        "type": "urn:ietf:params:acme:error:malformed",
        "detail": "what is wrong",
        "status": 404,
    }


def test_what_a_client_sent_comes_back_shortened() -> None:
    long = "x" * 100_000
    problem = from_identifiers([subproblem("malformed", long, "dns" * 1000, long)] * 1000)
    assert len(problem.document()) < 200_000
    document = json.loads(problem.document())
    assert len(document["subproblems"]) == 100
    assert len(document["subproblems"][0]["identifier"]["value"]) == 256


def test_several_types_are_a_compound() -> None:
    same = [subproblem("dns", "a"), subproblem("dns", "b")]
    assert from_identifiers(same).type == "dns"
    assert from_identifiers([*same, subproblem("caa", "c")]).type == "compound"


def test_every_reason_that_policy_documents_has_a_type_of_its_own() -> None:
    documented = re.findall(r"^([a-z]+(?:-[a-z]+)+) {2,}", decide.__doc__ or "", re.MULTILINE)
    assert len(documented) > 10
    server_side = {"authority-expired"}
    for code in documented:
        problem = of_reasons([Reason(code, "why")])
        assert (problem.type == "serverInternal") == (code in server_side), code
        assert problem.detail == "why"


def test_reasons_about_names_name_them_in_subproblems() -> None:
    reasons = [Reason("name-not-allowed", f"not {n}", parse_dns(n)) for n in ("a.example", "b.example")]
    document = json.loads(of_reasons(reasons).document())
    assert document["type"].endswith(":rejectedIdentifier")
    assert [s["identifier"]["value"] for s in document["subproblems"]] == ["a.example", "b.example"]
    mixed = of_reasons([*reasons, Reason("key-blocked", "no")])
    assert mixed.type == "compound"
    assert len(mixed.subproblems) == 3


def test_a_reason_nobody_mapped_is_the_servers_matter() -> None:
    assert of_reasons([Reason("never-heard-of", "x")]).type == "serverInternal"
    assert of_reasons([]).type == "serverInternal"


@pytest.mark.parametrize(
    ("code", "type"),
    [
        ("already-revoked", "alreadyRevoked"),
        ("bad-revocation-reason", "badRevocationReason"),
        ("different-ask", "orderNotReady"),
    ],
)
def test_the_pipelines_refusals(code: str, type: str) -> None:
    assert of_enrollment(Refused(Reason(code, "x"))).type == type


def test_what_is_not_there_now_says_when_to_come_back() -> None:
    for error in (Unavailable(Reason("x", "later"), retry_after=9), Waiting("1", 5)):
        problem = of_enrollment(error)
        assert (problem.type, problem.status) == ("serverInternal", 503)
        assert problem.retry_after


def test_an_unknown_validation_code_is_the_servers_matter() -> None:
    assert validation_error("nonsense", "x").type.endswith(":serverInternal")
    assert validation_error("tls", "x" * 5000).detail == "x" * 1000


def test_an_orders_error_names_the_identifier_below_the_top() -> None:
    # RFC 8555 section 6.7.1
    document = json.loads(about_identifier(validation_error("dns", "no"), "dns", "*.a.example"))
    assert "identifier" not in document
    assert document["subproblems"][0]["identifier"] == {"type": "dns", "value": "*.a.example"}


def test_a_problem_is_an_exception_with_its_detail() -> None:
    assert str(Problem("caa", "issue ;")) == "issue ;"
