"""CA certificates over HTTP: what AIA names (RFC 5280 section 4.2.2.1), chains, and roots to trust.

An address in issued certificates means the same for ever: ``/ca/NAME.crt`` is the first generation, since
that is who issued the certificates that name it, and ``/ca/NAME/gG.crt`` is generation G. The current
generation is ``/ca/NAME.pem``, with what is above it ``/ca/NAME-chain.pem``.
"""

from __future__ import annotations

from collections.abc import Sequence

from certloom.authorities.generations import trust_anchors
from certloom.enrollment.books import Books, UnknownName
from certloom.pki.pem import to_pem

PEM = b"application/x-pem-file"
DER = b"application/pkix-cert"


def ca_file(books: Books, path: Sequence[str]) -> tuple[bytes, bytes] | None:
    """Contents and media type of what lies at this path below ``/ca``; None where there is nothing."""
    if len(path) == 2 and path[1].startswith("g"):
        number, _, form = path[1][1:].partition(".")
        if number.isascii() and number.isdigit() and len(number) < 6 and not number.startswith("0"):
            return _generation(books, path[0], int(number), form)
        return None
    if len(path) != 1:
        return None
    if path[0] == "roots.pem":
        return roots_pem(books), PEM
    name, _, form = path[0].rpartition(".")
    try:
        if form == "crt":
            return _generation(books, name, 1, form)
        if form == "pem" and name.endswith("-chain") and not _there(books, name):
            row = books.authority_row(name.removesuffix("-chain"))
            return b"".join(map(to_pem, books.authority(row.name).chains()[0])), PEM
        return (to_pem(books.authority_row(name).certificate), PEM) if form == "pem" else None
    except UnknownName:
        return None


def _there(books: Books, name: str) -> bool:
    return any(row.name == name for row in books.authority_rows())


def _generation(books: Books, name: str, number: int, form: str) -> tuple[bytes, bytes] | None:
    for generation in books.generations(name):
        if generation.generation == number and generation.certificate is not None:
            if form == "crt":
                return generation.certificate, DER
            return (to_pem(generation.certificate), PEM) if form == "pem" else None
    return None


def roots_pem(books: Books) -> bytes:
    """Every root that is to be trusted, as PEM: also the next ones, and those of strangers."""
    return b"".join(map(to_pem, dict.fromkeys(trust_anchors(books.reading.generations))))
