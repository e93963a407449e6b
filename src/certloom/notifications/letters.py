"""What the emails about approvals say: text and HTML made from the same lines.

Names, reasons and comments come from strangers: in HTML everything is escaped, in text what could pass for
another line is taken out. The link leads to a page where one logs in and decides; it holds no secret, and to
follow it decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from certloom.notifications.mail import Letter
from certloom.store.approvals import StoredApproval
from certloom.store.people import StoredPerson

_MOST_NAMES = 20
_LONGEST = 300

Row = tuple[str, str]


def please_decide(approval: StoredApproval, to: StoredPerson, url: str) -> Letter:
    """To somebody whose agreement is wanted."""
    stage = approval.stages[approval.stage]
    rows = _what(approval)
    if len(approval.stages) > 1:
        rows.append(("Stage", f"{approval.stage + 1} of {len(approval.stages)}"))
    rows.append(("Wanted", f"{_people(stage.approvers)} with the role {stage.role}"))
    rows.extend(("Why people are asked", reason.message) for reason in approval.reasons)
    rows.extend(("Warning", warning.message) for warning in approval.asked.warnings)
    if approval.asked.comment:
        rows.append(("The requester says", approval.asked.comment))
    if approval.changes:
        rows.append(("Changed", "an approver changed what was asked; it needs agreement anew"))
    rows.append(("Waits until", _time(approval.expires)))
    return _letter(
        to,
        f"Please decide: certificate for {_first(approval.effective_names)}",
        "A request for a certificate waits for your decision.",
        rows,
        "Look at it and decide",
        url,
    )


def outcome(approval: StoredApproval, to: StoredPerson, url: str) -> Letter:
    """To the requester, once it is decided."""
    told = {
        "granted": "was approved. The certificate is being issued.",
        "denied": "was denied.",
        "expired": "was not answered in time.",
        "withdrawn": "was withdrawn.",
    }
    rows = _what(approval)
    for decision in approval.decisions:
        if not decision.void:
            said = "agreed" if decision.agreed else "denied it"
            rows.append((decision.name, f"{said}: {decision.reason}" if decision.reason else said))
    if approval.effective_names != approval.names:
        rows.append(("Names asked for", _list(approval.names)))
    if approval.changed_lifetime is not None:
        rows.append(("Lifetime", f"changed by an approver to {approval.changed_lifetime} seconds"))
    if approval.state == "granted" and approval.good_until is not None:
        rows.append(
            ("Good until", f"{_time(approval.good_until)}: the same can be asked for again until then")
        )
    what = "approved" if approval.state == "granted" else approval.state
    return _letter(
        to,
        f"Your request was {what}: certificate for {_first(approval.effective_names)}",
        f"Your request for a certificate {told.get(approval.state, 'was decided.')}",
        rows,
        "See it",
        url,
    )


def _what(approval: StoredApproval) -> list[Row]:
    rows = [
        ("Names", _list(approval.effective_names)),
        ("Requester", approval.requester),
        ("Profile", approval.profile),
    ]
    if approval.team:
        rows.insert(2, ("Team", approval.team))
    return rows


def _letter(to: StoredPerson, subject: str, opening: str, rows: Sequence[Row], link: str, url: str) -> Letter:
    shown = [(_plain(label), _plain(value)) for label, value in rows]
    text = [opening, "", *(f"{label}: {value}" for label, value in shown), "", f"{link}:", url, ""]
    cells = "".join(
        f'<tr><th align="left" valign="top" style="padding:2px 12px 2px 0">{escape(label)}</th>'
        f'<td style="padding:2px 0">{escape(value)}</td></tr>\n'
        for label, value in shown
    )
    html = (
        '<!doctype html>\n<html lang="en"><body style="font-family:sans-serif">\n'
        f"<p>{escape(opening)}</p>\n<table>\n{cells}</table>\n"
        f'<p><a href="{escape(url)}">{escape(link)}</a></p>\n<p>{escape(url)}</p>\n</body></html>\n'
    )
    return Letter(to.email, to.display or to.name, _plain(subject), "\n".join(text), html)


def _plain(text: str) -> str:
    """One line of what can be seen, not too long."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def _first(names: Sequence[str]) -> str:
    if not names:
        return "no name"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0].partition(':')[2]}{more}"


def _list(names: Sequence[str]) -> str:
    shown = [name.removeprefix("dns:") for name in names[:_MOST_NAMES]]
    more = [f"and {len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return ", ".join([*shown, *more])


def _people(count: int) -> str:
    return "one person" if count == 1 else f"{count} people"


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
