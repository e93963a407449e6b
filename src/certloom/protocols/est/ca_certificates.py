"""What /cacerts holds (RFC 7030 section 4.1.3): the authority's chain, its roots, and what a rollover adds.

Of every authority on the way up: the certificates of all generations that are in use, also of the next one,
so that clients know it in time; and the link certificates between generations of a root (OldWithNew and
NewWithOld), through which who trusts the one verifies the other.
"""

from __future__ import annotations

from certloom.authorities.generations import RETIRED, body_of
from certloom.enrollment.books import Books
from certloom.pki.certificates import CertificateError, parse_certificate


def ca_certificates(books: Books, authority: str, now: int) -> tuple[bytes, ...]:
    """DER, each once; those that have expired are left out."""
    found: dict[bytes, None] = {}
    names, seen = [authority], set()
    while names:
        name = names.pop()
        if name in seen:
            continue
        seen.add(name)
        for generation in books.generations(name):
            if generation.state == RETIRED or generation.certificate is None:
                continue
            body = body_of(generation)
            found[generation.certificate] = None
            found |= dict.fromkeys(body.above)
            for other in body.others:
                found[other.certificate] = None
                found |= dict.fromkeys(other.above)
            roots = (body.root, *(other.root for other in body.others))
            found |= {root: None for root in roots if root is not None}
            names += [i for i in (generation.issuer, *(o.issuer for o in body.others)) if i is not None]
    return tuple(der for der in found if _is_current(der, now))


def _is_current(certificate: bytes, now: int) -> bool:
    try:
        return parse_certificate(certificate).not_after >= now
    except CertificateError:
        return True  # whoever entered it here could read it
