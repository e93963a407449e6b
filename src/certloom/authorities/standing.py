"""Where an authority's rollover stands: what comes next, and what still stands on each generation."""

from __future__ import annotations

from functools import partial
from typing import Literal

import msgspec

from certloom.authorities.certifying import HierarchyError
from certloom.authorities.generations import NEXT, PAST, RETIRED, body_of
from certloom.authorities.rollover import blockers, ready_at
from certloom.pki.certificates import parse_certificate
from certloom.pki.names import format_name
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority, StoredGeneration
from certloom.store.base import Store
from certloom.store.dependents import Counted, dependents, status_kept

_SETTLE = 3600
"""Seconds for which a past generation may still be given certificates by who had not heard."""


class Below(msgspec.Struct, frozen=True):
    """A CA whose certificate a generation has issued."""

    subject: str
    authority: str
    """Its name here; empty for a stranger."""
    generation: int
    last_expires: int


class Standing(msgspec.Struct, frozen=True):
    """One generation, and what still stands on it."""

    generation: StoredGeneration
    certificates: tuple[Counted, ...]
    cas: tuple[Below, ...]
    crls: int
    ocsp_responders: int

    @property
    def last_expires(self) -> int:
        """When the last of what stands on it expires; 0 where nothing does."""
        every = [c.last_expires for c in self.certificates] + [ca.last_expires for ca in self.cas]
        return max(every, default=0)


Step = Literal["prepare", "install", "activate", "retire"]


class Progress(msgspec.Struct, frozen=True):
    """Where an authority's rollover stands."""

    step: Step
    """What comes next."""
    generation: int | None
    """For which generation; None for one that is not there yet."""
    ready: bool
    at: int | None
    """When it may be done, as far as that can be said; Unix seconds."""
    why: tuple[str, ...]
    """What it waits for."""
    standings: tuple[Standing, ...]


async def standing_of(store: Store, row: StoredAuthority, number: int, now: int) -> Standing:
    """What stands on one generation. Raises ``HierarchyError``."""
    here = await store.scan(statements.generations)
    return await _standing(store, here, row.name, number, now)


async def _standing(store: Store, here: list[StoredGeneration], name: str, number: int, now: int) -> Standing:
    chosen = [g for g in here if g.authority == name and g.generation == number]
    if not chosen:
        raise HierarchyError(f"there is no generation {number}")
    found = await dependents(store, name, number, now)
    crls, responders = await store.scan(lambda tx: status_kept(tx, name, number, now))
    cas = []
    links = {o.certificate for g in here if g.authority == name for o in body_of(g).others if o.link}
    known = {g.certificate: g for g in here}
    own = chosen[0].certificate
    for der in found.cas:
        if der == own or der in links:
            continue
        facts = parse_certificate(der)
        ca = known.get(der)
        if ca is not None and ca.state == RETIRED:
            continue
        subject = format_name(facts.subject)
        cas.append(Below(subject, ca.authority if ca else "", ca.generation if ca else 0, facts.not_after))
    return Standing(chosen[0], found.counted, tuple(cas), crls, responders)


async def progress(store: Store, row: StoredAuthority, now: int) -> Progress:
    """Where the rollover of an authority stands, and what the next step is."""
    here = await store.scan(statements.generations)
    own = [g for g in here if g.authority == row.name]
    standings = tuple(
        [await _standing(store, here, row.name, g.generation, now) for g in own if g.state != RETIRED]
    )
    for g in own:
        if g.state == NEXT and g.certificate is None:
            why = ("its CSR waits for a certificate",)
            return Progress("install", g.generation, False, None, why, standings)
        if g.state == NEXT:
            against = await store.scan(partial(blockers, row=row, generation=g, now=now))
            return Progress(
                "activate", g.generation, not against, ready_at(row, g), tuple(against), standings
            )
    for s in standings:
        if s.generation.state == PAST:
            against = what_stands_on(s, now)
            at = max(s.last_expires + 1 if s.last_expires else 0, (s.generation.ended or 0) + _SETTLE)
            return Progress("retire", s.generation.generation, not against, at, tuple(against), standings)
    return Progress("prepare", None, row.state == "active", now, (), standings)


def what_stands_on(s: Standing, now: int) -> list[str]:
    """Why a past generation is not to be retired yet, in words."""
    found = []
    if s.generation.state == PAST and now < (s.generation.ended or 0) + _SETTLE:
        found.append("certificates may have been issued from it within the last hour")
    found += [f"{c.certificates} valid certificates of profile {c.profile}" for c in s.certificates]
    for ca in s.cas:
        who = f"authority {ca.authority}, generation {ca.generation}" if ca.authority else "a CA elsewhere"
        found.append(f"{ca.subject} ({who})")
    return found
