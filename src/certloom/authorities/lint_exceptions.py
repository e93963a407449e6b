"""What the linter calls wrong and we do not: one named list, each with its reason.

The linter (pkilint's PKIX linter) judges by RFC 5280, but checks host names and URIs with general-purpose
validators made for the public web. Every exception says exactly which value it is about: a finding with the
same code about anything else stands. The list governs lint before signing, and the tests that lint what was
issued. By the CA/Browser Forum's rules, which are the public web's, none of those holds, but one of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit

import msgspec

from certloom.authorities.lint_subjects import Subject


class Finding(msgspec.Struct, frozen=True):
    """One thing a linter found."""

    severity: str
    """``info``, ``notice``, ``warning``, ``error`` or ``fatal``."""
    code: str
    message: str
    path: str
    """Where in the certificate."""
    value: str = ""
    """The text that the finding is about, where it is about one."""

    def __str__(self) -> str:
        return f"{self.severity}: {self.code}: {self.message or self.path}"


class LintException(msgspec.Struct, frozen=True):
    """A finding that does not count."""

    name: str
    codes: tuple[str, ...]
    reason: str
    applies: Callable[[Finding], bool]
    subjects: frozenset[Subject] = frozenset((Subject.CERTIFICATE, Subject.CRL, Subject.OCSP))


_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+\Z){_LABEL}\Z")
# The linter's idea of a last label: two characters or more, of which the last is a letter.
_PUBLIC_LAST_LABEL = re.compile(r"[a-z0-9][a-z0-9-]{0,61}[a-z]\Z")
_URI = re.compile(r"[a-z][a-z0-9+.-]*:(?:[A-Za-z0-9._~!$&'()*+,;=:@/?#\[\]-]|%[0-9A-Fa-f]{2})+\Z")
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
# The schemes that the linter's URL check has heard of.
_LINTER_SCHEMES = frozenset(("ftp", "ftps", "git", "http", "https", "rtsp", "sftp", "ssh", "telnet"))


def _is_host(text: str) -> bool:
    return len(text) <= 253 and _HOST.match(text) is not None


def _host_of(finding: Finding) -> str:
    """The host name in a finding's value: a DNS name itself, a mailbox's domain, a URL's host."""
    value = finding.value
    if finding.code == "pkix.invalid_email_address_syntax":
        local, _, domain = value.rpartition("@")
        return domain if _LOCAL_PART.match(local) else ""
    if finding.code == "pkix.invalid_uri_syntax":
        if _URI.match(value) is None:
            return ""
        try:
            parts = urlsplit(value)
            return parts.hostname or "" if parts.scheme in _LINTER_SCHEMES else ""
        except ValueError:
            return ""
    return value


def _wildcard(finding: Finding) -> bool:
    base = finding.value[2:]
    return finding.value.startswith("*.") and _is_host(base)


def _single_label(finding: Finding) -> bool:
    host = _host_of(finding)
    return "." not in host and _is_host(host)


def _private_last_label(finding: Finding) -> bool:
    host = _host_of(finding)
    return "." in host and _is_host(host) and _PUBLIC_LAST_LABEL.match(host.rpartition(".")[2]) is None


def _unknown_scheme(finding: Finding) -> bool:
    return _URI.match(finding.value) is not None and finding.value.partition(":")[0] not in _LINTER_SCHEMES


def _always(finding: Finding) -> bool:
    return True


_HOST_CODES = (
    "pkix.invalid_domain_name_syntax",
    "pkix.invalid_uri_syntax",
    "pkix.invalid_email_address_syntax",
)

EXCEPTIONS: tuple[LintException, ...] = (
    LintException(
        "wildcard-name",
        ("pkix.invalid_domain_name_syntax",),
        "RFC 5280 section 4.2.1.6 leaves wildcards in dNSName open; RFC 9525 section 6.3 says how TLS "
        "clients match them. The linter knows only names of hosts.",
        _wildcard,
    ),
    LintException(
        "single-label-host",
        _HOST_CODES,
        "RFC 1034 section 3.5 has names of one label, and private networks have such hosts, this CA's own "
        "included. The linter wants a dot.",
        _single_label,
    ),
    LintException(
        "private-top-level-label",
        _HOST_CODES,
        "RFC 1123 section 2.1 lets a label begin and end with a digit and be one character long; private "
        "top-level domains do (rack1, dc2). The linter wants two characters and a letter at the end.",
        _private_last_label,
    ),
    LintException(
        "uri-scheme",
        ("pkix.invalid_uri_syntax",),
        "RFC 5280 section 4.2.1.6 allows any absolute URI (spiffe, urn, tag). The linter's check is made for "
        "URLs and knows nine schemes; what follows another scheme is checked here against RFC 3986.",
        _unknown_scheme,
    ),
    LintException(
        "subscriber-key-identifier",
        ("cabf.serverauth.subscriber.subject_key_identifier_extension_present",),
        "RFC 5280 section 4.2.1.2 recommends a subjectKeyIdentifier in end entities' certificates, the TLS "
        "Baseline Requirements section 7.1.2.7.6 recommend that there is none; both leave it free. It stays.",
        _always,
        frozenset((Subject.CERTIFICATE_CABF_TLS,)),
    ),
)


def exception_for(finding: Finding, subject: Subject = Subject.CERTIFICATE) -> LintException | None:
    """The exception under which this finding about such a document does not count."""
    for exception in EXCEPTIONS:
        if finding.code in exception.codes and subject in exception.subjects and exception.applies(finding):
            return exception
    return None
