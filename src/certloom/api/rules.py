"""Policy rules: conditions above the profiles, every version of them, and what they say to a request."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.requests import BAD_CSR, csr_of_pem, thing_of
from certloom.api.routing import NOT_SEEN, Answer, Call, Name, Page, Paging, RowId, at, etag, route
from certloom.enrollment import rulebook
from certloom.enrollment.explaining import Supposed, explain_request, explain_supposed
from certloom.pki.identifiers import Identifier, IdentifierError, parse
from certloom.pki.names import Name as Subject
from certloom.policy.decisions import Requester, Stage
from certloom.policy.explain import Explanation
from certloom.policy.expressions.trial import TrialError, TrialUnavailable, try_out
from certloom.policy.key_types import key_of_type
from certloom.policy.rules import Effect, Rule, RuleError, parse_rule, stored_rule
from certloom.store import configuration
from certloom.store import requests as request_statements
from certloom.store import rules as statements
from certloom.store.base import Tx
from certloom.store.rules import StoredRule

_TAG = "rules"
_TRIAL_SECONDS = 10
_Text = Annotated[str, msgspec.Meta(max_length=512)]


class RulePath(msgspec.Struct, frozen=True):
    name: Name


class VersionPath(msgspec.Struct, frozen=True):
    name: Name
    version: RowId


class RuleTerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule, but for its name."""

    when: Annotated[str, msgspec.Meta(min_length=1, max_length=4096)]
    """The condition, in CEL."""
    effect: Effect
    message: Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
    """What the requester is told."""
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""
    profiles: Annotated[tuple[Name, ...], msgspec.Meta(max_length=100)] = ()
    """The profiles it is about; none means all."""
    stages: Annotated[tuple[Stage, ...], msgspec.Meta(max_length=5)] = ()
    """For `ask`: who must agree; one who holds the role `approver` unless said."""
    wait: int | str = "7d"
    """For `ask`: how long a request waits for people: seconds, or such as `7d`."""
    good_for: int | str = "7d"
    """For `ask`: how long their agreement serves further requests for the same."""
    enabled: bool = True


class RuleVersion(msgspec.Struct, frozen=True):
    """One version of a rule."""

    name: str
    version: int
    author: str
    created: datetime
    rule: Rule | None
    """Null where this version removed the rule."""


class Questioned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is to be explained: a request that is kept (`request` alone), or one that nobody made."""

    request: Annotated[str, msgspec.Meta(max_length=64)] = ""
    """Id of an enrolment request."""
    profile: Annotated[str, msgspec.Meta(max_length=63)] = ""
    csr: Annotated[str, msgspec.Meta(max_length=100_000)] = ""
    """PEM; gives names, key and subject, unless these are said."""
    names: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=2100)], ...], msgspec.Meta(max_length=1000)
    ] = ()
    """`type:value`, such as `dns:www.example.com`."""
    key_type: Annotated[str, msgspec.Meta(max_length=20)] = ""
    """`P-256`, `rsa-3072`, `ed25519` ..."""
    lifetime: Annotated[int, msgspec.Meta(ge=60, le=100 * 365 * 86400)] | None = None
    """Seconds."""
    protocol: _Text = "api"
    channel: _Text = "default"
    requester_kind: _Text = "person"
    requester: _Text = ""
    """Id of who asks."""
    owner: _Text = ""
    team: _Text = ""


def _shown(row: StoredRule) -> RuleVersion:
    rule = None if row.removed else stored_rule(row.body)
    return RuleVersion(row.name, row.version, row.author, at(row.created), rule)


def _etag(row: StoredRule | None) -> str | None:
    return None if row is None or row.removed else etag(row.name, row.version)


def _found(row: StoredRule | None) -> StoredRule:
    if row is None or row.removed:
        raise Problem(problems.NOT_FOUND, "there is no such rule")
    return row


@route(
    "GET",
    "/rules",
    permission="rule.read",
    summary="List policy rules",
    query=Paging,
    answers={200: Page[RuleVersion]},
    tag=_TAG,
)
async def listing(call: Call[None, Paging, None]) -> Answer:
    """The newest version of each, by name; those that are not enabled as well."""
    call.allow("rule.read")
    after = call.position(str) or ""
    rows = [row for row in await call.services.store.read(statements.current) if row.name > after]
    return call.page([_shown(row) for row in rows], lambda shown: shown.name)


@route(
    "GET",
    "/rules/{name}",
    permission="rule.read",
    summary="Show a policy rule",
    path=RulePath,
    answers={200: RuleVersion},
    etag=True,
    tag=_TAG,
)
async def show(call: Call[RulePath, None, None]) -> Answer:
    """Its newest version."""
    call.allow("rule.read")
    row = _found(await call.services.store.read(lambda tx: statements.newest(tx, call.path.name)))
    return Answer(_shown(row), etag=_etag(row))


@route(
    "PUT",
    "/rules/{name}",
    permission="rule.write",
    summary="Make or change a policy rule",
    path=RulePath,
    body=RuleTerms,
    answers={200: RuleVersion, 201: RuleVersion},
    problems=(problems.INVALID, problems.CONFLICT),
    edits=True,
    tag=_TAG,
)
async def put(call: Call[RulePath, None, RuleTerms]) -> Answer:
    """Each change is a version of its own.

    A condition that could take too long is refused (422), and so is one with which the rules that are asked
    together could (409).
    """
    call.allow_shared("rule.write")
    rule = await _checked({"name": call.path.name, **msgspec.structs.asdict(call.body)})

    def unit(tx: Tx) -> Answer:
        configuration.edit(tx)
        known = statements.newest(tx, rule.name)
        call.require_match(_etag(known))
        before = rulebook.extent(tx)
        made, changed = rulebook.put(tx, call.services.clock, rule, call.origin)
        try:
            if changed:
                rulebook.check_bounds(tx, before)
        except rulebook.TooManyRules as error:
            raise Problem(problems.CONFLICT, str(error)) from None
        new = known is None or known.removed
        return Answer(
            _shown(made), status=201 if new else 200, etag=_etag(made), location=f"/rules/{rule.name}"
        )

    answer = await call.write(unit)
    await call.services.refresh()
    return answer


@route(
    "DELETE",
    "/rules/{name}",
    permission="rule.write",
    summary="Remove a policy rule",
    path=RulePath,
    answers={204: None},
    edits=True,
    tag=_TAG,
)
async def remove(call: Call[RulePath, None, None]) -> Answer:
    """It is no longer asked. Its versions can still be seen, since requests tell of them."""
    call.allow_shared("rule.write")

    def unit(tx: Tx) -> None:
        configuration.edit(tx)
        known = _found(statements.newest(tx, call.path.name))
        call.require_match(_etag(known))
        rulebook.remove(tx, call.services.clock, known, call.origin)

    await call.write(unit)
    await call.services.refresh()
    return Answer(status=204)


@route(
    "GET",
    "/rules/{name}/versions",
    permission="rule.read",
    summary="List the versions of a policy rule",
    path=RulePath,
    query=Paging,
    answers={200: Page[RuleVersion]},
    tag=_TAG,
)
async def versions(call: Call[RulePath, Paging, None]) -> Answer:
    """Newest first; also of a rule that was removed."""
    call.allow("rule.read")
    before = call.position(int)
    rows = await call.services.store.read(
        lambda tx: statements.versions(tx, call.path.name, before, call.limit + 1)
    )
    if not rows and before is None:
        raise Problem(problems.NOT_FOUND, "there is no such rule")
    return call.page([_shown(row) for row in rows], lambda shown: shown.version)


@route(
    "GET",
    "/rules/{name}/versions/{version}",
    permission="rule.read",
    summary="Show one version of a policy rule",
    path=VersionPath,
    answers={200: RuleVersion},
    tag=_TAG,
)
async def show_version(call: Call[VersionPath, None, None]) -> Answer:
    """As it was then."""
    call.allow("rule.read")
    row = await call.services.store.read(lambda tx: statements.version(tx, call.path.name, call.path.version))
    if row is None:
        raise Problem(problems.NOT_FOUND, "there is no such version")
    return Answer(_shown(row))


@route(
    "POST",
    "/explanations",
    permission="rule.read",
    summary="Explain a decision",
    body=Questioned,
    answers={200: Explanation},
    problems=(problems.INVALID, problems.NOT_FOUND, BAD_CSR),
    keyed=False,
    tag=_TAG,
)
async def explanation(call: Call[None, None, Questioned]) -> Answer:
    """What the policy says now, who decides it, and what each rule says. Nothing is kept."""
    call.allow("rule.read")
    services, body = call.services, call.body
    now = services.clock.now()
    if not body.request:
        supposed = _supposed(body)
        if not services.books.has_profile(supposed.profile):
            raise Problem(problems.INVALID, f"there is no profile {supposed.profile!r}")
        return Answer(
            await services.store.scan(lambda tx: explain_supposed(tx, services.books, supposed, now))
        )

    def unit(tx: Tx) -> Explanation:
        request = request_statements.get(tx, body.request)
        if request is None:
            raise Problem(problems.NOT_FOUND, NOT_SEEN)
        call.allow("request.read", thing_of(request))
        return explain_request(tx, services.books, request, now)

    return Answer(await services.store.scan(unit))


async def checked_all(tables: Sequence[dict[str, Any]], path: str) -> list[Rule]:
    """Rules, each of its own name, whose conditions stood their trial. Raises ``Problem``."""
    rules = []
    for i, table in enumerate(tables):
        rules.append(_read(table, f"{path}[{i}]"))
        if rules[-1].name in {rule.name for rule in rules[:-1]}:
            raise Problem(problems.INVALID, f"a rule of that name is here twice - at `{path}[{i}].name`")
    try:
        await _try_out([rule.when for rule in rules])
    except TrialError as error:
        raise Problem(problems.INVALID, f"{error} - at `{path}[{error.index}].when`") from None
    return rules


async def _checked(table: dict[str, Any]) -> Rule:
    rule = _read(table, "$")
    try:
        await _try_out([rule.when])
    except TrialError as error:
        raise Problem(problems.INVALID, f"{error} - at `$.when`") from None
    return rule


async def _try_out(conditions: Sequence[str]) -> None:
    try:
        await try_out(conditions)
    except TrialUnavailable as error:
        raise Problem(problems.UNAVAILABLE, str(error), retry_after=_TRIAL_SECONDS) from error


def _read(table: dict[str, Any], path: str) -> Rule:
    try:
        return parse_rule(msgspec.to_builtins(table))
    except RuleError as error:
        where = path + error.path.removeprefix("$")
        raise Problem(problems.INVALID, f"{error.message} - at `{where}`") from None


def _supposed(body: Questioned) -> Supposed:
    subject, names, key = Subject(), [], None
    try:
        if body.csr:
            csr = csr_of_pem(body.csr)
            subject, names, key = csr.subject, list(csr.identifiers), csr.key
        if body.names:
            names = [_identifier(text) for text in body.names]
        if body.key_type:
            key = key_of_type(body.key_type)
    except (IdentifierError, ValueError) as error:
        raise Problem(problems.INVALID, str(error)) from None
    if key is None:
        raise Problem(problems.INVALID, "say csr or key_type")
    return Supposed(
        profile=body.profile,
        protocol=body.protocol,
        channel=body.channel,
        requester=Requester(body.requester_kind, body.requester, body.owner or None, body.team or None),
        key=key,
        identifiers=tuple(dict.fromkeys(names)),
        subject=subject,
        lifetime=body.lifetime,
    )


def _identifier(text: str) -> Identifier:
    type, colon, value = text.partition(":")
    if not colon:
        raise ValueError(f"a name is written type:value, not {text[:100]!r}")
    return parse(type, value)
