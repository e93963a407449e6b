"""From one generation of an authority to the next: trust first, leaves after.

    prepare ─▶ (its certificate comes from elsewhere: install) ─▶ activate ─▶ retire the old one

A root's next generation is published for a time before anything is issued from it, and link certificates
(RFC 9810 section 4.4) let who trusts one generation verify what the other issued. The old generation goes on
signing CRLs and OCSP answers until nothing valid stands on it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from certloom.audit import Origin, record
from certloom.authorities.certifying import (
    CACertificate,
    CAContents,
    Certifier,
    HierarchyError,
    Issuer,
    issuer_of,
)
from certloom.authorities.creation import (
    DAY,
    KeyPlace,
    check_active,
    extensions_of,
    key_type,
    make_key,
    stored_key,
)
from certloom.authorities.generations import (
    CURRENT,
    NEXT,
    PAST,
    RETIRED,
    CATerms,
    GenerationBody,
    Other,
    body_of,
    is_root,
    with_body,
)
from certloom.authorities.local import LocalBody
from certloom.clock import Clock
from certloom.pki.certificates import issuer_facts, parse_certificate
from certloom.pki.names import Name, format_name
from certloom.signing import Signing
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority, StoredGeneration, StoredKey
from certloom.store.base import Tx
from certloom.store.dependents import status_kept
from certloom.store.ids import new_id

SOFTWARE = "software"
"""In the place of a token's URI, where the key before is in a token."""


class Prepared(msgspec.Struct, frozen=True):
    """A next generation that is made but not stored yet."""

    generation: StoredGeneration
    key: StoredKey
    certificate: CACertificate | None = None
    """Where it was signed here."""
    old_with_new: CACertificate | None = None
    new_with_old: CACertificate | None = None
    """A root's link certificates."""

    def store(self, tx: Tx, now: int, origin: Origin) -> StoredGeneration:
        """Raises ``HierarchyError`` where another was prepared meanwhile."""
        name, number = self.generation.authority, self.generation.generation
        row = statements.get(tx, name, lock=True)
        here = statements.generations(tx, name)
        if row is None or row.state != "active" or any(g.generation >= number for g in here):
            raise HierarchyError("the authority was changed meanwhile", conflict=True)
        if self.old_with_new is not None:
            (old,) = (g for g in here if g.generation == row.generation)
            link = Other(self.old_with_new.der, name, number, link=True)
            body = body_of(old)
            statements.update_generation(
                tx, with_body(old, msgspec.structs.replace(body, others=(*body.others, link)))
            )
        statements.insert_key(tx, self.key)
        statements.insert_generation(tx, self.generation)
        for certificate in (self.certificate, self.old_with_new, self.new_with_old):
            if certificate is not None:
                certificate.enter(tx, now, origin)
        data = {"generation": number, "algorithm": body_of(self.generation).algorithm}
        if self.generation.csr is not None:
            data["waits_for"] = "a certificate"
        record(tx, now * 1000, "authority.generation_prepared", f"authority:{name}", origin, data)
        return self.generation


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the next generation is to be like; None: as the current one."""

    algorithm: str | None = None
    days: int | None = None
    subject: Name | None = None
    token: str | None = None
    """A PKCS#11 URI, or ``software``."""
    attach: bool = False
    terms: CATerms | None = None
    by_request: bool = False
    """Make a CSR, although the issuer is here."""


async def prepare(
    certifier: Certifier,
    signing: Signing,
    clock: Clock,
    row: StoredAuthority,
    here: tuple[StoredGeneration, ...],
    issuer_row: Callable[[str], StoredAuthority],
    wish: Wish,
) -> Prepared:
    """Make an authority's next generation; ``here`` are those it has, ``issuer_row`` finds authorities.

    Raises ``HierarchyError``, ``AuthorityError`` and ``SigningError``.
    """
    check_active(row)
    for g in here:
        if g.state == NEXT:
            raise HierarchyError(
                f"generation {g.generation} is the next one already: activate or retire it", conflict=True
            )
    (current,) = (g for g in here if g.generation == row.generation)
    body = body_of(current)
    facts = parse_certificate(row.certificate)
    now = clock.now()
    number = here[-1].generation + 1
    terms = body.terms if wish.terms is None else wish.terms
    algorithm = wish.algorithm or key_type(facts.spki)
    days = wish.days or max(1, (facts.not_after - facts.not_before) // DAY)
    subject = wish.subject or facts.subject
    place = _place(wish, body)
    extensions = extensions_of(terms)
    issuer = None
    if current.issuer is not None and not wish.by_request:
        above = issuer_row(current.issuer)
        check_active(above)
        issuer = issuer_of(above)
    by_request = wish.by_request or (issuer is None and not is_root(current))

    id = new_id(clock.now_ms())
    made = await make_key(signing, id, row.name, algorithm, place)
    new_body = GenerationBody(
        algorithm=key_type(made.spki), token=place.token, subject=format_name(subject), terms=terms
    )
    key = stored_key(id, row.name, made, now)
    if by_request:
        csr = await signing.csr(id, subject, ca=True)
        return Prepared(
            with_body(StoredGeneration(row.name, number, NEXT, None, None, None, id, csr, "", now), new_body),
            key,
        )
    contents = CAContents(made.spki, subject, now + days * DAY, terms.path_length, extensions)
    new_body = msgspec.structs.replace(new_body, trusted_since=now, subject="")
    if issuer is not None:
        certificate = await certifier.below(issuer, contents)
        return Prepared(_next(row, number, issuer.name, certificate, id, new_body, now), key, certificate)

    certificate = await certifier.self_signed(row.name, number, id, contents)
    new_with_old = await certifier.below(issuer_of(row), contents)
    options = msgspec.json.decode(row.body, type=LocalBody)
    as_new = Issuer(row.name, number, certificate.der, id, row.crl_shards, options)
    # RFC 9810 section 4.4: valid from when the old key was made until it expires.
    as_old = CAContents(
        facts.spki,
        facts.subject,
        facts.not_after,
        body.terms.path_length,
        extensions_of(body.terms),
        issuer_facts(row.certificate).key_identifier,
        facts.not_before,
    )
    old_with_new = await certifier.below(as_new, as_old)
    link = Other(new_with_old.der, row.name, row.generation, link=True)
    new_body = msgspec.structs.replace(new_body, others=(link,))
    return Prepared(
        _next(row, number, None, certificate, id, new_body, now),
        key,
        certificate,
        old_with_new,
        new_with_old,
    )


def _place(wish: Wish, body: GenerationBody) -> KeyPlace:
    if wish.token is None and body.token:
        raise HierarchyError(
            "the current key is in a token: say where the next one is to be, by its PKCS#11 URI or as"
            f" {SOFTWARE!r}"
        )
    token = "" if wish.token in (None, SOFTWARE) else wish.token or ""
    return KeyPlace(token, wish.attach)


def _next(
    row: StoredAuthority,
    number: int,
    issuer: str | None,
    certificate: CACertificate,
    key_id: str,
    body: GenerationBody,
    now: int,
) -> StoredGeneration:
    identifier = issuer_facts(certificate.der).key_identifier
    made = StoredGeneration(
        row.name, number, NEXT, issuer, certificate.der, identifier, key_id, None, "", now
    )
    return with_body(made, body)


# -- activating and retiring -----------------------------------------------------------------------------


def ready_at(row: StoredAuthority, generation: StoredGeneration) -> int:
    """When the next generation may be issued from: once its trust has been out for long enough.

    Roots only: what is below a root is sent along with every certificate.
    """
    since = body_of(generation).trusted_since or generation.created
    if not is_root(generation):
        return since
    return since + msgspec.json.decode(row.body, type=LocalBody).trust_seconds


def blockers(tx: Tx, row: StoredAuthority, generation: StoredGeneration, now: int) -> list[str]:
    """Why a next generation may not be issued from yet."""
    found = []
    if generation.certificate is None:
        return ["it waits for its certificate: install that"]
    if parse_certificate(generation.certificate).not_after <= now:
        found.append("its certificate has expired")
    at = ready_at(row, generation)
    if now < at:
        days = -(-(at - now) // DAY)
        found.append(f"its certificate has to be published for {days} more days before clients meet it")
    if not status_kept(tx, row.name, generation.generation, now)[0]:
        found.append("its first CRL is not published yet")
    return found


def activate(tx: Tx, row: StoredAuthority, number: int, now: int, origin: Origin, *, force: bool) -> None:
    """Issue from a next generation from now on. Raises ``HierarchyError``."""
    here = statements.generations(tx, row.name)
    chosen = [g for g in here if g.generation == number]
    if not chosen:
        raise HierarchyError(f"there is no generation {number}")
    generation = chosen[0]
    if row.state != "active" or generation.state != NEXT:
        raise HierarchyError(f"generation {number} is {generation.state}, not the next one", conflict=True)
    if generation.certificate is None or generation.key_identifier is None:
        raise HierarchyError("it waits for its certificate: install that", conflict=True)
    against = blockers(tx, row, generation, now)
    if against and not force:
        raise HierarchyError("; ".join(against), conflict=True)
    for g in here:
        if g.state == CURRENT:
            statements.update_generation(tx, msgspec.structs.replace(g, state=PAST, ended=now))
    body = msgspec.structs.replace(body_of(generation), forced=bool(against))
    statements.update_generation(
        tx, with_body(msgspec.structs.replace(generation, state=CURRENT, activated=now), body)
    )
    statements.update(
        tx,
        msgspec.structs.replace(
            row,
            certificate=generation.certificate,
            key_identifier=generation.key_identifier,
            key_id=generation.key_id,
            issuer=generation.issuer,
            generation=number,
        ),
    )
    data = {"before": {"generation": row.generation}, "after": {"generation": number}, "forced_over": against}
    record(tx, now * 1000, "authority.activated", f"authority:{row.name}", origin, data)


def retire_generation(tx: Tx, row: StoredAuthority, number: int, now: int, origin: Origin) -> None:
    """Sign nothing at all with a generation any more; the caller has seen that nothing stands on it.

    Raises ``HierarchyError``.
    """
    for g in statements.generations(tx, row.name):
        if g.generation != number:
            continue
        if g.state == CURRENT:
            raise HierarchyError(
                "the current generation: prepare and activate a next one first", conflict=True
            )
        if g.state == RETIRED:
            raise HierarchyError(f"generation {number} is retired already", conflict=True)
        statements.update_generation(tx, msgspec.structs.replace(g, state=RETIRED, ended=now))
        data = {"generation": number, "before": {"state": g.state}, "after": {"state": RETIRED}}
        record(tx, now * 1000, "authority.generation_retired", f"authority:{row.name}", origin, data)
        return
    raise HierarchyError(f"there is no generation {number}")
