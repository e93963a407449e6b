"""dns-persist-01: a lasting TXT record that names issuer and account (draft-ietf-acme-dns-persist-02).

The record binds the account by a hash over the domain, a key of the account, and the account's URL. Draft
-01 had the URL itself; that is understood only on channels that advertise no ``accountHashPrefix``: beside
it, a URL that was swapped on its way to the domain's owner would pass, which the hash exists to prevent
(section 7.2.3). The record's TTL says nothing about how long the proof may be relied on (section 7.9);
``persistUntil`` does.
"""

from __future__ import annotations

import base64
import hashlib
import re

from certloom.outbound.resolver import ResolutionError, Resolver
from certloom.validation.issue_value import IssueValue, IssueValueError, parse_issue_value
from certloom.validation.proof import Proof, Validated, ValidationFailed, ValidationRecord, excerpt

LABEL = "_validation-persist"
HASH_NAME = "sha-256"
DOMAIN_OMITTED = "*"
"""Hashed in place of the domain in records meant for many domains (section 4.1)."""

_INTEGER = re.compile(r"-?[0-9]{1,20}", re.ASCII)
_HASH = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_LATEST = 253_402_300_799  # the end of year 9999, so that no absurd time travels further


class DNSPersist01:
    """Checks dns-persist-01 challenges."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def check(self, proof: Proof, now: int, seconds: float) -> Validated:
        """Look for a record that authorises the account, within ``seconds``; ``now`` is Unix time.

        The validated name is the one asked for: records of its parent domains are not consulted, which
        section 6 permits but does not require. Raises ``ValidationFailed``.
        """
        if not proof.issuer_domains or not proof.account_url:
            raise ValidationFailed("malformed", "dns-persist-01 needs issuer domain names and an account")
        name = f"{LABEL}.{proof.base_name}"
        try:
            values = await self._resolver.txt(name, timeout_seconds=seconds)
        except ResolutionError as error:
            raise ValidationFailed("dns", str(error), retryable=True) from error
        accepted = _accepted_account_uris(proof)
        best: int | None = None
        trouble: ValidationFailed | None = None
        for value in values:
            text = value.decode("latin-1")
            if text.partition(";")[0].strip(" \t").lower() not in proof.issuer_domains:
                continue
            try:
                until = _valid_until(text, proof, accepted, now)
            except _Unfit as unfit:
                detail = f"TXT of {name}: {unfit}: {excerpt(text)}"
                trouble = trouble or ValidationFailed(unfit.code, detail)
            else:
                best = until if best is None else max(best, until)
        if best is not None:
            return Validated((ValidationRecord(name),), best if best < _LATEST else None)
        if trouble is None:
            named = " or ".join(proof.issuer_domains)
            raise ValidationFailed("unauthorized", f"TXT of {name}: no record for issuer {named}")
        raise trouble


class _Unfit(Exception):
    """A record for this issuer that does not authorise."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def hashed_account_uri(prefix: str, domain: str, thumbprint: str, account_url: str) -> str:
    """The hashed URI of section 4.1. ``domain`` is a lower-case A-label name, or ``DOMAIN_OMITTED``;
    ``thumbprint`` the unpadded base64url SHA-256 JWK thumbprint."""
    name = domain.encode("ascii")
    digest = hashlib.sha256(bytes((len(name),)) + name + thumbprint.encode() + account_url.encode()).digest()
    return f"{prefix}{HASH_NAME}/{base64.urlsafe_b64encode(digest).rstrip(b'=').decode('ascii')}"


def _accepted_account_uris(proof: Proof) -> frozenset[str]:
    if not proof.account_hash_prefix:
        return frozenset({proof.account_url})
    thumbprints = proof.key_thumbprints or (proof.key_authorization.rpartition(".")[2],)
    return frozenset(
        hashed_account_uri(proof.account_hash_prefix, domain, thumbprint, proof.account_url)
        for thumbprint in thumbprints
        for domain in (proof.base_name, DOMAIN_OMITTED)
    )


def _valid_until(text: str, proof: Proof, accepted: frozenset[str], now: int) -> int:
    """Until when a record authorises. Raises ``_Unfit`` with the code of section 9.3.1."""
    try:
        value = parse_issue_value(text)
    except IssueValueError as error:
        raise _Unfit("malformed", str(error)) from None
    tags = [tag for tag, _ in value.parameters]
    if len(set(tags)) != len(tags):
        raise _Unfit("malformed", "a parameter is repeated")
    account_uri = _only(value, "accounturi")
    if account_uri is None:
        raise _Unfit("malformed", "accounturi is missing")
    persist_until = _only(value, "persistuntil")
    if persist_until is not None and not _INTEGER.fullmatch(persist_until):
        raise _Unfit("malformed", "persistUntil is not a number of seconds")
    if proof.account_hash_prefix and not _is_hashed_uri(account_uri, proof.account_hash_prefix):
        raise _Unfit("malformed", f"accounturi is not {proof.account_hash_prefix}{HASH_NAME}/<hash>")
    if account_uri not in accepted:
        raise _Unfit("unauthorized", "accounturi names another account")
    until = _LATEST if persist_until is None else min(int(persist_until), _LATEST)
    if until < now:
        raise _Unfit("unauthorized", "persistUntil has passed")
    if proof.is_wildcard and (_only(value, "policy") or "").lower() != "wildcard":
        raise _Unfit("unauthorized", "a wildcard name needs policy=wildcard")
    return until


def _is_hashed_uri(uri: str, prefix: str) -> bool:
    start = f"{prefix}{HASH_NAME}/"
    return uri.startswith(start) and _HASH.fullmatch(uri[len(start) :]) is not None


def _only(value: IssueValue, tag: str) -> str | None:
    found = value.values(tag)
    return found[0] if found else None
