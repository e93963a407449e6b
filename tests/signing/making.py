"""Keys and contents for tests of the signer."""

from __future__ import annotations

import msgspec

from certloom.clock import Clock
from certloom.pki import keys
from certloom.pki.identifiers import parse_dns
from certloom.pki.names import parse_name
from certloom.pki.template import CATemplate, CertificateTemplate
from certloom.secrets import DataKey
from certloom.signing import MadeKey, Signing
from certloom.signing.service import UNLIMITED, Limits, Service

KEY = DataKey(bytes(range(2, 34)))
DAY = 86_400
SPKI = keys.spki_of(keys.generate("P-256"))


def service(clock: Clock, limits: Limits = UNLIMITED) -> Service:
    return Service(KEY, clock, limits=limits)


def ca_template(spki: bytes, now: int, subject: str = "CN=Signing Test") -> CATemplate:
    return CATemplate(b"\x31" * 16, spki, parse_name(subject), now - 60, now + 3650 * DAY)


def leaf(now: int, **changes: object) -> CertificateTemplate:
    plain = CertificateTemplate(
        serial=b"\x51" * 16,
        spki=SPKI,
        subject=parse_name("CN=www.example.com"),
        identifiers=(parse_dns("www.example.com"),),
        not_before=now - 60,
        not_after=now - 60 + 30 * DAY - 1,
        key_usage=("digitalSignature",),
        extended_key_usage=("1.3.6.1.5.5.7.3.1",),
    )
    return msgspec.structs.replace(plain, **changes)


async def root(
    signing: Signing, now: int, id: str = "root", algorithm: str = "P-256"
) -> tuple[MadeKey, bytes]:
    """A key and a self-signed certificate for it."""
    made = await signing.generate(id, "ca", id, algorithm)
    return made, await signing.ca_certificate(id, None, ca_template(made.spki, now, f"CN={id}"))
