"""CertTemplate (RFC 4211 section 5): the fields that a certificate is to have, each of them optional."""

from __future__ import annotations

import msgspec

from certloom.pki import der, extensions, names
from certloom.pki.crmf_mac import CRMFError
from certloom.pki.der import DERError, Reader
from certloom.pki.extensions import Extension
from certloom.pki.names import Name

_MAX_SERIAL = 64
"""Octets of a serial number."""


class CertTemplate(msgspec.Struct, frozen=True):
    """What is left out has no wish attached, and is for the CA to choose."""

    version: int | None = None
    """2 means version 3."""
    serial: bytes | None = None
    """Big-endian, without the DER sign octet."""
    signing_algorithm: bytes | None = None
    """DER AlgorithmIdentifier."""
    issuer: Name | None = None
    not_before: int | None = None
    """Unix seconds."""
    not_after: int | None = None
    """Unix seconds."""
    subject: Name | None = None
    """The empty name is not the same as none."""
    public_key: bytes | None = None
    """SubjectPublicKeyInfo in DER, as received but for its tag."""
    issuer_unique_id: bytes | None = None
    """The contents of a BIT STRING."""
    subject_unique_id: bytes | None = None
    """The contents of a BIT STRING."""
    extensions: tuple[Extension, ...] = ()


def read_serial(reader: Reader, tag: int = der.INTEGER) -> bytes:
    """The next INTEGER, big-endian and without sign octet. Raises ``DERError``, also for a negative one."""
    content = reader.content(tag)
    if not 1 <= len(content) <= _MAX_SERIAL or content[0] & 0x80:
        raise DERError("a serial number that is negative, empty or too long")
    if len(content) > 1 and not content[0] and not content[1] & 0x80:
        raise DERError("an INTEGER that is not minimal")
    return content.lstrip(b"\x00") or b"\x00"


def read_template(reader: Reader) -> CertTemplate:
    """From a reader over a CertTemplate's fields. Raises ``DERError``, ``BadName`` and ``CRMFError``."""
    version = serial = signing_algorithm = issuer = not_before = not_after = subject = None
    public_key = issuer_unique_id = subject_unique_id = None
    asked: tuple[Extension, ...] = ()
    if reader.peek() == 0x80:
        version = Reader(b"\x02" + reader.raw(0x80)[1:]).integer()
        if not 0 <= version <= 2:
            raise DERError("a version that does not exist")
    if reader.peek() == 0x81:
        serial = read_serial(reader, 0x81)
    if reader.peek() == 0xA2:
        signing_algorithm = b"\x30" + reader.raw(0xA2)[1:]
    if reader.peek() == 0xA3:
        issuer = _name(reader.enter(0xA3))
    if reader.peek() == 0xA4:
        not_before, not_after = _validity(reader.enter(0xA4))
    if reader.peek() == 0xA5:
        subject = _name(reader.enter(0xA5))
    if reader.peek() == 0xA6:
        public_key = b"\x30" + reader.raw(0xA6)[1:]
    if reader.peek() == 0x87:
        issuer_unique_id = reader.content(0x87)
    if reader.peek() == 0x88:
        subject_unique_id = reader.content(0x88)
    if reader.peek() == 0xA9:
        asked = extensions.decode_all(reader.enter(0xA9))
        if not asked:
            raise DERError("a list of extensions without any")
        if len({extension.oid for extension in asked}) != len(asked):
            raise CRMFError("duplicate-extension", "an extension is asked for twice (RFC 5280 section 4.2)")
    reader.finish()
    return CertTemplate(
        version=version,
        serial=serial,
        signing_algorithm=signing_algorithm,
        issuer=issuer,
        not_before=not_before,
        not_after=not_after,
        subject=subject,
        public_key=public_key,
        issuer_unique_id=issuer_unique_id,
        subject_unique_id=subject_unique_id,
        extensions=asked,
    )


def _name(explicit: Reader) -> Name:
    # A Name is a CHOICE, so its tag stands around it where all others are implicit.
    name = names.read(explicit.enter())
    explicit.finish()
    return name


def _validity(reader: Reader) -> tuple[int | None, int | None]:
    found: list[int | None] = []
    for tag in (0xA0, 0xA1):
        moment = None
        if reader.peek() == tag:
            explicit = reader.enter(tag)
            moment = explicit.time()
            explicit.finish()
        found.append(moment)
    reader.finish()
    if found == [None, None]:
        raise DERError("a validity that neither begins nor ends")
    return found[0], found[1]


def encode_template(template: CertTemplate) -> bytes:
    """CertTemplate."""
    t = template
    return der.sequence(
        b"" if t.version is None else b"\x80" + der.integer(t.version)[1:],
        b"" if t.serial is None else b"\x81" + der.unsigned(t.serial)[1:],
        b"" if t.signing_algorithm is None else b"\xa2" + t.signing_algorithm[1:],
        b"" if t.issuer is None else der.context(3, names.encode(t.issuer)),
        _encode_validity(t.not_before, t.not_after),
        b"" if t.subject is None else der.context(5, names.encode(t.subject)),
        b"" if t.public_key is None else b"\xa6" + t.public_key[1:],
        b"" if t.issuer_unique_id is None else der.tlv(0x87, t.issuer_unique_id),
        b"" if t.subject_unique_id is None else der.tlv(0x88, t.subject_unique_id),
        der.context(9, b"".join(extensions.encode(e.oid, e.critical, e.value) for e in t.extensions))
        if t.extensions
        else b"",
    )


def _encode_validity(not_before: int | None, not_after: int | None) -> bytes:
    if not_before is None and not_after is None:
        return b""
    return der.context(
        4,
        (b"" if not_before is None else der.context(0, der.x509_time(not_before)))
        + (b"" if not_after is None else der.context(1, der.x509_time(not_after))),
    )
