"""What a ceremony is to do: read from a TOML file, or put together from what people answer."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import msgspec

from certloom.ceremony.errors import CeremonyError
from certloom.ceremony.files import read

Days = Annotated[int, msgspec.Meta(ge=1, le=36_525)]
PathLength = Annotated[int, msgspec.Meta(ge=0, le=32)]
REASONS = {
    "unspecified": 0,
    "keyCompromise": 1,
    "cACompromise": 2,
    "affiliationChanged": 3,
    "superseded": 4,
    "cessationOfOperation": 5,
    "privilegeWithdrawn": 9,
}
"""Why a CA's certificate is revoked (RFC 5280 section 5.3.1); nothing here is put on hold."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class Person(_Part, frozen=True):
    """Somebody who is there."""

    name: str
    role: str = "witness"


class NewHolder(_Part, frozen=True):
    """Who gets a share."""

    name: str
    share: str = ""
    """The file to write; empty: ``share-N.json`` beside the root's file."""
    passphrase_file: str = ""
    """For rehearsals: where the passphrase is. Empty: it is typed."""


class _Contents(_Part, frozen=True, kw_only=True):
    days: Days
    path_length: PathLength | None = None
    permitted: tuple[str, ...] = ()
    """Name constraints, as ``dns:example.com``."""
    excluded: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    """Dotted OIDs."""
    cps: str = ""
    """URL of the certification practice statement."""


class NewRoot(_Contents, frozen=True, kw_only=True):
    """The root that is to be made."""

    subject: str
    """As RFC 4514 has it: ``CN=Example Root,O=Example,C=DE``."""
    algorithm: str = "P-384"


class Certify(_Contents, frozen=True, kw_only=True):
    """A CA that the root certifies: one that asks with a CSR, or one that has a certificate already (a root's
    successor or predecessor, or a foreign CA)."""

    csr: str = ""
    certificate: str = ""
    out: str
    subject: str = ""
    """Instead of the one that the CSR asks for."""
    extended_key_usage: tuple[str, ...] = ()
    """Dotted OIDs."""
    crl_url: str = ""
    issuer_url: str = ""
    ocsp_url: str = ""


class Revoke(_Part, frozen=True):
    """A certificate of the root's that is revoked."""

    serial: str
    """Hexadecimal."""
    reason: str


class MakeCRL(_Part, frozen=True):
    """The CRL to sign."""

    out: str
    days: Days


class Script(_Part, frozen=True):
    """One ceremony. Paths are relative to the script's own folder."""

    purpose: str = ""
    place: str = ""
    present: tuple[Person, ...] = ()
    directory: str = "."
    """Where ``root.json``, ``root.pem``, ``transcript.txt`` and shares are."""
    shares: tuple[str, ...] = ()
    """The share files that open the root's key."""
    passphrases: dict[str, str] = {}
    """For rehearsals: files with the passphrases of holders, by name."""
    root: NewRoot | None = None
    threshold: Annotated[int, msgspec.Meta(ge=1)] = 2
    holders: tuple[NewHolder, ...] = ()
    certify: tuple[Certify, ...] = ()
    revoke: tuple[Revoke, ...] = ()
    crl: MakeCRL | None = None


def load(path: Path) -> Script:
    """Raises ``CeremonyError``."""
    try:
        return parse(read(path).decode())
    except UnicodeDecodeError:
        raise CeremonyError(f"{path} is not UTF-8") from None
    except CeremonyError as error:
        raise CeremonyError(f"{path}: {error}") from None


def parse(text: str) -> Script:
    """Raises ``CeremonyError``."""
    try:
        script = msgspec.convert(tomllib.loads(text), Script, strict=True)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise CeremonyError(f"not a ceremony's script: {error}") from None
    for each in script.certify:
        if bool(each.csr) == bool(each.certificate):
            raise CeremonyError("what is certified has a csr or a certificate, one of the two")
        if each.certificate and each.subject:
            raise CeremonyError("a CA that has a certificate keeps its subject")
    for revoked in script.revoke:
        if revoked.reason not in REASONS:
            raise CeremonyError(f"{revoked.reason!r} is no reason: {', '.join(REASONS)}")
    return script
