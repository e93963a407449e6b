"""The linter's own process: documents in on standard input, findings out on standard output.

pkilint and the ASN.1 modules under it hold some 30 MB and take 2 to 4 ms of CPU a certificate, which is why
they live here and not in the server. A request is a length (4 octets, big-endian), an octet that says what it
is (``Subject``), and that many octets of DER; it is answered with a length and a MessagePack array of
``Finding``. The end of input ends the process; so a server that is killed leaves no linter behind. Signals to
the process group are the server's business: while it finishes requests, this one must go on.
"""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any, BinaryIO, TypeAlias

import msgspec
from pkilint import finding_filter, loader, pkix
from pkilint.pkix import certificate, crl, extension, name, ocsp

from certloom.authorities.lint_exceptions import Finding, exception_for
from certloom.authorities.lint_subjects import Subject

MOST_OCTETS = 1 << 20
"""A certificate is never longer; nor are the CRLs and answers that are linted."""

# What the linter cannot get through it reports as a finding, which is enough.
logging.getLogger("pkilint").addHandler(logging.NullHandler())
logging.getLogger("pkilint").propagate = False

# pkilint has no types.
_Validator: TypeAlias = Any
_Filters: TypeAlias = list[Any]


def _certificate(validators: list[_Validator]) -> _Validator:
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        validators,
    )


@lru_cache(maxsize=1)
def _pkix() -> tuple[_Validator, _Filters]:
    return _certificate(
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ]
    ), []


@lru_cache(maxsize=32)
def _cabf_tls(kind: Any) -> tuple[_Validator, _Filters]:
    from pkilint.cabf import serverauth

    validator = certificate.create_pkix_certificate_validator_container(
        serverauth.create_decoding_validators(), serverauth.create_validators(kind)
    )
    return validator, serverauth.create_serverauth_finding_filters(kind)


@lru_cache(maxsize=32)
def _cabf_smime(level: Any, generation: Any) -> tuple[_Validator, _Filters]:
    from pkilint.cabf import smime

    validator = certificate.create_pkix_certificate_validator_container(
        smime.create_decoding_validators(), smime.create_subscriber_validators(level, generation)
    )
    return validator, []


def _of_certificate(document: Any) -> tuple[_Validator, _Filters]:
    return _pkix()


def _of_cabf_tls(document: Any) -> tuple[_Validator, _Filters]:
    from pkilint.cabf import serverauth

    return _cabf_tls(serverauth.determine_certificate_type(document))


def _of_cabf_smime(document: Any) -> tuple[_Validator, _Filters]:
    from pkilint.cabf import smime

    if document.is_ca:
        return _pkix()
    return _cabf_smime(*smime.guess_validation_level_and_generation(document))


@lru_cache(maxsize=4)
def _crl(kind: str, *, cabf: bool) -> tuple[_Validator, _Filters]:
    validity, documents = [], []
    if cabf:
        from pkilint.cabf import cabf_crl

        type = crl.CertificateRevocationListType[kind]
        documents.append(cabf_crl.CabfCrlReasonCodeAllowlistValidator(type))
        validity.append(cabf_crl.create_validity_period_validator(type))
    validator = crl.create_pkix_crl_validator_container(
        [
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [
            crl.create_issuer_validator_container([]),
            crl.create_validity_validator_container(validity),
            crl.create_extensions_validator_container([]),
            *documents,
        ],
    )
    return validator, []


@lru_cache(maxsize=1)
def _ocsp() -> tuple[_Validator, _Filters]:
    validator = ocsp.create_pkix_ocsp_response_validator_container(
        [
            ocsp.create_response_decoder(),
            pkix.create_attribute_decoder(name.ATTRIBUTE_TYPE_MAPPINGS),
            pkix.create_extension_decoder(extension.EXTENSION_MAPPINGS),
        ],
        [],
    )
    return validator, []


_WAYS: dict[Subject, tuple[Callable[[bytes, str], Any], Callable[[Any], tuple[_Validator, _Filters]]]] = {
    Subject.CERTIFICATE: (loader.load_der_certificate, _of_certificate),
    Subject.CERTIFICATE_CABF_TLS: (loader.load_der_certificate, _of_cabf_tls),
    Subject.CERTIFICATE_CABF_SMIME: (loader.load_der_certificate, _of_cabf_smime),
    Subject.CRL: (loader.load_der_crl, lambda _: _crl("CRL", cabf=False)),
    Subject.CRL_CABF: (loader.load_der_crl, lambda _: _crl("CRL", cabf=True)),
    Subject.ARL_CABF: (loader.load_der_crl, lambda _: _crl("ARL", cabf=True)),
    Subject.OCSP: (loader.load_der_ocsp_response, lambda _: _ocsp()),
}


def raw_findings(der: bytes, subject: Subject = Subject.CERTIFICATE) -> list[Finding]:
    """Everything pkilint says about a document, but for what is merely informative."""
    load, choose = _WAYS[subject]
    try:
        document = load(der, "document")
        validator, filters = choose(document)
        results = validator.validate(document.root)
        if filters:
            # Findings of RFC 5280's lints that the Baseline Requirements overrule.
            results, _ = finding_filter.filter_results(filters, results)
    except Exception as error:
        return [Finding("fatal", "unreadable-document", f"{type(error).__name__}: {error}", "document")]
    findings = []
    for result in results:
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


def findings(der: bytes, subject: Subject = Subject.CERTIFICATE) -> list[Finding]:
    """What counts of it: without the named exceptions."""
    return [finding for finding in raw_findings(der, subject) if exception_for(finding, subject) is None]


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    encode = msgspec.msgpack.Encoder().encode
    while len(header := requests.read(5)) == 5:
        length = int.from_bytes(header[:4], "big")
        if length > MOST_OCTETS or header[4] not in _SUBJECTS:
            return
        der = requests.read(length)
        if len(der) < length:
            return
        answer = encode(findings(der, Subject(header[4])))
        answers.write(len(answer).to_bytes(4, "big") + answer)
        answers.flush()


_SUBJECTS = frozenset(Subject)


def main() -> None:
    """Run as a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
