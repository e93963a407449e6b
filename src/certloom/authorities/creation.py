"""Making local CAs: a key that the signer holds, its certificate, and the rows that tell of them."""

from __future__ import annotations

import msgspec

from certloom.audit import SYSTEM, Origin
from certloom.authorities.certifying import (
    CACertificate,
    CAContents,
    Certifier,
    HierarchyError,
    issuer_of,
)
from certloom.authorities.generations import CURRENT, NEXT, CATerms, GenerationBody
from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.clock import Clock
from certloom.pki.ca_extensions import ca_extensions
from certloom.pki.certificates import issuer_facts
from certloom.pki.extensions import Extension
from certloom.pki.keys import KeyRejected, check_fit, facts_of
from certloom.pki.name_constraints import NameConstraints
from certloom.pki.names import Name, format_name
from certloom.signing import MadeKey, Signing
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority, StoredGeneration, StoredKey
from certloom.store.base import Tx
from certloom.store.ids import new_id

DAY = 86_400


class NewCA(msgspec.Struct, frozen=True):
    """A CA that is made but not stored yet."""

    authority: StoredAuthority
    key: StoredKey
    generation: StoredGeneration
    certificate: CACertificate | None = None
    """Where it was signed here."""

    def store(self, tx: Tx, origin: Origin = SYSTEM) -> None:
        """Raises ``Conflict`` when its name is taken."""
        statements.insert_key(tx, self.key)
        statements.insert(tx, self.authority, self.generation)
        if self.certificate is not None:
            self.certificate.enter(tx, self.authority.created, origin)


class KeyPlace(msgspec.Struct, frozen=True):
    """Where a CA's key is to be."""

    token: str = ""
    """A PKCS#11 URI (RFC 7512); empty: with the signer, in software."""
    attach: bool = False
    """Whether it is in the token already."""


def usual_shards(*, root: bool) -> int:
    """Over how many CRLs a CA's certificates are spread where nobody says.

    A root certifies few, and one list of all that it revoked satisfies also those who want a list for the
    root itself, whose certificate names none (``openssl verify -crl_check_all``).
    """
    return 1 if root else 16


async def make_local_ca(
    signing: Signing,
    clock: Clock,
    urls: URLs,
    *,
    name: str,
    subject: Name,
    days: int,
    algorithm: str = "P-256",
    crl_shards: int = 1,
    issuer: StoredAuthority | None = None,
    terms: CATerms | None = None,
    place: KeyPlace | None = None,
    options: LocalBody | None = None,
    certifier: Certifier | None = None,
) -> NewCA:
    """A root, or with ``issuer`` a CA below that one, which by default may only issue end entities.

    It never outlives its issuer. Without ``certifier`` its serial is not reserved and nothing is linted: for
    what begins a database. Raises ``HierarchyError``, ``AuthorityError`` and ``SigningError``, whose code is
    ``bad-request`` for what no CA certificate can say.
    """
    now = clock.now()
    if terms is None:
        terms = CATerms(path_length=None if issuer is None else 0)
    if issuer is not None:
        check_active(issuer)
    extensions = extensions_of(terms)
    id = new_id(clock.now_ms())
    made = await make_key(signing, id, name, algorithm, place)
    contents = CAContents(made.spki, subject, now + days * DAY, terms.path_length, extensions)
    certifier = certifier or Certifier(None, clock, signing, urls)
    if issuer is None:
        certificate = await certifier.self_signed(name, 1, id, contents)
    else:
        certificate = await certifier.below(issuer_of(issuer), contents)
    return new_ca(
        name=name,
        key=stored_key(id, name, made, now),
        certificate=certificate.der,
        crl_shards=crl_shards,
        issuer=issuer.name if issuer else None,
        options=options or LocalBody(),
        body=GenerationBody(
            algorithm=key_type(made.spki), token=_token(place), terms=terms, trusted_since=now
        ),
        now=now,
        signed=certificate,
    )


async def request_local_ca(
    signing: Signing,
    clock: Clock,
    *,
    name: str,
    subject: Name,
    algorithm: str = "P-256",
    crl_shards: int = 1,
    place: KeyPlace | None = None,
    options: LocalBody | None = None,
) -> NewCA:
    """A CA whose certificate somebody else is asked for: a key, and a CSR in the generation's row.

    It issues nothing until its certificate is installed. Raises ``SigningError``.
    """
    now = clock.now()
    id = new_id(clock.now_ms())
    made = await make_key(signing, id, name, algorithm, place)
    csr = await signing.csr(id, subject, ca=True)
    body = GenerationBody(algorithm=key_type(made.spki), token=_token(place), subject=format_name(subject))
    local = msgspec.structs.replace(options or LocalBody(), generate_as=body.algorithm)
    return NewCA(
        StoredAuthority(
            name, KIND, None, b"", b"", id, crl_shards, "pending", msgspec.json.encode(local).decode(), now
        ),
        stored_key(id, name, made, now),
        StoredGeneration(name, 1, NEXT, None, None, None, id, csr, msgspec.json.encode(body).decode(), now),
    )


def new_ca(
    *,
    name: str,
    key: StoredKey,
    certificate: bytes,
    crl_shards: int,
    issuer: str | None,
    options: LocalBody,
    body: GenerationBody,
    now: int,
    signed: CACertificate | None = None,
) -> NewCA:
    """The rows of a CA that has its certificate."""
    options = msgspec.structs.replace(options, generate_as=body.algorithm)
    identifier = issuer_facts(certificate).key_identifier
    return NewCA(
        StoredAuthority(
            name=name,
            kind=KIND,
            issuer=issuer,
            certificate=certificate,
            key_identifier=identifier,
            key_id=key.id,
            crl_shards=crl_shards,
            state="active",
            body=msgspec.json.encode(options).decode(),
            created=now,
        ),
        key,
        StoredGeneration(
            name,
            1,
            CURRENT,
            issuer,
            certificate,
            identifier,
            key.id,
            None,
            msgspec.json.encode(body).decode(),
            now,
            now,
        ),
        signed,
    )


async def make_key(signing: Signing, id: str, name: str, algorithm: str, place: KeyPlace | None) -> MadeKey:
    """A CA's key, new or the one that is in its token. Raises ``HierarchyError`` and ``SigningError``."""
    place = place or KeyPlace()
    if "pin-" in place.token:
        raise HierarchyError("a PKCS#11 URI here names a token and a key; its PIN is in the settings")
    if place.attach:
        if not place.token:
            raise HierarchyError("which token's key? Give its PKCS#11 URI")
        return await signing.attach(id, "ca", name, place.token)
    return await signing.generate(id, "ca", name, algorithm, place.token or None)


def _token(place: KeyPlace | None) -> str:
    return "" if place is None else place.token


def check_active(issuer: StoredAuthority) -> None:
    """Raises ``HierarchyError`` for an authority that issues nothing."""
    if issuer.state == "pending":
        raise HierarchyError(f"authority {issuer.name} waits for its own certificate", conflict=True)
    if issuer.state != "active":
        raise HierarchyError(f"authority {issuer.name} issues no more", conflict=True)


def stored_key(id: str, name: str, made: MadeKey, now: int) -> StoredKey:
    """A CA key's row."""
    return StoredKey(id, f"authority:{name}", made.spki, made.record, now)


def key_type(spki: bytes) -> str:
    """What ``pki.keys.generate`` would make such a key of. Raises ``HierarchyError`` for keys too weak."""
    try:
        facts = facts_of(spki)
        check_fit(facts)
    except KeyRejected as error:
        raise HierarchyError(f"this key cannot be a CA's: {error}") from None
    return facts.key_type


def extensions_of(terms: CATerms) -> tuple[Extension, ...]:
    """What these terms add to a CA certificate. Raises ``HierarchyError``."""
    constraints = NameConstraints(terms.permitted, terms.excluded)
    try:
        return ca_extensions(constraints, terms.policies, terms.cps, terms.extended_key_usage)
    except ValueError as error:
        raise HierarchyError(str(error)) from None
