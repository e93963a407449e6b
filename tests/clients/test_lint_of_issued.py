"""Every certificate that a client got in this session, linted by pkilint. It runs last."""

from __future__ import annotations

from cryptography.hazmat.primitives.serialization import Encoding

from certloom.authorities.lint import lint_certificate
from certloom.authorities.lint_exceptions import EXCEPTIONS
from tests.clients import checks
from tests.clients.servers import Servers


def test_every_issued_certificate_and_every_issuer_is_free_of_findings(servers: Servers) -> None:
    # At least the server's own certificates, when this test runs alone.
    server = servers.certloom()
    issued = {*checks.seen, server.https_certificate()}
    issued |= {above.public_bytes(Encoding.DER) for chain in checks.seen.values() for above in chain}
    findings = {str(finding) for der in issued for finding in lint_certificate(der)}
    assert not findings


def test_every_exception_says_why() -> None:
    assert all(len(exception.reason) > 40 for exception in EXCEPTIONS)
