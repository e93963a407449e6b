"""The pages on which people decide: what waits for them, and everything about one approval."""

from __future__ import annotations

import msgspec

from certloom.console.rendering import Reply, Templates, redirect
from certloom.console.visit import Visit
from certloom.enrollment.approvals import Approvals as EnrollmentApprovals
from certloom.enrollment.approvals import Changes, is_own, thing_of
from certloom.enrollment.errors import EnrollmentError, Refused
from certloom.identity.principals import Principal
from certloom.inventory.search import thing_of as thing_of_certificate
from certloom.policy.decisions import Reason
from certloom.policy.durations import format_duration, parse_duration
from certloom.store import approvals as statements
from certloom.store import certificates as certificate_statements
from certloom.store import people as people_statements
from certloom.store.approvals import StoredApproval
from certloom.store.base import Store, Tx
from certloom.store.certificates import StoredCertificate
from certloom.store.request_search import Filters, find_approvals, find_requests

_LISTED = 100
_EARLIER = 5
"""Certificates shown for each name."""
_MOST_NAMES = 20
"""Names whose certificates are looked up."""
_PAST = 200
"""Approvals of the same requester that are looked through for what was decided before."""
_MOST_REASON = 2_000


class _Seen(msgspec.Struct, frozen=True, kw_only=True):
    """All that the page shows."""

    approval: StoredApproval
    may_decide: bool
    """Whether their agreement is what it waits for."""
    may_deny: bool
    why_not: str
    owner_name: str
    certificates: tuple[StoredCertificate, ...]
    """Earlier ones for these names that they may see."""
    hidden: bool
    """Whether there are earlier ones that they may not see."""
    past: tuple[StoredApproval, ...]
    """What was decided before about names among these, for the same requester."""
    requests: int


class Approvals:
    """Shows and decides."""

    def __init__(self, store: Store, approvals: EnrollmentApprovals, templates: Templates) -> None:
        self._store = store
        self._approvals = approvals
        self._templates = templates

    async def waiting(self, visit: Visit) -> Reply:
        """What waits for this person."""
        assert visit.principal is not None
        principal = visit.principal
        rows = await self._store.scan(lambda tx: self._approvals.waiting_for(tx, principal, _LISTED))
        return self._templates.page("approvals.html", visit=visit, approvals=rows)

    async def show(
        self, visit: Visit, id: str, status: int = 200, problems: tuple[Reason, ...] = ()
    ) -> Reply:
        """One approval, with the form where they can decide."""
        assert visit.principal is not None
        principal = visit.principal
        seen = await self._store.scan(lambda tx: self._look(tx, principal, id))
        if seen is None:
            return self._templates.page(
                "sorry.html",
                404,
                visit=visit,
                title="No such approval",
                text="There is no such approval, or it is not yours to see.",
            )
        approval = seen.approval
        lifetime = approval.changed_lifetime or approval.asked.lifetime
        return self._templates.page(
            "approval.html",
            status,
            visit=visit,
            seen=seen,
            approval=approval,
            version=_version(approval),
            problems=problems,
            lifetime=visit.fields.get("lifetime", format_duration(lifetime) if lifetime else ""),
            names=visit.fields.get("names", "\n".join(approval.effective_names)),
            reason=visit.fields.get("reason", ""),
            saved="done" in visit.query,
            may_change_names="names" in approval.asked.may_change and approval.protocol != "acme",
            may_change_validity="validity" in approval.asked.may_change
            and not (
                approval.protocol == "acme"
                and (approval.asked.not_before is not None or approval.asked.not_after is not None)
            ),
        )

    async def decide(self, visit: Visit, id: str) -> Reply:
        """Take a decision; then show what came of it."""
        assert visit.principal is not None
        principal = visit.principal
        verb = visit.fields.get("decision", "")
        reason = visit.fields.get("reason", "").strip()
        try:
            if verb not in ("approve", "deny"):
                raise Refused(Reason("no-decision", "choose to approve or to deny"))
            if len(reason) > _MOST_REASON:
                raise Refused(Reason("reason-too-long", f"a reason has at most {_MOST_REASON} characters"))
            changes = _changes(visit) if verb == "approve" else None

            def unit(tx: Tx) -> None:
                approval = statements.get(tx, id, lock=True)
                if approval is None or not _may_see(approval, principal):
                    raise Refused(Reason("unknown-approval", "there is no such approval"))
                if visit.fields.get("version") != _version(approval):
                    raise Refused(
                        Reason(
                            "changed-meanwhile",
                            "this was changed after you opened the page: look at it again, then decide",
                        )
                    )
                if verb == "deny":
                    self._approvals.decide_in(tx, id, principal, visit.origin, "deny", reason)
                else:
                    self._approvals.decide_in(tx, id, principal, visit.origin, "approve", reason, changes)

            await self._store.write(unit)
        except EnrollmentError as error:
            return await self.show(visit, id, 422, tuple(error.reasons))
        return redirect(f"/console/approvals/{id}?done=1")

    def _look(self, tx: Tx, principal: Principal, id: str) -> _Seen | None:
        approval = statements.get(tx, id) if id.isascii() and len(id) <= 64 else None
        if approval is None or not _may_see(approval, principal):
            return None
        thing = thing_of(approval)
        waits = approval.state == "waiting"
        may_decide = self._approvals.can_decide(approval, principal)
        may_deny = may_decide or (
            waits
            and not is_own(approval, principal)
            and principal.may("approval.decide", thing)
            and any(principal.has_role(stage.role, thing) for stage in approval.stages)
        )
        owner = people_statements.get(tx, approval.owner) if approval.owner else None
        certificates, hidden = self._certificates(tx, approval, principal)
        waiting = Filters(state="awaiting_approval", approval=approval.id)
        return _Seen(
            approval=approval,
            may_decide=may_decide,
            may_deny=may_deny,
            why_not=_why_not(approval, principal) if waits and not may_decide else "",
            owner_name=(owner.display or owner.name) if owner else (approval.owner or ""),
            certificates=certificates,
            hidden=hidden,
            past=self._past(tx, approval, principal),
            requests=len(find_requests(tx, waiting, None, _LISTED).rows),
        )

    def _certificates(
        self, tx: Tx, approval: StoredApproval, principal: Principal
    ) -> tuple[tuple[StoredCertificate, ...], bool]:
        found: dict[int, StoredCertificate] = {}
        hidden = False
        for name in approval.effective_names[:_MOST_NAMES]:
            identifier = certificate_statements.as_identifier(name)
            for certificate in certificate_statements.by_name(tx, identifier, _EARLIER):
                if principal.may("certificate.read", thing_of_certificate(certificate)):
                    found[certificate.id] = certificate
                else:
                    hidden = True
        return tuple(found[id] for id in sorted(found, reverse=True)), hidden

    def _past(self, tx: Tx, approval: StoredApproval, principal: Principal) -> tuple[StoredApproval, ...]:
        names = set(approval.effective_names)
        filters = Filters(requester=approval.requester)
        return tuple(
            other
            for other in find_approvals(tx, filters, None, _PAST).rows
            if other.id != approval.id
            and other.decisions
            and names & set(other.effective_names)
            and _may_see(other, principal)
        )[:10]


def _may_see(approval: StoredApproval, principal: Principal) -> bool:
    return principal.may("approval.read", thing_of(approval))


def _why_not(approval: StoredApproval, principal: Principal) -> str:
    """Why somebody who looks at what waits cannot agree to it."""
    if is_own(approval, principal):
        return "This was asked on your own behalf: somebody else has to decide."
    if any(agreed.person == principal.person for agreed in approval.agreements):
        return "You have agreed already."
    wanted = approval.stages[approval.stage].role if approval.stage < len(approval.stages) else ""
    return f"Now it waits for somebody who holds the role {wanted} here."


def _version(approval: StoredApproval) -> str:
    """Tells what was shown from what came of it since: a changed thing is agreed to only by who saw it."""
    return f"{len(approval.changes)}.{approval.stage}"


def _changes(visit: Visit) -> Changes:
    """What an approver made of names and lifetime. Raises ``Refused``."""
    lifetime, names = visit.fields.get("lifetime", "").strip(), visit.fields.get("names")
    try:
        seconds = parse_duration(lifetime) if lifetime else None
    except ValueError as error:
        raise Refused(Reason("bad-lifetime", str(error))) from None
    wanted = None
    if names is not None:
        wanted = tuple(_typed(line.strip()) for line in names.splitlines() if line.strip())
    return Changes(lifetime=seconds, names=wanted)


def _typed(name: str) -> str:
    """A name with its type; DNS names may go without."""
    return name if name.partition(":")[0] in ("dns", "ip", "email", "uri") and ":" in name else f"dns:{name}"
