"""Cross-certificates: for another CA under an authority of ours, and by another CA for ours.

Also the end of a CSR's journey: the certificate that came back is installed.
"""

from __future__ import annotations

import msgspec

from certloom.audit import Origin, record
from certloom.authorities.certifying import CACertificate, CAContents, Certifier, HierarchyError, issuer_of
from certloom.authorities.creation import DAY, check_active, extensions_of, key_type
from certloom.authorities.generations import (
    CURRENT,
    NEXT,
    RETIRED,
    CATerms,
    Other,
    body_of,
    with_body,
)
from certloom.authorities.importing import Material, Place, check_ca, locate
from certloom.pki import der, names
from certloom.pki.certificates import CertificateFacts, issuer_facts, parse_certificate
from certloom.pki.csr import CSRError, parse_csr
from certloom.pki.keys import facts_of
from certloom.pki.name_constraints import NAME_CONSTRAINTS, ConstraintError, decode
from certloom.pki.names import BadName, Name
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority
from certloom.store.base import Tx


class Subject(msgspec.Struct, frozen=True):
    """A CA that is to be cross-certified."""

    name: Name
    spki: bytes
    key_identifier: bytes | None
    """As its own certificates have it; None where that is not known."""
    not_after: int | None = None


def subject_of_certificate(certificate: bytes, now: int) -> Subject:
    """The CA of this certificate. Raises ``HierarchyError``."""
    facts = check_ca(certificate, now)
    try:
        # What is written anew must be the same name to every verifier.
        if names.decode(names.encode(facts.subject)) != facts.subject or _rdns(facts) != len(
            facts.subject.attributes
        ):
            raise BadName("several attributes in one relative distinguished name")
    except BadName as error:
        raise HierarchyError(f"its subject cannot be repeated: {error}") from None
    return Subject(facts.subject, facts.spki, facts.key_identifier, facts.not_after)


def subject_of_csr(request: bytes) -> Subject:
    """The CA that asks with this request. Raises ``HierarchyError``."""
    try:
        csr = parse_csr(request)
    except CSRError as error:
        raise HierarchyError(str(error)) from None
    if not csr.subject:
        raise HierarchyError("a CA has a subject")
    key_type(csr.key.spki)
    return Subject(csr.subject, csr.key.spki, None)


def _rdns(facts: CertificateFacts) -> int:
    reader = der.whole(facts.subject_der)
    count = 0
    while reader.more():
        reader.enter(der.SET)
        count += 1
    return count


async def cross_sign(
    certifier: Certifier, issuer: StoredAuthority, subject: Subject, days: int, terms: CATerms, now: int
) -> CACertificate:
    """A certificate for another CA, by ours. To be recorded with ``CACertificate.enter``.

    Raises ``HierarchyError``, ``AuthorityError`` and ``SigningError``.
    """
    check_active(issuer)
    if facts_of(subject.spki).spki_sha256 == facts_of(issuer_facts(issuer.certificate).spki).spki_sha256:
        raise HierarchyError("that is this authority's own key")
    not_after = now + days * DAY
    if subject.not_after is not None:
        not_after = min(not_after, subject.not_after)
    contents = CAContents(
        subject.spki,
        subject.name,
        not_after,
        terms.path_length,
        extensions_of(terms),
        subject.key_identifier,
    )
    return await certifier.below(issuer_of(issuer), contents)


def take_cross_certificate(tx: Tx, row: StoredAuthority, material: Material, now: int, origin: Origin) -> int:
    """Offer another CA's certificate for one of our generations as an alternate chain; answers which
    generation it is for. Raises ``HierarchyError``."""
    facts = check_ca(material.certificate, now)
    here = statements.generations(tx)
    for generation in here:
        if generation.authority != row.name or generation.certificate is None:
            continue
        own = parse_certificate(generation.certificate)
        if own.spki != facts.spki:
            continue
        if own.subject_der != facts.subject_der or own.key_identifier != facts.key_identifier:
            raise HierarchyError("it is for another subject or key identifier than the authority's")
        if generation.state == RETIRED:
            raise HierarchyError("it is for a generation that is retired", conflict=True)
        body = body_of(generation)
        if material.certificate == generation.certificate or any(
            other.certificate == material.certificate for other in body.others
        ):
            raise HierarchyError("this certificate is known already", conflict=True)
        where = locate(material.certificate, material.others, here, now)
        if where.issuer is None and where.root is None:
            raise HierarchyError("a self-signed certificate is no cross-certificate")
        other = Other(
            material.certificate,
            where.issuer,
            where.issuer_generation,
            link=where.issuer == row.name,
            above=where.above,
            root=where.root,
        )
        statements.update_generation(
            tx, with_body(generation, msgspec.structs.replace(body, others=(*body.others, other)))
        )
        _record(tx, now, row.name, "authority.cross_certified", origin, generation.generation, facts)
        return generation.generation
    raise HierarchyError("it is for a key that is none of this authority's")


def drop_cross_certificate(tx: Tx, name: str, sha256: bytes, now: int, origin: Origin) -> bool:
    """Offer a cross-certificate no longer; False when there is none with this fingerprint."""
    for generation in statements.generations(tx, name):
        body = body_of(generation)
        for other in body.others:
            facts = parse_certificate(other.certificate)
            if facts.sha256 != sha256:
                continue
            left = tuple(each for each in body.others if each != other)
            statements.update_generation(
                tx, with_body(generation, msgspec.structs.replace(body, others=left))
            )
            number = generation.generation
            _record(tx, now, name, "authority.cross_certificate_dropped", origin, number, facts)
            return True
    return False


def install(tx: Tx, row: StoredAuthority, material: Material, now: int, origin: Origin) -> int:
    """Give a waiting generation its certificate; answers which.

    A waiting authority is active afterwards; a next generation stays the next one until it is activated.
    Raises ``HierarchyError``.
    """
    facts = check_ca(material.certificate, now)
    here = statements.generations(tx)
    waiting = [g for g in here if g.authority == row.name and g.csr is not None and g.certificate is None]
    waiting = [g for g in waiting if g.state == NEXT]
    if not waiting:
        raise HierarchyError("nothing waits for a certificate here", conflict=True)
    generation = waiting[0]
    assert generation.csr is not None
    asked = parse_csr(generation.csr)
    if asked.key.spki != facts.spki:
        raise HierarchyError("it is for another key than that of the CSR")
    if asked.subject != facts.subject:
        raise HierarchyError(
            f"it is for {names.format_name(facts.subject)}, where the CSR asked for"
            f" {names.format_name(asked.subject)}"
        )
    _check_constraints(facts)
    where: Place = locate(material.certificate, material.others, here, now)
    body = msgspec.structs.replace(body_of(generation), above=where.above, root=where.root, trusted_since=now)
    first = row.state == "pending"
    identifier = issuer_facts(material.certificate).key_identifier
    installed = msgspec.structs.replace(
        with_body(generation, body),
        certificate=material.certificate,
        key_identifier=identifier,
        issuer=where.issuer,
        state=CURRENT if first else NEXT,
        activated=now if first else None,
    )
    statements.update_generation(tx, installed)
    if first:
        statements.update(
            tx,
            msgspec.structs.replace(
                row,
                state="active",
                certificate=material.certificate,
                key_identifier=identifier,
                issuer=where.issuer,
            ),
        )
    _record(tx, now, row.name, "authority.certificate_installed", origin, generation.generation, facts)
    return generation.generation


def _check_constraints(facts: CertificateFacts) -> None:
    for extension in facts.extensions:
        if extension.oid == NAME_CONSTRAINTS:
            try:
                decode(extension.value)
            except ConstraintError as error:
                raise HierarchyError(str(error)) from None


def _record(
    tx: Tx, now: int, name: str, kind: str, origin: Origin, generation: int, facts: CertificateFacts
) -> None:
    data = {
        "generation": generation,
        "subject": names.format_name(facts.subject),
        "sha256": facts.sha256.hex(),
        "not_after": facts.not_after,
    }
    record(tx, now * 1000, kind, f"authority:{name}", origin, data)
