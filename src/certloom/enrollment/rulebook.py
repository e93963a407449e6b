"""Policy rules as they are kept: each change is a version of its own, with its author and an event."""

from __future__ import annotations

from typing import Any

import msgspec

from certloom.audit import Origin, record
from certloom.clock import Clock
from certloom.policy.rules import Rule, encode_rule
from certloom.store import configuration
from certloom.store import rules as statements
from certloom.store.base import Tx
from certloom.store.rules import StoredRule

MOST_RULES = 200


class TooManyRules(ValueError):
    """An installation holds so many rules at most."""


def put(tx: Tx, clock: Clock, rule: Rule, origin: Origin) -> tuple[StoredRule, bool]:
    """Keep a rule, whose condition stood its trial; answers its newest version and whether that is new.

    A rule that is as it was gets no other version. Raises ``TooManyRules``.
    """
    known = statements.newest(tx, rule.name)
    body = encode_rule(rule)
    if known is not None and known.body == body:
        return known, False
    if (known is None or known.removed) and len(statements.current(tx)) >= MOST_RULES:
        raise TooManyRules(f"there are {MOST_RULES} rules already")
    return _add(tx, clock, rule.name, known, body, origin), True


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
