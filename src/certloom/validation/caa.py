"""CAA: whether the owner of a domain lets this CA issue (RFC 8659, with the parameters of RFC 8657)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence

from certloom.outbound.dns_message import CAARecord
from certloom.outbound.resolver import NoData, NoSuchName, ResolutionError, Resolver
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.validation.issue_value import IssueValue, IssueValueError, parse_issue_value
from certloom.validation.proof import ValidationFailed, excerpt

KNOWN_TAGS = frozenset({"issue", "issuewild", "iodef", "issuemail", "contactemail", "contactphone"})
"""Properties whose meaning is known here, be it that they say nothing about TLS certificates: only an unknown
one can forbid by its critical flag (RFC 8659 section 4.1; issuemail: RFC 9495)."""

_METHODS = re.compile(r"[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*", re.ASCII)
_AT_ONCE = 8
"""Lookups under way together; names with more labels are rare."""


class CAAChecker:
    """Looks up and judges CAA records."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def check(
        self,
        identifier: Identifier,
        *,
        issuer_domains: Sequence[str],
        wildcard: bool = False,
        account_url: str = "",
        method: str = "",
    ) -> None:
        """Return if issuing is allowed. CAA speaks of domain names: other identifiers always are.

        ``issuer_domains`` are this CA's names in lower case, ``method`` is the challenge type that proved
        control (``validationmethods``), ``account_url`` the account's URL (``accounturi``); a restriction on
        one that is not given cannot be met. Raises ``ValidationFailed`` with code ``caa`` when the records
        forbid it, ``dns`` when they could not be had.
        """
        if identifier.type is not IdentifierType.DNS:
            return
        name = identifier.value.removeprefix("*.")
        domain, records = await self._relevant(name)
        problem = _judge(
            records,
            {issuer.lower() for issuer in issuer_domains},
            wildcard or identifier.is_wildcard,
            account_url,
            method,
        )
        if problem:
            raise ValidationFailed("caa", f"CAA of {domain} does not let this CA issue for {name}: {problem}")

    async def _relevant(self, name: str) -> tuple[str, tuple[CAARecord, ...]]:
        """The closest non-empty record set from ``name`` upwards (RFC 8659 section 3), and where it is.

        The levels are asked about at the same time: most domains have no CAA, and then all are needed.
        """
        labels = name.split(".")
        domains = [".".join(labels[i:]) for i in range(len(labels))]
        for start in range(0, len(domains), _AT_ONCE):
            some = domains[start : start + _AT_ONCE]
            answers = await asyncio.gather(*map(self._at, some), return_exceptions=True)
            for domain, answer in zip(some, answers, strict=True):
                # A failure counts only where the climb gets to: records below it have already decided.
                if isinstance(answer, ResolutionError):
                    raise ValidationFailed("dns", str(answer), retryable=True) from answer
                if isinstance(answer, BaseException):
                    raise answer
                if answer:
                    return domain, answer
        return "", ()

    async def _at(self, domain: str) -> tuple[CAARecord, ...]:
        try:
            return await self._resolver.caa(domain)
        except (NoData, NoSuchName):
            return ()


def _judge(
    records: Iterable[CAARecord], issuers: set[str], wildcard: bool, account_url: str, method: str
) -> str:
    """Why issuing is forbidden, or an empty string."""
    by_tag: dict[str, list[CAARecord]] = {}
    for record in records:
        if record.critical and record.tag not in KNOWN_TAGS:
            return f"unknown critical property {excerpt(record.tag)}"
        by_tag.setdefault(record.tag, []).append(record)
    properties = by_tag.get("issue", [])
    if wildcard:  # RFC 8659 section 4.3: issuewild, where there is one, in place of issue
        properties = by_tag.get("issuewild", properties)
    if not properties:
        return ""
    problem = ""
    for record in properties:
        try:
            value = parse_issue_value(record.value)
        except IssueValueError:
            continue  # names nobody, RFC 8659 section 4.2
        if value.issuer in issuers:
            reason = _unmet(value, account_url, method)
            if not reason:
                return ""
            problem = problem or reason
    return problem or "no property names this CA"


def _unmet(value: IssueValue, account_url: str, method: str) -> str:
    """Which restriction of RFC 8657 is not met, or an empty string. One that is given twice cannot be met."""
    accounts = value.values("accounturi")
    if accounts and accounts != [account_url]:
        return "accounturi names another account"
    methods = value.values("validationmethods")
    if methods and (
        len(methods) > 1 or not _METHODS.fullmatch(methods[0]) or method not in methods[0].split(",")
    ):
        return f"validationmethods does not list {method or 'the method used'}"
    return ""
