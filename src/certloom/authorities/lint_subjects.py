"""What can be linted, and by which rules: what the server and the linter's process have to agree on."""

from __future__ import annotations

from enum import IntEnum

from certloom.policy.decisions import LintRules


class Subject(IntEnum):
    """A kind of document and the rules for it."""

    CERTIFICATE = 0
    """Any certificate, by RFC 5280 and kin."""
    CERTIFICATE_CABF_TLS = 1
    """Of the TLS web PKI: root, issuing CA, OCSP responder, DV, IV, OV or EV, final or precertificate."""
    CERTIFICATE_CABF_SMIME = 2
    """Of the S/MIME PKI; a CA certificate by RFC 5280 alone, as the linter knows no further rules."""
    CRL = 3
    CRL_CABF = 4
    """By RFC 5280 and the Baseline Requirements; with end entities' certificates in it."""
    ARL_CABF = 5
    """The same with CA certificates in it, which may be good for a year."""
    OCSP = 6
    """An OCSP response, by RFC 6960."""


_CERTIFICATES = {
    LintRules.PKIX: Subject.CERTIFICATE,
    LintRules.CABF_TLS: Subject.CERTIFICATE_CABF_TLS,
    LintRules.CABF_SMIME: Subject.CERTIFICATE_CABF_SMIME,
}


def certificate_by(rules: LintRules) -> Subject:
    """A certificate that is linted by these rules."""
    return _CERTIFICATES[rules]
