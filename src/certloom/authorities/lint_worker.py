"""The linter's own process: certificates in on standard input, findings out on standard output.

pkilint and the ASN.1 modules under it hold some 30 MB and take 2 ms of CPU a certificate, which is why they
live here and not in the server. Each message is a length (4 octets, big-endian) and that many octets: a DER
certificate, answered with a MessagePack array of ``Finding``. The end of input ends the process; so a server
that is killed leaves no linter behind. Signals to the process group are the server's business: while it
finishes requests, this one must go on.
"""

from __future__ import annotations

import logging
import signal
import sys
from typing import BinaryIO

import msgspec
from pkilint import loader
from pkilint.pkix import certificate, extension, name

from certloom.authorities.lint_exceptions import Finding, exception_for

MOST_OCTETS = 1 << 20
"""A certificate is never longer."""

# What the linter cannot get through it reports as a finding, which is enough.
logging.getLogger("pkilint").addHandler(logging.NullHandler())
logging.getLogger("pkilint").propagate = False

_VALIDATOR = certificate.create_pkix_certificate_validator_container(
    certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
    [
        certificate.create_issuer_validator_container([]),
        certificate.create_validity_validator_container(),
        certificate.create_subject_validator_container([]),
        certificate.create_extensions_validator_container([]),
        certificate.create_spki_validator_container([]),
    ],
)


def raw_findings(der: bytes) -> list[Finding]:
    """Everything pkilint's PKIX linter says about a certificate, but for what is merely informative."""
    try:
        document = loader.load_der_certificate(der, "certificate")
    except Exception as error:
        return [Finding("fatal", "unreadable-certificate", str(error), "certificate")]
    findings = []
    for result in _VALIDATOR.validate(document.root):
        for description in result.finding_descriptions:
            severity = description.finding.severity.name.lower()
            if severity in ("info", "debug"):
                continue
            pdu = result.node.pdu
            findings.append(
                Finding(
                    severity,
                    description.finding.code,
                    description.message or "",
                    result.node.path,
                    str(pdu) if not result.node.children else "",
                )
            )
    return findings


def findings(der: bytes) -> list[Finding]:
    """What counts of it: without the named exceptions."""
    return [finding for finding in raw_findings(der) if exception_for(finding) is None]


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    encode = msgspec.msgpack.Encoder().encode
    while len(header := requests.read(4)) == 4:
        length = int.from_bytes(header, "big")
        if length > MOST_OCTETS:
            return
        der = requests.read(length)
        if len(der) < length:
            return
        answer = encode(findings(der))
        answers.write(len(answer).to_bytes(4, "big") + answer)
        answers.flush()


def main() -> None:
    """Run as a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
