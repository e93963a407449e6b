"""Generations of an authority: what their rows say, and the chains that lead from them to a root.

A generation is a key with its CA certificate. Further certificates for the same name and key may have been
issued by others: cross-certificates, and, between generations of a root, *link certificates* (RFC 9810,
section 4.4: OldWithNew and NewWithOld), through which who trusts one generation verifies what the other
issued.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from certloom.pki.certificates import parse_certificate
from certloom.store.authorities import StoredGeneration

NEXT, CURRENT, PAST, RETIRED = "next", "current", "past", "retired"
_MOST_CHAINS = 8

Generations = Callable[[str], tuple[StoredGeneration, ...]]
"""Those of an authority by name, oldest first."""


class Other(msgspec.Struct, frozen=True):
    """Another certificate for a generation's name and key."""

    certificate: bytes
    issuer: str | None = None
    """The authority here that issued it; None for a stranger."""
    issuer_generation: int = 1
    link: bool = False
    """Whether it links two generations of one authority."""
    above: tuple[bytes, ...] = ()
    """Of a stranger: what is above it, up to but without the root."""
    root: bytes | None = None
    """Of a stranger: the root."""


class CATerms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a CA certificate is to say beside names, key and validity."""

    path_length: int | None = None
    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    cps: str = ""
    extended_key_usage: tuple[str, ...] = ()
    """Dotted OIDs."""


class GenerationBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What only a local authority's generation says, as JSON. Times are Unix seconds."""

    algorithm: str = ""
    """The kind of its key, as ``pki.keys.generate`` calls it."""
    token: str = ""
    """The PKCS#11 URI that its key was made at or found by; empty for one in software."""
    subject: str = ""
    """While it waits for a certificate: the subject of its CSR (RFC 4514)."""
    terms: CATerms = CATerms()
    above: tuple[bytes, ...] = ()
    """Where its issuer is a stranger: the certificates above it, up to but without the root."""
    root: bytes | None = None
    """Where its issuer is a stranger: the root."""
    others: tuple[Other, ...] = ()
    trusted_since: int | None = None
    """Since when its certificate is published; None: since it was made."""
    forced: bool = False
    """Whether it was activated before its time."""


_decode = msgspec.json.Decoder(GenerationBody).decode


def body_of(generation: StoredGeneration) -> GenerationBody:
    """What its row says."""
    return _decode(generation.body)


def with_body(generation: StoredGeneration, body: GenerationBody) -> StoredGeneration:
    """The same row, saying this."""
    return msgspec.structs.replace(generation, body=msgspec.json.encode(body).decode())


def is_root(generation: StoredGeneration) -> bool:
    """Whether its certificate is one that clients are given to trust: it is signed by its own key."""
    return (
        generation.certificate is not None
        and generation.issuer is None
        and body_of(generation).root is None
        and not body_of(generation).above
    )


def find_generation(
    generations: tuple[StoredGeneration, ...], key_identifier: bytes | None
) -> StoredGeneration | None:
    """The one whose subjectKeyIdentifier this is."""
    for generation in generations:
        if generation.certificate is not None and generation.key_identifier == key_identifier:
            return generation
    return None


def primary_path(
    generation: StoredGeneration, generations: Generations
) -> tuple[tuple[bytes, ...], bytes | None]:
    """Its own certificate and those above it, without the root; and that, if it is known here."""
    above: list[bytes] = []
    at = generation
    while True:
        assert at.certificate is not None
        if is_root(at):
            return tuple(above), at.certificate
        above.append(at.certificate)
        body = body_of(at)
        if at.issuer is None:
            return (*above, *body.above), body.root
        found = find_generation(
            generations(at.issuer), parse_certificate(at.certificate).authority_key_identifier
        )
        if found is None or len(above) > 16:
            return tuple(above), None
        at = found


def chains_from(generation: StoredGeneration, generations: Generations) -> tuple[tuple[bytes, ...], ...]:
    """Every chain from a generation upwards, without roots, the preferred one first.

    That is, while a root is rolled over, the one with the link certificate: who trusts the old root
    verifies through it, and so does who trusts the new one. Otherwise it is the generation's own.
    """
    ways = sorted(_ways(generation, generations, ()), key=lambda way: way[0])
    return tuple(dict.fromkeys(chain for _, chain in ways))[:_MOST_CHAINS] or ((),)


_LINKED, _OWN, _ANOTHER = 0, 1, 2
_Way = tuple[int, tuple[bytes, ...]]


def _ways(
    generation: StoredGeneration, generations: Generations, seen: tuple[tuple[str, int], ...]
) -> Iterator[_Way]:
    """Chains with their rank."""
    place = (generation.authority, generation.generation)
    if place in seen or len(seen) > 16 or generation.certificate is None:
        return
    seen = (*seen, place)
    body = body_of(generation)
    if is_root(generation):
        yield _OWN, ()
    elif generation.issuer is None:
        yield _OWN, (generation.certificate, *body.above)
    else:
        above = find_generation(
            generations(generation.issuer),
            parse_certificate(generation.certificate).authority_key_identifier,
        )
        if above is None:
            yield _OWN, (generation.certificate,)
        else:
            for rank, chain in _ways(above, generations, seen):
                yield rank, (generation.certificate, *chain)
    for other in body.others:
        if other.issuer is None:
            yield _ANOTHER, (other.certificate, *other.above)
            continue
        for candidate in generations(other.issuer):
            if candidate.generation != other.issuer_generation or candidate.state == RETIRED:
                continue
            in_use = {generation.state, candidate.state} <= {CURRENT, PAST}
            for rank, chain in _ways(candidate, generations, seen):
                linked = other.link and in_use and rank != _ANOTHER
                yield _LINKED if linked else _ANOTHER, (other.certificate, *chain)


def trust_anchors(generations: tuple[StoredGeneration, ...]) -> Iterator[bytes]:
    """The roots that lead to these generations and are not retired, DER: own ones, also those that are not
    issued from yet, and those of strangers."""
    for generation in generations:
        if generation.state == RETIRED or generation.certificate is None:
            continue
        if is_root(generation):
            yield generation.certificate
        body = body_of(generation)
        for root in (body.root, *(other.root for other in body.others)):
            if root is not None:
                yield root
