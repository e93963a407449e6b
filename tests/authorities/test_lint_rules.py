"""Lint by the CA/Browser Forum's rules, of CA certificates, CRLs and OCSP responses."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from certloom.authorities.ct import precertificate_template, sample_template
from certloom.authorities.lint import (
    Linter,
    lint_ca,
    lint_certificate,
    lint_crl,
    lint_ocsp,
    shape_of,
    unsigned_certificate,
)
from certloom.authorities.lint_exceptions import EXCEPTIONS
from certloom.authorities.lint_subjects import Subject
from certloom.authorities.lint_worker import raw_findings
from certloom.pki import keys
from certloom.pki.ca import make_root
from certloom.pki.certificates import issuer_facts
from certloom.pki.crl import CRLEntry, CRLTemplate, build_crl
from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier, IdentifierType, parse_dns
from certloom.pki.names import Name, parse_name
from certloom.pki.template import CATemplate, CertificateTemplate
from certloom.policy.decisions import CertificateContents, LintMode, LintRules

PKIX, TLS, SMIME = LintRules.PKIX, LintRules.CABF_TLS, LintRules.CABF_SMIME
NOW, DAY = 1_795_500_000, 86_400  # November 2026: certificates may live 200 days
POLICIES = "2.5.29.32"
DOMAIN_VALIDATED = Extension(POLICIES, False, bytes.fromhex("300a3008060667810c010201"))
SMIME_MAILBOX_STRICT = Extension(POLICIES, False, bytes.fromhex("300b3009060767810c01050103"))
SERVER_AUTH_ONLY = Extension("2.5.29.37", False, bytes.fromhex("300a06082b06010505070301"))

ROOT_KEY, ISSUING_KEY = keys.generate("P-384"), keys.generate("P-256")
ROOT = CATemplate(
    serial=b"\x11" * 16,
    spki=keys.spki_of(ROOT_KEY),
    subject=parse_name("CN=Example Root R1,O=Example AG,C=CH"),
    not_before=NOW - DAY,
    not_after=NOW + 15 * 365 * DAY,
)
ROOT_DER = make_root(
    ROOT_KEY,
    subject=ROOT.subject,
    serial=ROOT.serial,
    not_before=ROOT.not_before,
    not_after=ROOT.not_after,
)
ISSUING = CATemplate(
    serial=b"\x22" * 16,
    spki=keys.spki_of(ISSUING_KEY),
    subject=parse_name("CN=Example TLS CA 1,O=Example AG,C=CH"),
    not_before=NOW - DAY,
    not_after=NOW + 5 * 365 * DAY,
    path_length=0,
    extensions=(DOMAIN_VALIDATED, SERVER_AUTH_ONLY),
    crl_url="http://crl.example.com/root/0.crl",
    issuer_url="http://crl.example.com/ca/root.crt",
    ocsp_url="http://ocsp.example.com/root",
)
LEAF = CertificateTemplate(
    serial=b"\x33" * 16,
    spki=keys.spki_of(keys.generate("P-256")),
    subject=Name(),
    identifiers=(parse_dns("www.example.com"),),
    not_before=NOW,
    not_after=NOW + 190 * DAY,
    key_usage=("digitalSignature",),
    extended_key_usage=("1.3.6.1.5.5.7.3.1",),
    extensions=(DOMAIN_VALIDATED,),
    crl_url="http://crl.example.com/issuing/0.crl",
    issuer_url="http://crl.example.com/ca/issuing.crt",
    ocsp_url="http://ocsp.example.com/issuing",
)


def codes(template: CertificateTemplate, rules: LintRules = TLS, level: str = "notice") -> set[str]:
    der = unsigned_certificate(template, issuer_facts(ROOT_DER))
    return {finding.code for finding in lint_certificate(der, level, rules)}


def changed(**changes: Any) -> CertificateTemplate:
    return msgspec.structs.replace(LEAF, **changes)


def test_a_hierarchy_of_the_web_has_no_findings() -> None:
    assert lint_ca(ROOT, None, rules=TLS) == []
    assert lint_ca(ISSUING, ROOT_DER, rules=TLS) == []
    for template in (LEAF, precertificate_template(LEAF), sample_template(LEAF, 3)):
        assert codes(template) == set()
        assert codes(template, PKIX) == set()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"not_after": NOW + 201 * DAY}, "validity_period"),
        ({"identifiers": (parse_dns("db.internal"),)}, "internal_domain_name"),
        ({"extensions": ()}, "certificate_policies"),
        ({"extended_key_usage": ("1.3.6.1.5.5.7.3.2",)}, "serverauth"),
        ({"spki": keys.spki_of(keys.generate("ed25519"))}, "prohibited_subject_public_key_algorithm"),
        ({"subject": parse_name("CN=www.example.com,O=Example AG")}, "unknown_attribute_present"),
        ({"subject": parse_name("CN=other.example.com")}, "common_name"),
        ({"crl_url": None, "ocsp_url": None}, "revocation"),
    ],
)
def test_what_the_baseline_requirements_forbid_is_found(changes: dict[str, Any], code: str) -> None:
    found = codes(changed(**changes), level="error")
    assert any(code in one for one in found), found
    assert codes(changed(**changes), PKIX, "error") == set()


def test_the_type_is_read_from_the_policy_of_the_certificate() -> None:
    # The same subject, under the policies of organization and domain validation.
    subject = parse_name("O=Example AG,L=Bern,C=CH")
    organization = Extension(POLICIES, False, bytes.fromhex("300a3008060667810c010202"))
    assert codes(changed(subject=subject, extensions=(organization,)), level="error") == set()
    assert codes(changed(subject=subject), level="error")


def test_an_s_mime_certificate_is_linted_by_its_own_rules() -> None:
    mailbox = changed(
        identifiers=(Identifier(IdentifierType.EMAIL, "ann@example.com"),),
        extended_key_usage=("1.3.6.1.5.5.7.3.4",),
        extensions=(SMIME_MAILBOX_STRICT,),
    )
    assert codes(mailbox, SMIME, "warning") == set()
    assert any("smime" in code for code in codes(LEAF, SMIME, "error"))
    # A CA certificate is linted by RFC 5280 alone.
    assert lint_ca(ISSUING, ROOT_DER, rules=SMIME) == []


def test_no_leniency_for_private_networks_holds_on_the_web() -> None:
    private = changed(identifiers=(parse_dns("db"),), crl_url="http://ca-host/0.crl")
    assert codes(private, PKIX) == set()
    assert codes(private, TLS, "error")


def test_the_one_exception_of_the_web_is_needed() -> None:
    der = unsigned_certificate(LEAF, issuer_facts(ROOT_DER))
    (finding,) = raw_findings(der, Subject.CERTIFICATE_CABF_TLS)
    (exception,) = [e for e in EXCEPTIONS if Subject.CERTIFICATE_CABF_TLS in e.subjects]
    assert finding.code in exception.codes


def test_ca_certificates_with_faults_are_found_before_they_are_signed() -> None:
    flawed = msgspec.structs.replace(ISSUING, extensions=(), not_after=NOW + 40 * 365 * DAY)
    assert {f.code for f in lint_ca(flawed, ROOT_DER, "error", TLS)}
    assert lint_ca(flawed, ROOT_DER, "error") == []
    unnamed = msgspec.structs.replace(ISSUING, subject=parse_name("CN=Example TLS CA 1"))
    assert any("absent" in f.code or "missing" in f.code for f in lint_ca(unnamed, ROOT_DER, "error", TLS))


def test_crls_are_linted_by_either_rules() -> None:
    issuer = issuer_facts(ROOT_DER)
    held = CRLEntry(b"\x44" * 16, NOW - DAY, 6)
    good = build_crl(
        CRLTemplate((CRLEntry(b"\x44" * 16, NOW - DAY, 4),), 7, NOW, NOW + 6 * DAY), issuer, ROOT_KEY
    )
    assert lint_crl(good) == lint_crl(good, rules=TLS) == lint_crl(good, rules=TLS, of_cas=True) == []
    long = build_crl(CRLTemplate((held,), 7, NOW, NOW + 60 * DAY), issuer, ROOT_KEY)
    assert lint_crl(long) == []
    assert len(lint_crl(long, rules=TLS)) == 2
    assert [f.code for f in lint_crl(long, rules=TLS, of_cas=True)] == ["cabf.crl_prohibited_reason_code"]
    assert [f.severity for f in lint_crl(ROOT_DER)] == ["fatal"]


def test_ocsp_responses_are_linted() -> None:
    root = x509.load_der_x509_certificate(ROOT_DER)
    signer = ROOT_KEY
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    now = datetime.datetime.fromtimestamp(NOW, datetime.UTC)
    response = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            root, root, hashes.SHA1(), ocsp.OCSPCertStatus.GOOD, now, now + datetime.timedelta(1), None, None
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, root)
        .sign(signer, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert lint_ocsp(response) == []
    assert lint_ocsp(response[:-1]) != []


def test_the_child_lints_whatever_it_is_told_the_document_is() -> None:
    der = unsigned_certificate(changed(identifiers=(parse_dns("db.internal"),)), issuer_facts(ROOT_DER))
    crl = build_crl(CRLTemplate((), 7, NOW, NOW + DAY), issuer_facts(ROOT_DER), ROOT_KEY)

    async def scenario() -> None:
        linter = Linter()
        try:
            assert await linter.check(der, None, LintMode.EVERY, "error") == []
            assert await linter.check(der, None, LintMode.EVERY, "error", TLS)
            assert await linter.check_all((der, der), None, LintMode.EVERY, "error", SMIME)
            assert await linter.findings(Subject.CRL, crl, "notice") == []
            assert await linter.findings(Subject.OCSP, crl, "notice")
        finally:
            await linter.close()

    asyncio.run(scenario())


def test_the_web_rules_look_at_values_so_there_is_no_shape() -> None:
    contents = CertificateContents(
        spki=LEAF.spki,
        subject=LEAF.subject,
        identifiers=LEAF.identifiers,
        not_before=NOW,
        not_after=NOW + DAY,
        key_usage=(),
        extended_key_usage=(),
        extensions=(),
        authority="issuing",
        profile="web",
        profile_version=1,
        lint=LintMode.FIRST_OF_SHAPE,
        lint_level="error",
    )
    assert shape_of(contents) is not None
    for rules in (TLS, SMIME):
        assert shape_of(msgspec.structs.replace(contents, lint_rules=rules)) is None
    assert Linter().needed(None, LintMode.FIRST_OF_SHAPE)
