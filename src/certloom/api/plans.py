"""Plans: what every certificate would be told under changed profiles, rules or authorities."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem
from certloom.api.routing import JSON, JSON_LINES, Answer, Call, Name, Stream, route
from certloom.api.rules import checked_all
from certloom.enrollment.books import Books
from certloom.inventory.plan_worker import Told
from certloom.inventory.planning import PlanFailed, Progress, Step, Summary, plan
from certloom.pki.certificates import parse_certificate
from certloom.policy.plan import Terms
from certloom.policy.profiles import ProfileError, parse_profile
from certloom.policy.rules import Rule

_MOST_TOLD = 1_000
_DAY = 86400
_AT_A_TIME = 2
"""Plans in one process at a time: each takes a process of its own, and reads the whole inventory."""
_RETRY_SECONDS = 30

_under_way: set[object] = set()


class Removed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What would be no more."""

    profiles: Annotated[tuple[Name, ...], msgspec.Meta(max_length=200)] = ()
    rules: Annotated[tuple[Name, ...], msgspec.Meta(max_length=200)] = ()
    authorities: Annotated[tuple[Name, ...], msgspec.Meta(max_length=200)] = ()


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """A change, as the documents that are applied declare it; what it does not mention stays as it is.

    Channels and credentials may be in it, and change nothing about certificates that there are.
    """

    profiles: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(max_length=200)] = ()
    rules: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(max_length=200)] = ()
    authorities: Annotated[tuple[dict[str, Any], ...], msgspec.Meta(max_length=200)] = ()
    """Each with `name`, and `days` for which it would be good from now on."""
    remove: Removed = Removed()


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a plan."""

    summary: Summary
    certificates: tuple[Told, ...]
    """The first that would be told something else."""
    complete: bool
    """Whether these are all; as `application/jsonl` all are told."""


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a plan as it comes: one of these. The last has the summary, or what went wrong."""

    progress: Progress | None = None
    certificate: Told | None = None
    summary: Summary | None = None
    failed: str | None = None


@route(
    "POST",
    "/plans",
    permission="plan.run",
    summary="Plan a change",
    body=Planned,
    answers={200: (Result, Line)},
    problems=(problems.INVALID, problems.UNAVAILABLE, problems.NOT_ACCEPTABLE),
    keyed=False,
    tag="plans",
)
async def run(call: Call[None, None, Planned]) -> Answer:
    """Compares, for every certificate in use, what it is told today with what it would be told.

    As `application/jsonl` it tells its progress and each certificate as they come. Nothing is changed.
    """
    call.allow_shared("plan.run")
    media = call.accepts(JSON, JSON_LINES)
    steps = _steps(call)
    if media == JSON_LINES:
        return Answer(Stream(_lines(steps)))
    told: list[Told] = []
    summary: Summary | None = None
    try:
        async with aclosing(steps):
            async for step in steps:
                if isinstance(step, Summary):
                    summary = step
                elif not isinstance(step, Progress) and len(told) < _MOST_TOLD:
                    told.append(msgspec.json.decode(step, type=Told))
    except PlanFailed as error:
        raise Problem(problems.UNAVAILABLE, str(error), retry_after=_RETRY_SECONDS) from None
    assert summary is not None
    return Answer(Result(summary=summary, certificates=tuple(told), complete=len(told) == summary.changed))


async def _steps(call: Call[None, None, Planned]) -> AsyncGenerator[Step, None]:
    """The plan, from its checking to its end. Raises ``Problem`` before its first step."""
    if len(_under_way) >= _AT_A_TIME:
        raise Problem(
            problems.UNAVAILABLE, f"{_AT_A_TIME} plans are under way already", retry_after=_RETRY_SECONDS
        )
    place = object()
    _under_way.add(place)
    try:
        services = call.services
        await services.refresh()
        before = _terms_of_today(services.books)
        after = await _changed(before, call.body, services.clock.now())
        reading = services.books.reading
        versions = {(name, v): p for name, every in reading.profiles.items() for v, p in every.items()}
        steps = plan(services.store, before, after, versions, services.clock.now())
        async with aclosing(steps):
            async for step in steps:
                yield step
    finally:
        _under_way.discard(place)


async def _lines(steps: AsyncGenerator[Step, None]) -> AsyncGenerator[Any, None]:
    try:
        async with aclosing(steps):
            async for step in steps:
                if isinstance(step, Progress):
                    yield Line(progress=step)
                elif isinstance(step, Summary):
                    yield Line(summary=step)
                else:
                    yield b'{"certificate":' + bytes(step) + b"}\n"
    except PlanFailed as error:
        yield Line(failed=str(error))


def _terms_of_today(books: Books) -> Terms:
    return Terms(
        books.profiles(),
        books.reading.rules,
        {row.name: parse_certificate(row.certificate).not_after for row in books.authority_rows()},
    )


async def _changed(before: Terms, planned: Planned, now: int) -> Terms:
    """The terms with the change in them. Raises ``Problem``."""
    authorities = dict(before.authorities)
    for i, table in enumerate(planned.authorities):
        name, days = table.get("name"), table.get("days", 3650)
        if not isinstance(name, str) or type(days) is not int or not 0 <= days <= 36500:
            raise Problem(problems.INVALID, f"name and days are needed - at `$.authorities[{i}]`")
        # An authority that is there stays what it is, unless it is said for how long.
        if name not in authorities or "days" in table:
            authorities[name] = now + days * _DAY
    profiles = dict(before.profiles)
    for i, table in enumerate(planned.profiles):
        try:
            profile = parse_profile(table)
        except ProfileError as error:
            path = f"$.profiles[{i}]{error.path.removeprefix('$')}"
            raise Problem(problems.INVALID, f"{error.message} - at `{path}`") from None
        known = profiles.get(profile.name)
        if known is None or known[0] != profile:
            profiles[profile.name] = (profile, 1 if known is None else known[1] + 1)
    rules: dict[str, tuple[Rule, int]] = {rule.name: (rule, version) for rule, version in before.rules}
    for rule in await checked_all(planned.rules, "$.rules"):
        known_rule = rules.get(rule.name)
        if known_rule is None or known_rule[0] != rule:
            rules[rule.name] = (rule, 1 if known_rule is None else known_rule[1] + 1)
    for kind, names, there in (
        ("profiles", planned.remove.profiles, profiles),
        ("rules", planned.remove.rules, rules),
        ("authorities", planned.remove.authorities, authorities),
    ):
        for i, name in enumerate(names):
            if there.pop(name, None) is None:
                raise Problem(problems.INVALID, f"there is no such thing - at `$.remove.{kind}[{i}]`")
    for name, (profile, _) in profiles.items():
        if profile.authority not in authorities and profile.authority not in before.authorities:
            raise Problem(problems.INVALID, f"profile {name!r} is of an authority that is not there")
    return Terms(profiles, tuple(rules.values()), authorities)
