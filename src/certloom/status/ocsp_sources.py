"""Whose certificates OCSP answers for: the generations of our authorities, found by name and key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

from certloom.authorities.delegates import Delegator
from certloom.authorities.generations import RETIRED, body_of
from certloom.authorities.local import LocalAuthority, LocalBody
from certloom.pki import der, ocsp
from certloom.pki.certificates import parse_certificate
from certloom.pki.ocsp import CertID
from certloom.pki.template import IssuerFacts
from certloom.store.authorities import StoredGeneration

_HASHES: dict[str, Callable[[bytes], bytes]] = {
    # SHA-1 is what most clients name certificates with; nothing is signed or trusted by it.
    ocsp.SHA1: lambda data: hashlib.sha1(data, usedforsecurity=False).digest(),
    ocsp.SHA256: lambda data: hashlib.sha256(data).digest(),
    ocsp.SHA384: lambda data: hashlib.sha384(data).digest(),
    ocsp.SHA512: lambda data: hashlib.sha512(data).digest(),
}


class Source(Delegator, frozen=True, kw_only=True):
    """One generation of an authority: its certificates are answered for."""

    options: LocalBody
    created: int
    cas: frozenset[bytes]
    """Serials of CA certificates here that it issued, whether or not they are in the inventory."""


def read_sources(
    authorities: Mapping[str, LocalAuthority], generations: Callable[[str], tuple[StoredGeneration, ...]]
) -> tuple[Source, ...]:
    """Every generation that has a certificate and signs (all but the retired), by authority, oldest first."""
    every = [g for name in sorted(authorities) for g in generations(name)]
    issued: dict[tuple[str, bytes], set[bytes]] = {}
    for g in every:
        if g.certificate is not None and g.issuer is not None:
            facts = parse_certificate(g.certificate)
            if facts.authority_key_identifier is not None:
                issued.setdefault((g.issuer, facts.authority_key_identifier), set()).add(facts.serial)
    found = []
    for g in every:
        if g.certificate is None or g.key_id is None or g.state == RETIRED:
            continue
        authority, body = authorities[g.authority], body_of(g)
        identifier = g.key_identifier or b""
        found.append(
            Source(
                authority=g.authority,
                generation=g.generation,
                certificate=g.certificate,
                key_id=g.key_id,
                crl_shards=authority.crl_shards,
                options=authority.options,
                created=g.created,
                algorithm=body.algorithm,
                token=body.token,
                cas=frozenset(issued.get((g.authority, identifier), ())),
            )
        )
    return tuple(found)


class Sources:
    """All of them, to be looked up as requests name them."""

    def __init__(self, found: Iterable[Source], current: Mapping[str, int]) -> None:
        """``current``: the generation that each authority issues from."""
        self.all = tuple(found)
        self._current = {s.authority: s for s in self.all if current.get(s.authority) == s.generation}
        self._by_hashes: dict[tuple[str, bytes], Source] = {}
        for source in self.all:
            for oid, hashes in _issuer_hashes(source.issuer):
                self._by_hashes.setdefault((oid, b"".join(hashes)), source)

    def of(self, cert_id: CertID) -> Source | None:
        """Who issued it, by the hashes of the issuer's name and of its key (RFC 6960 section 4.1.1)."""
        hashes = cert_id.issuer_name_hash + cert_id.issuer_key_hash
        return self._by_hashes.get((cert_id.hash_algorithm, hashes))

    def current(self, authority: str) -> Source | None:
        """What an authority issues from."""
        return self._current.get(authority)


def knows_hash(algorithm: str) -> bool:
    """Whether issuers can be found by this hash function."""
    return algorithm in _HASHES


def _issuer_hashes(issuer: IssuerFacts) -> list[tuple[str, tuple[bytes, bytes]]]:
    key = public_key_bits(issuer.spki)
    return [(oid, (digest(issuer.name), digest(key))) for oid, digest in _HASHES.items()]


def public_key_bits(spki: bytes) -> bytes:
    """What key hashes are over: the BIT STRING's contents without tag, length and unused bits."""
    reader = der.whole(spki)
    reader.enter()
    return reader.bit_string()


@lru_cache(maxsize=256)
def key_hash(spki: bytes) -> bytes:
    """SHA-1 of a public key: ResponderID byKey (RFC 6960 section 4.2.1)."""
    return hashlib.sha1(public_key_bits(spki), usedforsecurity=False).digest()


def cert_ids(source: Source, serial: bytes) -> list[bytes]:
    """Every DER CertID that can name a certificate."""
    return [
        ocsp.cert_id(oid, *hashes, serial, parameters)
        for oid, hashes in _issuer_hashes(source.issuer)
        for parameters in (der.NULL, b"")
    ]
