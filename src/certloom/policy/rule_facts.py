"""What rules are told of one ask: a value for each path that some rule looks at, and for no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.pki.names import Name
from certloom.policy.decisions import Facts, ShownCertificate
from certloom.policy.expressions.shapes import MOST_NAMES
from certloom.policy.profiles import Profile
from certloom.policy.subjects import OIDS


class Moment(msgspec.Struct, frozen=True):
    """All that values are made from. A certificate's lifetime is not in the facts: the profile makes it."""

    facts: Facts
    profile: Profile
    version: int
    identifiers: tuple[Identifier, ...]
    """Each once."""
    not_before: int
    not_after: int
    """Unix seconds, inclusive; both 0 where the profile grants no such times."""


_SHORT = {oid: name for name, oid in OIDS.items()}


def _of_type(type: IdentifierType) -> Callable[[Moment], list[str]]:
    return lambda m: [i.value for i in m.identifiers if i.type is type]


def _subject(name: Name) -> dict[str, str]:
    found: dict[str, str] = {}
    for oid, text in name.attributes[:64]:
        found.setdefault(_SHORT.get(oid, oid), text[:1024])
    return found


def _names(identifiers: Iterable[Identifier]) -> list[dict[str, str]]:
    return [{"type": i.type.value, "value": i.value} for i in identifiers]


_NOTHING_SHOWN = ShownCertificate(Name())


def _shown(m: Moment) -> ShownCertificate:
    return m.facts.certificate or _NOTHING_SHOWN


def _inventory(m: Moment) -> list[dict[str, Any]]:
    return [
        {
            "type": h.name.type.value,
            "name": h.name.value,
            "valid": h.valid,
            "last_team": h.last_team or "",
            "last_owner": h.last_owner or "",
            "last_requester": h.last_requester or "",
            "last_profile": h.last_profile or "",
            "last_issued": h.last_issued or 0,
        }
        for h in m.facts.history or ()
    ]


_VALUES: dict[str, Callable[[Moment], Any]] = {
    "request.protocol": lambda m: m.facts.protocol,
    "request.channel": lambda m: m.facts.channel,
    "request.profile": lambda m: m.profile.name,
    "request.names": lambda m: _names(m.identifiers),
    "request.dns": _of_type(IdentifierType.DNS),
    "request.ip": _of_type(IdentifierType.IP),
    "request.email": _of_type(IdentifierType.EMAIL),
    "request.uri": _of_type(IdentifierType.URI),
    "request.wildcard": lambda m: any(i.is_wildcard for i in m.identifiers),
    "request.key.type": lambda m: m.facts.key.algorithm,
    "request.key.bits": lambda m: m.facts.key.bits,
    "request.key.curve": lambda m: m.facts.key.curve,
    "request.subject": lambda m: _subject(m.facts.csr_subject),
    "request.lifetime": lambda m: m.not_after - m.not_before + 1 if m.not_after else 0,
    "request.renewal": lambda m: m.facts.renewal,
    "request.not_before": lambda m: m.not_before,
    "request.not_after": lambda m: m.not_after,
    "requester.kind": lambda m: m.facts.requester.kind,
    "requester.id": lambda m: m.facts.requester.id,
    "requester.owner": lambda m: m.facts.requester.owner or "",
    "requester.team": lambda m: m.facts.requester.team or "",
    "requester.certificate.subject": lambda m: _subject(_shown(m).subject),
    "requester.certificate.names": lambda m: _names(_shown(m).identifiers[:MOST_NAMES]),
    "requester.certificate.issuer": lambda m: _shown(m).issuer[:4096],
    "requester.certificate.anchors": lambda m: _shown(m).anchors,
    "requester.certificate.profile": lambda m: _shown(m).profile,
    "profile.name": lambda m: m.profile.name,
    "profile.version": lambda m: m.version,
    "profile.authority": lambda m: m.profile.authority,
    "inventory": _inventory,
    "now": lambda m: m.facts.now,
}

OF_THE_KEY = frozenset({"request.key.type", "request.key.bits", "request.key.curve", "request.subject"})
"""Not known before there is a CSR."""


def collect(paths: Iterable[str], moment: Moment) -> dict[str, Any]:
    """The values that these paths lead to."""
    return {path: _VALUES[path](moment) for path in paths}
