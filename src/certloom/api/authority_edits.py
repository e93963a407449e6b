"""Authorities as they are declared: making them, and changing what of them can change.

Each edit is a unit, or what a unit needs; see ``edits``, whose like for authorities this is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, UnsetType

from certloom.api.edits import Change, before_and_after, differences, invalid
from certloom.api.problems import CONFLICT, REFUSED, UNAVAILABLE, Problem
from certloom.api.routing import Name
from certloom.api.services import Services
from certloom.audit import Origin, record
from certloom.authorities.base import AuthorityError, AuthorityUnavailable
from certloom.authorities.certifying import HierarchyError
from certloom.authorities.creation import (
    KeyPlace,
    NewCA,
    make_local_ca,
    request_local_ca,
    usual_shards,
)
from certloom.authorities.generations import CATerms, body_of
from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.pki import names as x501
from certloom.pki.ca_extensions import ANY_POLICY, certificate_policies
from certloom.pki.certificates import parse_certificate
from certloom.policy.decisions import Reason
from certloom.policy.usages import EXTENDED_KEY_USAGES
from certloom.settings.origins import check_origin
from certloom.signing import SigningRefused, SigningUnavailable
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority
from certloom.store.base import Tx

Days = Annotated[int, msgspec.Meta(ge=1, le=36500)]
PathLength = Annotated[int, msgspec.Meta(ge=0, le=20)]
Texts = Annotated[
    tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=1000)], ...], msgspec.Meta(max_length=100)
]
TokenURI = Annotated[
    str, msgspec.Meta(pattern="^(pkcs11:.*)?$", max_length=1000, description="RFC 7512, without a PIN.")
]

_IN_CRLS = ("url", "former_urls", "delta_seconds", "full_crl", "crl_seconds", "crl_number_above")
"""Options that show in CRLs."""


class AuthorityOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What of an authority can change. Times are seconds; what is left out stays as it is."""

    crl_seconds: int | UnsetType = UNSET
    """From a CRL's thisUpdate to its nextUpdate."""
    delta_seconds: int | UnsetType = UNSET
    """How often delta CRLs are signed; 0: there are none."""
    full_crl: bool | UnsetType = UNSET
    """Whether there is a whole list beside those of the shards."""
    publish_seconds: int | UnsetType = UNSET
    """How long after a revocation the CRL may wait for others; 0: it is signed at once."""
    ocsp: bool | UnsetType = UNSET
    """Whether certificates name the OCSP responder."""
    ocsp_seconds: int | UnsetType = UNSET
    """How long an OCSP answer is good."""
    ocsp_key: str | UnsetType = UNSET
    """The kind of the OCSP responder's key; ``token``: in the CA key's token."""
    ocsp_non_issued: Literal["unknown", "revoked"] | UnsetType = UNSET
    """What OCSP says of serial numbers that were never issued (RFC 6960 section 2.2)."""
    ocsp_archive_seconds: int | UnsetType = UNSET
    """For how long after expiry OCSP still answers; 0: not said."""
    cps: str | UnsetType = UNSET
    """Where the certification practice statement is: named in what it issues."""
    policies: Texts | UnsetType = UNSET
    """Certificate policies (dotted OIDs) in what it issues, unless the profile has its own."""
    url: str | UnsetType = UNSET
    """Origin of the addresses in what it issues, such as ``http://pki.example.com``; empty: the server's."""
    former_urls: Texts | UnsetType = UNSET
    """Origins in certificates of before, for which its CRLs speak too; one that ``url`` replaces comes by
    itself."""
    trust_seconds: int | UnsetType = UNSET
    """Of a root: for how long a next generation is published before it is issued from."""
    crl_number_above: int | UnsetType = UNSET
    """CRL numbers are above this one: the last one of CRLs made elsewhere."""

    def given(self) -> dict[str, Any]:
        """What was said."""
        return {k: v for k, v in msgspec.structs.asdict(self).items() if v is not UNSET}


class DeclaredAuthority(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A local CA. Its options can change later; the rest is in its certificate."""

    name: Name
    subject: str
    """Such as ``CN=Devices CA, O=Example``."""
    issuer: str | None = None
    """The authority above it; none makes a root."""
    by_request: bool = False
    """Make a CSR for somebody else to sign; it waits for its certificate then."""
    key: str = "P-256"
    """``P-256``, ``P-384``, ``rsa-3072``, ``ml-dsa-65`` ..."""
    key_in: TokenURI = ""
    """The PKCS#11 URI of the token (and object) that its key is made in; empty: with the signer."""
    attach: bool = False
    """The key is in the token already: use that."""
    days: Days = 3650
    """How long its certificate is valid, unless its issuer's ends before."""
    path_length: PathLength | Literal["unlimited"] | None = None
    """How many CAs may be in a row below it; none: 0 where it has an issuer, unlimited for a root."""
    permitted: Texts = ()
    """Name constraints (RFC 5280 section 4.2.1.10): ``dns:example.com``, ``ip:10.0.0.0/8`` ..."""
    excluded: Texts = ()
    policies: Texts = ()
    """Certificate policies in its own certificate, as dotted OIDs."""
    cps: str = ""
    """Where its certification practice statement is, for its own certificate."""
    extended_key_usage: Texts = ()
    """What its certificates may at most be for: ``serverAuth`` ... or dotted OIDs."""
    crl_shards: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None
    """Over how many CRLs its certificates are spread; none: 1 for a root, 16 for others."""
    options: AuthorityOptions = AuthorityOptions()


@contextmanager
def told(path: str = "$") -> Iterator[None]:
    """Raise as problems what the rooms of authorities and keys refuse."""
    try:
        yield
    except HierarchyError as error:
        if error.conflict:
            raise Problem(CONFLICT, str(error)) from None
        raise invalid(str(error), path) from None
    except (AuthorityUnavailable, SigningUnavailable) as error:
        raise Problem(UNAVAILABLE, str(error)) from error
    except AuthorityError as error:
        reasons = tuple(Reason(error.code, each) for each in error.details or (str(error),))
        raise Problem(REFUSED, str(error), reasons=reasons) from error
    except SigningRefused as error:
        if error.code == "bad-request":
            raise invalid(str(error), path) from None
        raise Problem(CONFLICT, str(error)) from error


# -- reading ---------------------------------------------------------------------------------------------


def read_subject(subject: str, path: str = "$") -> x501.Name:
    """A CA's distinguished name. Raises ``Problem``."""
    try:
        return x501.parse_name(subject)
    except x501.BadName as error:
        raise invalid(str(error), f"{path}.subject") from None


def read_usages(usages: tuple[str, ...], path: str = "$") -> tuple[str, ...]:
    """Dotted OIDs of extended key usages. Raises ``Problem``."""
    found = tuple(EXTENDED_KEY_USAGES.get(usage, usage) for usage in usages)
    for usage in found:
        if not usage[:1].isdigit():
            raise invalid(f"{usage!r} is no extended key usage", f"{path}.extended_key_usage")
    return found


def read_terms(declared: DeclaredAuthority, path: str = "$") -> CATerms:
    """What the CA certificate is to say. Raises ``Problem``."""
    length = declared.path_length
    if length is None:
        length = "unlimited" if declared.issuer is None else 0
    return CATerms(
        path_length=None if length == "unlimited" else length,
        permitted=declared.permitted,
        excluded=declared.excluded,
        policies=declared.policies,
        cps=declared.cps,
        extended_key_usage=read_usages(declared.extended_key_usage, path),
    )


def with_options(body: LocalBody, options: Mapping[str, Any], path: str = "$") -> LocalBody:
    """A local authority's options with these changed. Raises ``Problem``."""
    try:
        changed = msgspec.convert({**msgspec.structs.asdict(body), **options}, LocalBody)
        for name, urls in (
            ("url", (changed.url,) if changed.url else ()),
            ("former_urls", changed.former_urls),
        ):
            _check_origins(urls, f"{path}.{name}")
        if changed.policies or changed.cps:
            certificate_policies(changed.policies or (ANY_POLICY,), changed.cps)
    except msgspec.ValidationError as error:
        message, _, place = str(error).rpartition(" - at `$")
        raise invalid(message or str(error), path + place.rstrip("`")) from None
    except ValueError as error:
        raise invalid(str(error), f"{path}.policies") from None
    return changed


def _check_origins(urls: Iterable[str], path: str) -> None:
    for url in urls:
        try:
            check_origin(url, "http", "https")
        except ValueError as error:
            raise invalid(f"{url!r}: {error}", path) from None


# -- making and changing ---------------------------------------------------------------------------------


async def make_ca(
    services: Services, declared: DeclaredAuthority, above: NewCA | None = None, path: str = "$"
) -> NewCA:
    """Make a CA's key and certificate, outside any unit: keys take their time. Raises ``Problem``."""
    subject, terms = read_subject(declared.subject, path), read_terms(declared, path)
    options = with_options(LocalBody(), declared.options.given(), f"{path}.options")
    place = KeyPlace(declared.key_in, declared.attach)
    shards = declared.crl_shards or usual_shards(root=declared.issuer is None and not declared.by_request)
    issuer: StoredAuthority | None = None
    if above is not None:
        issuer = above.authority
    elif declared.issuer is not None:
        issuer = services.books.authority_row(declared.issuer)
    with told(path):
        if declared.by_request:
            if declared.issuer is not None:
                raise HierarchyError("either its issuer is here, or it is made by request")
            return await request_local_ca(
                services.signing,
                services.clock,
                name=declared.name,
                subject=subject,
                algorithm=declared.key,
                crl_shards=shards,
                place=place,
                options=options,
            )
        return await make_local_ca(
            services.signing,
            services.clock,
            URLs(services.origins.http),
            name=declared.name,
            subject=subject,
            days=declared.days,
            algorithm=declared.key,
            crl_shards=shards,
            issuer=issuer,
            terms=terms,
            place=place,
            options=options,
            certifier=services.certifier,
        )
    raise AssertionError("not reached")


def put_authority(
    tx: Tx, services: Services, declared: DeclaredAuthority, ca: NewCA | None, origin: Origin
) -> Change:
    """Store a new CA, or change the options of the one there is. Raises ``Problem`` where that is another."""
    row = statements.get(tx, declared.name, lock=True)
    if row is not None:
        _check_same(tx, row, declared)
        return put_options(tx, services, row, declared.options.given(), origin)
    if ca is not None:
        with told():
            ca.store(tx, origin)
        data = before_and_after(None, msgspec.json.encode(declared))
        record(tx, services.clock.now_ms(), "authority.created", f"authority:{declared.name}", origin, data)
    details = (x501.format_name(x501.parse_name(declared.subject)),)
    return Change("authority", declared.name, "created", details)


def put_options(
    tx: Tx, services: Services, row: StoredAuthority, options: Mapping[str, Any], origin: Origin
) -> Change:
    """Change an authority's options, and its ``state`` where that is among them."""
    given = dict(options)
    state = given.pop("state", row.state)
    if row.state == "pending" and state != row.state:
        raise Problem(CONFLICT, f"authority {row.name!r} waits for its certificate")
    before = msgspec.json.decode(row.body, type=LocalBody)
    body = with_options(before, given)
    if body.url != before.url:
        left = before.url or services.origins.http
        body = with_options(body, {"former_urls": [*dict.fromkeys((*body.former_urls, left))]})
    was = _shown_options(row.body, row.state)
    new = msgspec.json.encode(body).decode()
    now = _shown_options(new, state)
    if msgspec.json.decode(was) == msgspec.json.decode(now):
        return Change("authority", row.name, "unchanged")
    statements.update(tx, msgspec.structs.replace(row, body=new, state=state))
    if any(getattr(body, name) != getattr(before, name) for name in _IN_CRLS):
        having = (each.generation for each in statements.generations(tx, row.name))
        services.crls.sign_again(tx, row.name, having, row.crl_shards)
    data = before_and_after(was, now)
    record(tx, services.clock.now_ms(), "authority.changed", f"authority:{row.name}", origin, data)
    return Change("authority", row.name, "changed", differences(was, now))


def _shown_options(body: str, state: str) -> str:
    # Compared as it would be stored today: a default that came later is no difference.
    shown = msgspec.json.decode(msgspec.json.encode(msgspec.json.decode(body, type=LocalBody)))
    return msgspec.json.encode({**shown, "state": state}).decode()


def _check_same(tx: Tx, row: StoredAuthority, declared: DeclaredAuthority) -> None:
    """An authority that was rolled over is still the one that was declared. Raises ``Problem``."""
    subject = x501.format_name(x501.parse_name(declared.subject))
    keys, subjects = set(), set()
    for generation in statements.generations(tx, row.name):
        body = body_of(generation)
        keys.add(body.algorithm.lower())
        subjects.add(body.subject)
        if generation.certificate is not None:
            facts = parse_certificate(generation.certificate)
            keys.add(facts.key.key_type.lower() if facts.key else "")
            subjects.add(x501.format_name(facts.subject))
    same = (
        row.kind == KIND
        and (row.issuer == declared.issuer or declared.by_request)
        and declared.crl_shards in (None, row.crl_shards)
        and declared.key.lower() in keys
        and subject in subjects
    )
    if not same:
        raise Problem(
            CONFLICT,
            f"authority {declared.name!r} exists and is not what is declared; it cannot change, but for its"
            " options",
        )
