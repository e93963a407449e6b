"""Approvals: what waits for people, all that they need to see, and what they say."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

from certloom.api import problems
from certloom.api.problems import Problem, declare
from certloom.api.requests import ChangeShown
from certloom.api.routing import NOT_SEEN, Answer, Call, Id, Page, Paging, at, at_or_none, route
from certloom.enrollment.agreement import still_missing
from certloom.enrollment.approval_view import Difference, differences, earlier
from certloom.enrollment.approvals import Changes, is_own, thing_of
from certloom.enrollment.books import UnknownName
from certloom.enrollment.errors import Refused
from certloom.enrollment.states import ApprovalState
from certloom.inventory.search import thing_of as thing_of_certificate
from certloom.policy.decisions import Reason, Stage
from certloom.store import approvals as statements
from certloom.store import requests as request_statements
from certloom.store.approvals import StoredApproval
from certloom.store.base import Tx
from certloom.store.request_search import Filters, find_approvals

_REQUESTS = 100

NOT_YOURS = declare("not-yours-to-decide", 403, "Somebody else must decide this")
_PROBLEM_OF = {
    "unknown-approval": problems.NOT_FOUND,
    "not-allowed": NOT_YOURS,
    "own-request": NOT_YOURS,
    "not-an-approver": NOT_YOURS,
    "not-waiting": problems.CONFLICT,
    "already-answered": problems.CONFLICT,
}
"""What stands against a decision; all else is policy's no to what was changed."""

_Changeable = Literal["validity", "names"]


class ApprovalPath(msgspec.Struct, frozen=True):
    id: Id


class ApprovalQuery(Paging, frozen=True, kw_only=True):
    state: ApprovalState | None = None
    mine: bool = False
    """Only what waits for your decision now."""
    requester: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    owner: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    team: Annotated[str, msgspec.Meta(max_length=63)] | None = None
    profile: Annotated[str, msgspec.Meta(max_length=63)] | None = None


class DecisionShown(msgspec.Struct, frozen=True):
    """What one person said."""

    by: str
    actor: str
    at: datetime
    stage: int
    agreed: bool
    reason: str
    void: bool
    """Whether it does not count any more, since somebody changed what is agreed to."""


class Earlier(msgspec.Struct, frozen=True):
    """A certificate that there is or was for some of these names."""

    id: int
    names: tuple[str, ...]
    profile: str
    requester: str
    team: str | None
    key_type: str
    not_before: datetime
    not_after: datetime
    revoked: datetime | None


class Approval(msgspec.Struct, frozen=True, kw_only=True):
    """What people are asked to agree to."""

    id: str
    state: str
    """`waiting`, `granted`, `denied`, `expired`, `withdrawn` or `lapsed`."""
    protocol: str
    channel: str
    requester: str
    owner: str | None
    team: str | None
    profile: str
    profile_version: int
    names: tuple[str, ...]
    """What a certificate would be issued for, changes included."""
    lifetime: int | None
    """Seconds, where the requester or an approver said so; else the profile decides."""
    stages: tuple[Stage, ...]
    stage: int
    """The one it is in, counted from 0."""
    missing: int
    """How many people the present stage still lacks."""
    reasons: tuple[Reason, ...]
    """Why people are asked, with the policy rules that say so; then how it ended, if it did not well."""
    created: datetime
    updated: datetime
    expires: datetime
    """Until when it waits."""
    good_until: datetime | None
    """Until when further asks for the same are issued at once."""


class ApprovalInFull(Approval, frozen=True, kw_only=True):
    """All that an approver needs to see."""

    subject: str
    key: str
    asked_names: tuple[str, ...]
    asked_lifetime: int | None
    not_before: datetime | None
    not_after: datetime | None
    comment: str
    address: str
    """Where the first ask came from."""
    replaces: int | None
    may_change: tuple[_Changeable, ...]
    warnings: tuple[Reason, ...]
    decisions: tuple[DecisionShown, ...]
    changes: tuple[ChangeShown, ...]
    differences: tuple[Difference, ...]
    """What is other than with the newest certificate of these names."""
    earlier: tuple[Earlier, ...]
    """The newest certificates of these names."""
    requests: tuple[str, ...]
    """The ids of the newest requests under it."""
    own: bool
    """Whether it was asked on your own behalf, so that you may not decide it."""
    can_decide: bool
    """Whether it waits for your decision."""


class ChangesWanted(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be otherwise, where the profile lets approvers change it."""

    lifetime: Annotated[int, msgspec.Meta(ge=60, le=100 * 366 * 86400)] | None = None
    names: (
        Annotated[
            tuple[Annotated[str, msgspec.Meta(min_length=3, max_length=2100)], ...],
            msgspec.Meta(min_length=1, max_length=1000),
        ]
        | None
    ) = None
    """All names the certificate is to have, `type:value`."""


class NewDecision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A yes or no."""

    decision: Literal["approve", "deny"]
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    """Needed where it is no: the requester is told."""
    changes: ChangesWanted | None = None


class Withdrawal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reason: Annotated[str, msgspec.Meta(max_length=1000)] = ""


def shown(approval: StoredApproval) -> Approval:
    return Approval(**_fields(approval))


def _fields(a: StoredApproval) -> dict[str, Any]:
    return {
        "id": a.id,
        "state": a.state,
        "protocol": a.protocol,
        "channel": a.channel,
        "requester": a.requester,
        "owner": a.owner,
        "team": a.team,
        "profile": a.profile,
        "profile_version": a.profile_version,
        "names": a.effective_names,
        "lifetime": a.changed_lifetime or a.asked.lifetime,
        "stages": a.stages,
        "stage": a.stage,
        "missing": still_missing(a),
        "reasons": a.reasons,
        "created": at(a.created),
        "updated": at(a.updated),
        "expires": at(a.expires),
        "good_until": at_or_none(a.good_until),
    }


def _in_full(call: Call[Any, Any, Any], tx: Tx, a: StoredApproval) -> ApprovalInFull:
    # Whoever asks for a name sees the approval, and must not learn from it who else has certificates.
    every = earlier(tx, a)
    before = [c for c in every if call.may("certificate.read", thing_of_certificate(c))]
    try:
        profile, _ = call.services.books.profile(a.profile, a.profile_version)
    except UnknownName:
        profile = None
    return ApprovalInFull(
        **_fields(a),
        subject=a.asked.subject,
        key=a.asked.key,
        asked_names=a.names,
        asked_lifetime=a.asked.lifetime,
        not_before=at_or_none(a.asked.not_before),
        not_after=at_or_none(a.asked.not_after),
        comment=a.asked.comment,
        address=a.asked.address,
        replaces=a.asked.replaces,
        may_change=a.asked.may_change,  # type: ignore[arg-type]  # a profile has no others
        warnings=a.asked.warnings,
        decisions=tuple(
            DecisionShown(d.name, d.actor, at(d.at), d.stage, d.agreed, d.reason, d.void) for d in a.decisions
        ),
        changes=tuple(
            ChangeShown(c.name, at(c.at), c.lifetime_before, c.lifetime, c.names_before, c.names)
            for c in a.changes
        ),
        differences=tuple(differences(a, before, profile, hidden=len(before) < len(every))),
        earlier=tuple(
            Earlier(
                c.id,
                c.names,
                c.profile,
                c.requester,
                c.team,
                c.key_type,
                at(c.not_before),
                at(c.not_after),
                at_or_none(c.revoked),
            )
            for c in before
        ),
        requests=tuple(request.id for request in request_statements.under(tx, a.id, _REQUESTS)),
        own=is_own(a, call.principal),
        can_decide=call.services.approvals.can_decide(a, call.principal),
    )


@route(
    "GET",
    "/approvals",
    permission="approval.read",
    summary="List approvals",
    query=ApprovalQuery,
    answers={200: Page[Approval]},
    tag="approvals",
)
async def listing(call: Call[None, ApprovalQuery, None]) -> Answer:
    """Newest first. A page may be short, or empty, and still have a `next`."""
    query = call.query
    position = call.position(tuple[str])
    state = query.state.value if query.state is not None else None
    if query.mine:
        if state not in (None, ApprovalState.WAITING):
            return Answer(Page(()))
        state = ApprovalState.WAITING
    filters = Filters(
        state=state, owner=query.owner, team=query.team, profile=query.profile, requester=query.requester
    )
    principal = call.principal
    within = principal.reach("approval.decide" if query.mine else "approval.read").within
    found = await call.services.store.scan(
        lambda tx: find_approvals(tx, filters, within, call.limit, position)
    )
    seen = [
        shown(approval)
        for approval in found.rows
        if principal.may("approval.read", thing_of(approval))
        and (not query.mine or call.services.approvals.can_decide(approval, principal))
    ]
    return Answer(Page(tuple(seen), call.cursor(found.after) if found.after is not None else None))


def _get(tx: Tx, id: str) -> StoredApproval:
    approval = statements.get(tx, id)
    if approval is None:
        raise Problem(problems.NOT_FOUND, NOT_SEEN)
    return approval


@route(
    "GET",
    "/approvals/{id}",
    permission="approval.read",
    summary="Show an approval",
    path=ApprovalPath,
    answers={200: ApprovalInFull},
    problems=(problems.NOT_FOUND,),
    tag="approvals",
)
async def show(call: Call[ApprovalPath, None, None]) -> Answer:
    """All that an approver needs to see before they decide."""

    def unit(tx: Tx) -> ApprovalInFull:
        approval = _get(tx, call.path.id)
        call.allow("approval.read", thing_of(approval))
        return _in_full(call, tx, approval)

    return Answer(await call.services.store.scan(unit))


@route(
    "POST",
    "/approvals/{id}/decisions",
    permission="approval.decide",
    summary="Approve or deny",
    path=ApprovalPath,
    body=NewDecision,
    answers={200: ApprovalInFull},
    problems=(problems.NOT_FOUND, problems.CONFLICT, problems.REFUSED, NOT_YOURS),
    tag="approvals",
)
async def decide(call: Call[ApprovalPath, None, NewDecision]) -> Answer:
    """One no ends it. A yes counts once for each person, over all stages; with the last that is needed, all
    requests that wait under it are issued. Whoever changes something makes what was agreed before void.
    """
    said, wanted = call.body, call.body.changes
    changes = Changes(wanted.lifetime, wanted.names) if wanted is not None else None

    def unit(tx: Tx) -> Answer:
        approval = _get(tx, call.path.id)
        call.allow("approval.read", thing_of(approval))
        decided = call.services.approvals.decide_in(
            tx, approval.id, call.principal, call.origin, said.decision, said.reason, changes
        )
        return Answer(_in_full(call, tx, decided))

    try:
        return await call.create(unit)
    except Refused as refused:
        code = _PROBLEM_OF.get(refused.code, problems.REFUSED)
        raise Problem(code, str(refused), reasons=refused.reasons) from None


@route(
    "POST",
    "/approvals/{id}/withdraw",
    permission="request.cancel",
    summary="Take back a question, or an agreement",
    path=ApprovalPath,
    body=Withdrawal,
    answers={200: ApprovalInFull},
    problems=(problems.NOT_FOUND, problems.CONFLICT),
    tag="approvals",
)
async def withdraw(call: Call[ApprovalPath, None, Withdrawal]) -> Answer:
    """While it waits: all requests under it are withdrawn. Once granted: people are asked anew next time."""

    def unit(tx: Tx) -> Answer:
        approval = _get(tx, call.path.id)
        call.allow("request.cancel", thing_of(approval))
        try:
            gone = call.services.approvals.withdraw_in(tx, approval.id, call.origin, call.body.reason)
        except Refused as refused:
            raise Problem(problems.CONFLICT, str(refused), reasons=refused.reasons) from None
        return Answer(_in_full(call, tx, gone))

    return await call.create(unit)
