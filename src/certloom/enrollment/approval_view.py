"""What an approver needs to see besides the approval itself: what was there before, and what is different."""

from __future__ import annotations

import msgspec

from certloom.enrollment import agreement
from certloom.pki.identifiers import IdentifierError
from certloom.policy.profiles import Profile
from certloom.store import certificates as certificate_statements
from certloom.store.approvals import StoredApproval
from certloom.store.base import Tx
from certloom.store.certificates import StoredCertificate

_NAMES = 20
_PER_NAME = 5
_SHOWN = 20


class Difference(msgspec.Struct, frozen=True):
    """One thing that an approver should notice."""

    what: str
    """``names``, ``requester``, ``owner``, ``team``, ``profile``, ``key``, ``lifetime``, ``first`` or
    ``hidden``."""
    message: str


def earlier(tx: Tx, approval: StoredApproval) -> list[StoredCertificate]:
    """The newest certificates for any of its names, newest first. Point reads, bounded."""
    try:
        names = agreement.parse_names(approval.effective_names)
    except IdentifierError:
        return []
    found: dict[int, StoredCertificate] = {}
    for name in names[:_NAMES]:
        for certificate in certificate_statements.by_name(tx, name, _PER_NAME):
            found[certificate.id] = certificate
    return [found[id] for id in sorted(found, reverse=True)[:_SHOWN]]


def differences(
    approval: StoredApproval, before: list[StoredCertificate], profile: Profile | None, *, hidden: bool
) -> list[Difference]:
    """What is other than with the newest certificate of these names, and than the profile's own choice.

    ``hidden``: there are some besides those of ``before``, which whoever looks may not see.
    """
    found: list[Difference] = []
    if hidden:
        found.append(Difference("hidden", "there are certificates for these names that are not yours to see"))
    lifetime = approval.changed_lifetime or approval.asked.lifetime
    if profile is not None and lifetime is not None and lifetime != profile.validity.default:
        found.append(
            Difference(
                "lifetime", f"{lifetime} seconds, where the profile would choose {profile.validity.default}"
            )
        )
    had = {name for certificate in before for name in certificate.names}
    new = [name for name in approval.effective_names if name not in had]
    if not before and hidden:
        return found
    if not before:
        return [*found, Difference("first", "there was no certificate for any of these names before")]
    if new:
        found.append(Difference("names", f"new: {', '.join(new[:20])}"))
    last = before[0]
    for what, was, now in (
        ("requester", last.requester, approval.requester),
        ("owner", last.owner, approval.owner),
        ("team", last.team, approval.team),
        ("profile", last.profile, approval.profile),
        ("key", last.key_type, approval.asked.key),
    ):
        if was != now:
            found.append(Difference(what, f"{now or 'none'}, where the last certificate had {was or 'none'}"))
    return found
