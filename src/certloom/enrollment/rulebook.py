"""Policy rules as they are kept: each change is a version of its own, with its author and an event."""

from __future__ import annotations

from typing import Any

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.policy.rules import MOST_STEPS_TOGETHER, Load, Rule, encode_rule, heaviest, stored_rule
from certloom.store import configuration
from certloom.store import rules as statements
from certloom.store.base import Tx
from certloom.store.rules import StoredRule

MOST_RULES = 200
"""Those that are not enabled as well."""


class TooManyRules(ValueError):
    """There are more rules than may be, or one request would be asked about more than may be together."""


def put(tx: Tx, clock: Clock, rule: Rule, origin: Origin) -> tuple[StoredRule, bool]:
    """Keep a rule, whose condition stood its trial; answers its newest version and whether that is new.

    A rule that is as it was gets no other version. ``check_bounds`` is to follow in the same unit.
    """
    known = statements.newest(tx, rule.name)
    body = encode_rule(rule)
    if known is not None and known.body == body:
        return known, False
    return _add(tx, clock, rule.name, known, body, origin), True


class Extent(msgspec.Struct, frozen=True):
    """How much there is."""

    rules: int
    load: Load


def extent(tx: Tx) -> Extent:
    """Of all rules as they are now."""
    kept = statements.current(tx)
    return Extent(len(kept), heaviest(stored_rule(row.body) for row in kept))


def check_bounds(tx: Tx, before: Extent) -> None:
    """Refuse what went beyond the bounds, or further beyond them. Raises ``TooManyRules``.

    In a unit that called ``configuration.edit`` first: otherwise two that change different rules at once
    would each count without the other's.
    """
    now = extent(tx)
    if now.rules > max(MOST_RULES, before.rules):
        raise TooManyRules(f"there would be {now.rules} rules, of at most {MOST_RULES}")
    if now.load.steps > max(MOST_STEPS_TOGETHER, before.load.steps):
        whose = f" for the profile {now.load.profile!r}" if now.load.profile else ""
        raise TooManyRules(
            f"the rules that are asked together{whose} would take {now.load.steps} steps, of at most"
            f" {MOST_STEPS_TOGETHER}; most of it: {', '.join(now.load.largest)}"
        )


def remove(tx: Tx, clock: Clock, known: StoredRule, origin: Origin) -> StoredRule:
    """Take a rule out of force for good. Its versions stay, since requests tell of them."""
    return _add(tx, clock, known.name, known, "", origin)


def _add(tx: Tx, clock: Clock, name: str, known: StoredRule | None, body: str, origin: Origin) -> StoredRule:
    version = 1 if known is None else known.version + 1
    made = StoredRule(name, version, body, clock.now(), origin.actor)
    statements.add(tx, made)
    configuration.touch(tx)
    was = _table(known)
    what = "removed" if not body else "created" if was is None else "changed"
    data = {"version": version, "before": was, "after": _table(made)}
    record(tx, clock.now_ms(), f"rule.{what}", f"rule:{name}", origin, data)
    return made


def _table(rule: StoredRule | None) -> Any:
    return None if rule is None or rule.removed else msgspec.json.decode(rule.body)
