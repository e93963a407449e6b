"""Making local CAs: a key that the signer holds, its certificate, and the rows that tell of them."""

from __future__ import annotations

import msgspec

from certloom.authorities.local import KIND, LocalBody, URLs
from certloom.authorities.serials import new_serial
from certloom.clock import Clock
from certloom.pki.certificates import issuer_facts
from certloom.pki.names import Name
from certloom.pki.template import CATemplate
from certloom.signing import Signing
from certloom.store import authorities as statements
from certloom.store.authorities import StoredAuthority, StoredKey
from certloom.store.base import Tx
from certloom.store.ids import new_id

_BACKDATE = 3600
DAY = 86_400


class NewCA(msgspec.Struct, frozen=True):
    """A CA that is made but not stored yet."""

    authority: StoredAuthority
    key: StoredKey

    def store(self, tx: Tx) -> None:
        """Raises ``Conflict`` when its name is taken."""
        statements.insert_key(tx, self.key)
        statements.insert(tx, self.authority)


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
) -> NewCA:
    """A root, or with ``issuer`` a CA below that one (which then may only issue end entities).

    It never outlives its issuer. Raises ``SigningError``; its code is ``bad-request`` for what no CA
    certificate can say.
    """
    now = clock.now()
    id = new_id(clock.now_ms())
    made = await signing.generate(id, "ca", name, algorithm)
    template = CATemplate(
        serial=new_serial(),
        spki=made.spki,
        subject=subject,
        not_before=now - _BACKDATE,
        not_after=now + days * DAY,
    )
    if issuer is None:
        der = await signing.ca_certificate(id, None, template)
    else:
        below = msgspec.structs.replace(
            template,
            not_after=min(template.not_after, issuer_facts(issuer.certificate).not_after),
            path_length=0,
            crl_url=urls.crl(issuer.name, 0, issuer.generation),
            issuer_url=urls.issuer(issuer.name, issuer.generation),
        )
        der = await signing.ca_certificate(issuer.key_id or "", issuer.certificate, below)
    authority = StoredAuthority(
        name=name,
        kind=KIND,
        issuer=issuer.name if issuer else None,
        certificate=der,
        key_identifier=issuer_facts(der).key_identifier,
        key_id=id,
        crl_shards=crl_shards,
        state="active",
        body=msgspec.json.encode(LocalBody(generate_as=algorithm)).decode(),
        created=now,
    )
    return NewCA(authority, StoredKey(id, f"authority:{name}", made.spki, made.record, now))
