"""What the default profiles decide, built and linted: policy, encoder and linter agree."""

from __future__ import annotations

import pytest

from certloom.authorities.lint import lint_certificate
from certloom.pki import ca, keys
from certloom.pki.certificates import build_certificate, issuer_facts
from certloom.pki.identifiers import Identifier, parse
from certloom.pki.names import Name
from certloom.pki.template import CertificateTemplate
from certloom.policy.decide import decide
from certloom.policy.decisions import Facts, Requester
from certloom.policy.profiles import Profile, default_profiles

NOW = 1_800_000_000
CA_KEY = keys.generate("P-256")
ISSUER = issuer_facts(
    ca.make_root(
        CA_KEY,
        subject=Name((("2.5.4.3", "Root"),)),
        serial=b"\x01",
        not_before=NOW - 86400,
        not_after=NOW + 10 * 365 * 86400,
    )
)
DEVICE = Name((("2.5.4.10", "Example"), ("2.5.4.3", "router-7"), ("2.5.4.5", "A7-113")))

ASKS: dict[str, list[tuple[Identifier, ...]]] = {
    "tls-server": [
        (parse("dns", "www.example.com"),),
        (parse("dns", "*.example.com"), parse("dns", "localhost")),
        (parse("ip", "192.0.2.1"), parse("ip", "2001:db8::1")),
        (parse("dns", f"{'a' * 60}.example.com"),),
    ],
    "tls-client": [
        (parse("email", "ann@example.com"),),
        (parse("uri", "spiffe://prod.example/ns/a"),),
        (parse("dns", "worker-1"),),
    ],
    "device": [(), (parse("ip", "10.0.0.1"), parse("uri", "urn:dev:mac:0024befffe804ff1"))],
}


@pytest.mark.parametrize("algorithm", ["P-256", "rsa-2048", "ed25519", "ml-dsa-65"])
@pytest.mark.parametrize("profile", default_profiles("issuing"), ids=lambda profile: profile.name)
def test_what_a_default_profile_decides_passes_lint(profile: Profile, algorithm: str) -> None:
    key = keys.facts_of(keys.spki_of(keys.generate(algorithm)))
    for names in ASKS[profile.name]:
        decision = decide(
            profile,
            1,
            Facts(
                now=NOW,
                protocol="acme",
                channel="web",
                requester=Requester("acme-account", "1"),
                key=key,
                key_is_blocked=False,
                identifiers=names,
                csr_subject=DEVICE,
            ),
        )
        contents = decision.contents
        assert contents is not None, decision.reasons
        der = build_certificate(
            CertificateTemplate(
                serial=b"\x7f" * 16,
                spki=contents.spki,
                subject=contents.subject,
                identifiers=contents.identifiers,
                not_before=contents.not_before,
                not_after=contents.not_after,
                key_usage=contents.key_usage,
                extended_key_usage=contents.extended_key_usage,
                extensions=contents.extensions,
                crl_url="http://ca-host:8080/crl/issuing/0.crl",
                issuer_url="http://ca-host:8080/ca/issuing.cer",
            ),
            ISSUER,
            CA_KEY,
        )
        assert lint_certificate(der, "notice") == []
