"""Making local CAs: a key, its certificate, and the two rows that hold them."""

from __future__ import annotations

import msgspec

from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.authorities.serials import new_serial
from certloom.clock import Clock
from certloom.pki import keys
from certloom.pki.ca import make_ca, make_root
from certloom.pki.certificates import issuer_facts
from certloom.pki.keys import PrivateKey
from certloom.pki.names import Name
from certloom.secrets import DataKey
from certloom.store.authorities import StoredAuthority, StoredKey
from certloom.store.ids import new_id

_BACKDATE = 3600
DAY = 86_400


class NewCA(msgspec.Struct, frozen=True):
    """A CA that is made but not stored yet."""

    authority: StoredAuthority
    key: StoredKey
    private_key: PrivateKey

    def __repr__(self) -> str:
        return f"NewCA({self.authority.name})"


def seal_key(data_key: DataKey, id: str, private_key: PrivateKey, purpose: str, now: int) -> StoredKey:
    """A private key as it is stored."""
    return StoredKey(
        id=id,
        purpose=purpose,
        spki=keys.spki_of(private_key),
        sealed=data_key.seal(f"key:{id}", keys.private_to_der(private_key)),
        created=now,
    )


def open_key(data_key: DataKey, stored: StoredKey) -> PrivateKey:
    """The private key of a stored one. Raises the data key's error when it was sealed under another."""
    return keys.private_from_der(data_key.open(f"key:{stored.id}", stored.sealed))


def make_local_ca(
    data_key: DataKey,
    clock: Clock,
    urls: URLs,
    *,
    name: str,
    subject: Name,
    days: int,
    algorithm: str = "P-256",
    crl_shards: int = 1,
    issuer: tuple[StoredAuthority, PrivateKey] | None = None,
) -> NewCA:
    """A root, or with ``issuer`` a CA below that one (which then may only issue end entities).

    It never outlives its issuer. Raises ``pki.template.TemplateError`` for what no CA certificate can say.
    """
    now = clock.now()
    private_key = keys.generate(algorithm)
    not_before, not_after = now - _BACKDATE, now + days * DAY
    if issuer is None:
        der = make_root(
            private_key, subject=subject, serial=new_serial(), not_before=not_before, not_after=not_after
        )
    else:
        row, issuer_key = issuer
        above = issuer_facts(row.certificate)
        der = make_ca(
            private_key.public_key(),
            above,
            issuer_key,
            subject=subject,
            serial=new_serial(),
            not_before=not_before,
            not_after=min(not_after, above.not_after),
            crl_url=urls.crl(row.name, 0),
            issuer_url=urls.issuer(row.name),
        )
    id = new_id(clock.now_ms())
    authority = StoredAuthority(
        name=name,
        kind=KIND,
        issuer=issuer[0].name if issuer else None,
        certificate=der,
        key_identifier=issuer_facts(der).key_identifier,
        key_id=id,
        crl_shards=crl_shards,
        state="active",
        body=msgspec.json.encode(LocalBody(generate_as=algorithm)).decode(),
        created=now,
    )
    return NewCA(authority, seal_key(data_key, id, private_key, f"authority:{name}", now), private_key)
