"""``certloom apply``: profiles, channels, trust anchors, credentials and authorities, as a document
declares them.

Everything is checked before anything is written, and written in one unit: all or nothing. What a document
does not mention stays as it is. A profile gets a new version only if it differs from its newest one.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from certloom.api import edits
from certloom.api.authority_edits import DeclaredAuthority, make_ca, put_authority, read_subject, read_terms
from certloom.api.edits import Change
from certloom.api.findings import Findings
from certloom.api.problems import CONFLICT, INVALID, Problem
from certloom.api.routing import Answer, Authenticated, Call, Name, Time, at_or_none, route
from certloom.api.rules import checked_all
from certloom.api.services import Services
from certloom.api.telling import told
from certloom.audit import Origin
from certloom.authorities.creation import NewCA
from certloom.enrollment import rulebook
from certloom.identity import issuing
from certloom.identity.credentials import CredentialError, Made, Terms
from certloom.identity.kinds import KINDS
from certloom.identity.principals import Principal, Thing
from certloom.policy.anchors import TrustAnchors
from certloom.policy.channels import Channel, protocol_of
from certloom.policy.name_rules import PatternError, check_pattern
from certloom.policy.profiles import Profile
from certloom.policy.rules import Rule
from certloom.store import authorities as authority_statements
from certloom.store import configuration
from certloom.store import credentials as credential_statements
from certloom.store import rules as rule_statements
from certloom.store.base import Tx

_encode = msgspec.json.Encoder(order="deterministic").encode


class DeclaredCredential(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A credential of an id that its operator chose; its secret is made here and shown once."""

    id: Name
    kind: Literal["acme-eab", "est-password", "est-token", "est-key", "cmc-secret"] = "acme-eab"
    channel: str
    names: tuple[str, ...] = ()
    """Name patterns it may be used for."""
    preauthorized: bool = False
    """Whether its names need no further proof of control."""
    uses: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    """How often it may be used (ACME: how many accounts it may bind), counted from when it is made."""
    expires: Time | None = None


class Document(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file declares. Profiles stay tables until ``parse_profile`` reads them."""

    authorities: tuple[DeclaredAuthority, ...] = ()
    profiles: tuple[dict[str, Any], ...] = ()
    rules: tuple[dict[str, Any], ...] = ()
    trust_anchors: tuple[TrustAnchors, ...] = ()
    channels: tuple[Channel, ...] = ()
    credentials: tuple[DeclaredCredential, ...] = ()


_TABLES: dict[str, Any] = {
    "authorities": DeclaredAuthority,
    "profiles": dict[str, Any],
    "rules": dict[str, Any],
    "trust_anchors": TrustAnchors,
    "channels": Channel,
    "credentials": DeclaredCredential,
}


class Declaration(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What there shall be."""

    document: dict[str, Any]
    """``authorities``, ``profiles``, ``rules``, ``trust_anchors``, ``channels`` and ``credentials``, each a
    list of tables."""
    dry_run: bool = False
    """Say what would become of it, and change nothing."""


class ShownOnce(msgspec.Struct, frozen=True):
    """A secret that was made; it is not shown again."""

    id: str
    kind: str
    secret: str
    """As clients want it; of ACME, base64url without padding (RFC 8555 section 7.3.4)."""
    channel: str
    names: tuple[str, ...]
    preauthorized: bool
    expires: datetime | None


class Applied(msgspec.Struct, frozen=True):
    """What became of a declaration."""

    dry_run: bool
    changes: tuple[Change, ...]
    secrets: tuple[ShownOnce, ...] = ()


class _DryRun(Exception):
    """Rolls the unit back."""


@route(
    "POST",
    "/declarations",
    permission=Authenticated("each thing that is declared takes the permission to write such things"),
    summary="Apply a declaration",
    body=Declaration,
    answers={200: Applied},
    problems=(CONFLICT, INVALID),
    tag="declarations",
)
async def apply(call: Call[None, None, Declaration]) -> Answer:
    """Makes and changes what is declared, all of it or nothing; what is not mentioned stays as it is."""
    services = call.services
    document, profiles = read_document(call.body.document)
    _check_permissions(call, document, profiles)
    await services.refresh()
    _check(services, document, profiles)
    rules = await checked_all(document.rules, "$.rules")
    new_cas = {} if call.body.dry_run else await _make_cas(services, document)
    seen: list[Change] = []

    def unit(tx: Tx) -> Answer:
        seen.clear()
        applied = _put(tx, services, document, profiles, rules, new_cas, call.principal, call.origin)
        if call.body.dry_run:
            seen.extend(applied.changes)
            raise _DryRun
        return Answer(applied)

    try:
        answer = await call.create(unit)
    except _DryRun:
        return Answer(Applied(True, tuple(seen)))
    await services.refresh()
    return answer


def read_document(tree: dict[str, Any]) -> tuple[Document, list[Profile]]:
    """A document, and its profiles. Raises ``Problem`` with all that is wrong, each with its place."""
    findings = Findings()
    tree = _with_protocols(tree)
    try:
        document = msgspec.convert(tree, Document, strict=False)
    except msgspec.ValidationError as error:
        _read_one_by_one(tree, findings)
        findings.tell()
        raise Problem(INVALID, str(error)) from None
    profiles = []
    for i, table in enumerate(document.profiles):
        with findings.gather():
            profiles.append(edits.read_profile(table, f"$.profiles[{i}]"))
    findings.tell()
    return document, profiles


def _with_protocols(tree: dict[str, Any]) -> dict[str, Any]:
    """Channels that name no protocol are ACME's, as when there was no other."""
    channels = tree.get("channels")
    if not isinstance(channels, list):
        return tree
    told = [{"protocol": "acme", **table} if isinstance(table, dict) else table for table in channels]
    return {**tree, "channels": told}


def _read_one_by_one(tree: dict[str, Any], findings: Findings) -> None:
    """What is wrong with each table by itself: a whole document's first error would hide the others."""
    for kind, type in _TABLES.items():
        tables = tree.get(kind)
        for i, table in enumerate(tables if isinstance(tables, list) else ()):
            with findings.gather():
                try:
                    msgspec.convert(table, type, strict=False)
                except msgspec.ValidationError as error:
                    message, _, path = str(error).partition(" - at `$")
                    raise edits.invalid(message, f"$.{kind}[{i}]{path.rstrip('`')}") from None
                if kind == "profiles":
                    edits.read_profile(table, f"$.profiles[{i}]")


def _check_permissions(call: Call[Any, Any, Any], document: Document, profiles: Sequence[Profile]) -> None:
    """Before anything is said about what is there. Raises ``Problem``."""
    if document.authorities:
        call.allow_shared("authority.write")
    for profile in profiles:
        call.allow_shared("profile.write", profile=profile.name)
    if document.rules:
        call.allow_shared("rule.write")
    if document.trust_anchors:
        call.allow_shared("anchor.write")
    for channel in document.channels:
        call.allow_shared("channel.write", channel=f"{protocol_of(channel)}/{channel.name}")
    for credential in document.credentials:
        at = f"{_protocol(credential)}/{credential.channel}"
        call.allow("credential.write", Thing(owner="", team="", channel=at))


def _check(services: Services, document: Document, profiles: Sequence[Profile]) -> None:
    """Raises ``Problem`` for what refers to nothing, or could not work."""
    for kind, names in (
        ("authorities", [a.name for a in document.authorities]),
        ("profiles", [p.name for p in profiles]),
        ("trust_anchors", [a.name for a in document.trust_anchors]),
        ("channels", [f"{protocol_of(c)}/{c.name}" for c in document.channels]),
        ("credentials", [c.id for c in document.credentials]),
    ):
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise Problem(INVALID, f"{kind} declares {sorted(twice)[0]!r} twice")
    findings = Findings()
    authorities = {row.name for row in services.books.authority_rows()}
    for i, authority in enumerate(document.authorities):
        with findings.gather():
            read_subject(authority.subject, f"$.authorities[{i}]")
            read_terms(authority, f"$.authorities[{i}]")
        with findings.gather():
            if authority.issuer is not None and authority.issuer not in authorities:
                place = f"$.authorities[{i}].issuer"
                raise edits.invalid(f"there is no authority {authority.issuer!r}", place)
        authorities.add(authority.name)
    for i, profile in enumerate(profiles):
        with findings.gather():
            edits.check_profile(profile, authorities, f"$.profiles[{i}]")
    known = {profile.name for profile in profiles} | services.books.profiles().keys()
    for i, declared in enumerate(document.trust_anchors):
        with findings.gather():
            edits.check_anchors(declared, f"$.trust_anchors[{i}]")
    anchors = services.books.reading.anchors.keys() | {a.name for a in document.trust_anchors}
    for i, channel in enumerate(document.channels):
        with findings.gather():
            edits.check_channel(channel, known, anchors, f"$.channels[{i}]")
    channels = {(protocol_of(channel), channel.name) for channel in document.channels}
    for i, credential in enumerate(document.credentials):
        with findings.gather():
            protocol = _protocol(credential)
            there = services.books.has_channel(protocol, credential.channel)
            if not there and (protocol, credential.channel) not in channels:
                place = f"$.credentials[{i}].channel"
                raise edits.invalid(f"there is no channel {credential.channel!r} of {protocol}", place)
        with findings.gather():
            _check_names(credential, f"$.credentials[{i}]")
    findings.tell()


def _check_names(credential: DeclaredCredential, path: str) -> None:
    for i, name in enumerate(credential.names):
        try:
            check_pattern(name)
        except PatternError as error:
            raise edits.invalid(str(error), f"{path}.names[{i}]") from None
    if credential.preauthorized and not credential.names:
        raise edits.invalid("a credential that pre-authorizes must say for which names", f"{path}.names")


async def _make_cas(services: Services, document: Document) -> dict[str, NewCA]:
    """The CAs that are not there yet, made outside the unit: keys take their time."""
    made: dict[str, NewCA] = {}
    there = await services.store.read(authority_statements.names)
    for i, declared in enumerate(document.authorities):
        if declared.name not in there:
            above = made.get(declared.issuer or "")
            made[declared.name] = await make_ca(services, declared, above, f"$.authorities[{i}]")
    return made


def _put(
    tx: Tx,
    services: Services,
    document: Document,
    profiles: Sequence[Profile],
    rules: Sequence[Rule],
    new_cas: dict[str, NewCA],
    by: Principal,
    origin: Origin,
) -> Applied:
    configuration.edit(tx)
    changes: list[Change] = []
    secrets: list[ShownOnce] = []
    for authority in document.authorities:
        ca = new_cas.get(authority.name)
        changes.append(put_authority(tx, services, authority, ca, origin))
    for profile in profiles:
        changes.append(edits.put_profile(tx, services, profile, origin)[0])
    changes += _put_rules(tx, services, rules, origin)
    for anchors in document.trust_anchors:
        changes.append(edits.put_anchors(tx, services, anchors, origin))
    for channel in document.channels:
        changes.append(edits.put_channel(tx, services, channel, origin))
    for credential in document.credentials:
        changes.append(_put_credential(tx, services, credential, secrets, by, origin))
    if any(change.change != "unchanged" for change in changes):
        configuration.touch(tx)
    return Applied(False, tuple(changes), tuple(secrets))


def _put_rules(tx: Tx, services: Services, rules: Sequence[Rule], origin: Origin) -> list[Change]:
    if not rules:
        return []
    before, changes = rulebook.extent(tx), []
    for rule in rules:
        known = rule_statements.newest(tx, rule.name)
        made, new = rulebook.put(tx, services.clock, rule, origin)
        version = f"version {made.version}"
        if not new:
            changes.append(Change("rule", rule.name, "unchanged", (version,)))
        elif known is None or known.removed:
            changes.append(Change("rule", rule.name, "created", (version,)))
        else:
            details = (version, *edits.differences(known.body, made.body))
            changes.append(Change("rule", rule.name, "changed", details))
    # What is declared counts as a whole: one rule may take less so that another may take more.
    if any(change.change != "unchanged" for change in changes):
        try:
            rulebook.check_bounds(tx, before)
        except rulebook.TooManyRules as error:
            raise Problem(CONFLICT, str(error)) from None
    return changes


def _put_credential(
    tx: Tx,
    services: Services,
    declared: DeclaredCredential,
    secrets: list[ShownOnce],
    by: Principal,
    origin: Origin,
) -> Change:
    """As if it were made or changed by itself, with all that this takes."""
    expires = None if declared.expires is None else int(declared.expires.timestamp())
    stored = credential_statements.get(tx, declared.id)
    try:
        if stored is None:
            terms = Terms(
                names=declared.names,
                preauthorized=declared.preauthorized,
                uses=declared.uses,
                expires=expires,
            )
            made = services.credentials.create(
                tx,
                declared.kind,
                terms,
                id=declared.id,
                channel=declared.channel,
                owner=None if by.kind == "local" else by.owner,
                origin=origin,
            )
            _check_write(tx, services, by, declared.id)
            secrets.append(shown_once(made))
            return Change("credential", declared.id, "created", (f"channel {declared.channel}",))
        if stored.kind != declared.kind or stored.channel != declared.channel or stored.revoked is not None:
            raise Problem(
                CONFLICT, f"credential {declared.id!r} exists and is of another kind or channel, or revoked"
            )
        was = {"names": stored.names, "preauthorized": stored.preauthorized, "expires": stored.expires}
        now = {"names": declared.names, "preauthorized": declared.preauthorized, "expires": expires}
        if was == now:
            return Change("credential", declared.id, "unchanged")
        terms = Terms(
            label=stored.label,
            names=declared.names,
            profiles=stored.profiles,
            preauthorized=declared.preauthorized,
            uses=stored.uses_left,
            expires=expires,
            team=stored.team,
        )
        _check_write(tx, services, by, stored.id)
        services.credentials.change(tx, stored, terms, origin)
        _check_write(tx, services, by, stored.id)
    except CredentialError as error:
        raise Problem(INVALID, f"credential {declared.id!r}: {error}") from None
    return Change("credential", declared.id, "changed", edits.differences(_encode(was), _encode(now)))


def _check_write(tx: Tx, services: Services, by: Principal, id: str) -> None:
    """Raises ``Problem`` unless they may make a credential that is as this one is now."""
    now = credential_statements.get(tx, id)
    assert now is not None
    with told():
        issuing.check_write(tx, services.people, by, now)


def _protocol(declared: DeclaredCredential) -> str:
    return KINDS[declared.kind].protocol or ""


def shown_once(made: Made) -> ShownOnce:
    """A credential of a channel that was just made."""
    credential = made.credential
    assert made.secret is not None
    assert credential.channel is not None
    return ShownOnce(
        id=credential.id,
        kind=credential.kind,
        secret=made.secret,
        channel=credential.channel,
        names=credential.names,
        preauthorized=credential.preauthorized,
        expires=at_or_none(credential.expires),
    )
