"""Name constraints of CA certificates (RFC 5280 section 4.2.1.10): writing, reading and obeying them.

As text a constraint is ``type:value``: ``dns:example.com`` (the domain and everything under it; ``dns:`` is
every DNS name), ``ip:10.0.0.0/8``, ``email:example.com`` (mailboxes on that host), ``email:.example.com`` (on
hosts under it), ``email:a@example.com`` (one mailbox), ``uri:.example.com``, ``dirname:O=Example,C=DE``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from certloom.pki import der, names
from certloom.pki.extensions import Extension
from certloom.pki.identifiers import Identifier, IdentifierError, IdentifierType, parse_dns
from certloom.pki.names import BadName, Name

NAME_CONSTRAINTS = "2.5.29.30"

_EMAIL, _DNS, _DIRECTORY, _URI, _IP = 0x81, 0x82, 0xA4, 0x86, 0x87
_TAGS = {"dns": _DNS, "ip": _IP, "email": _EMAIL, "uri": _URI, "dirname": _DIRECTORY}


class ConstraintError(ValueError):
    """There is no such constraint, or these are not name constraints."""


class NameConstraints(msgspec.Struct, frozen=True):
    """Subtrees that names must and must not lie in, each as ``type:value``."""

    permitted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.permitted or self.excluded)


def extension(constraints: NameConstraints) -> Extension:
    """The critical extension. Raises ``ConstraintError``."""
    if not constraints:
        raise ConstraintError("name constraints that constrain nothing")
    value = der.sequence(
        _subtrees(0, constraints.permitted) if constraints.permitted else b"",
        _subtrees(1, constraints.excluded) if constraints.excluded else b"",
    )
    return Extension(NAME_CONSTRAINTS, True, value)


def decode(value: bytes) -> NameConstraints:
    """The constraints in an extension's value; those on name forms that nothing here issues (otherName,
    registeredID ...) are left out.

    Raises ``ConstraintError``.
    """
    try:
        reader = der.whole(value)
        permitted = _read_subtrees(reader.enter(0xA0)) if reader.peek() == 0xA0 else ()
        excluded = _read_subtrees(reader.enter(0xA1)) if reader.peek() == 0xA1 else ()
        reader.finish()
    except (der.DERError, BadName, ValueError) as error:
        raise ConstraintError(f"name constraints that are not understood: {error}") from None
    return NameConstraints(permitted, excluded)


def violations(constraints: NameConstraints, subject: Name, identifiers: Iterable[Identifier]) -> list[str]:
    """What of an end entity's names its issuer's constraints do not allow, in words (RFC 5280 section
    6.1.3 (b) and (c))."""
    found = []
    named = [(_form(identifier), identifier.value) for identifier in identifiers]
    # E-mail addresses in the subject count where subjectAltName has none (RFC 5280 section 4.2.1.10).
    if not any(form == "email" for form, _ in named):
        named += [("email", value) for value in subject.values(names.EMAIL_ADDRESS)]
    if subject:
        named.append(("dirname", names.format_name(subject)))
    for form, value in named:
        excluded = [c for c in constraints.excluded if _split(c)[0] == form]
        permitted = [c for c in constraints.permitted if _split(c)[0] == form]
        if any(_within(form, value, _split(c)[1]) for c in excluded):
            found.append(f"{value} is excluded")
        elif permitted and not any(_within(form, value, _split(c)[1]) for c in permitted):
            found.append(f"{value} is not among what is permitted ({', '.join(permitted)})")
    return found


def _split(constraint: str) -> tuple[str, str]:
    form, _, value = constraint.partition(":")
    return form, value


def _form(identifier: Identifier) -> str:
    return identifier.type.value


def _within(form: str, value: str, base: str) -> bool:
    match form:
        case "dns":
            # A wildcard stands for names on both sides of a longer constraint; it is within what holds all of
            # them.
            host = value.removeprefix("*.")
            return not base or host == base or host.endswith("." + base)
        case "ip":
            address, network = ipaddress.ip_address(value), ipaddress.ip_network(base)
            return address.version == network.version and address in network
        case "email":
            host = value.rpartition("@")[2].lower()
            if "@" in base:
                return value.rpartition("@")[0] + "@" + host == base
            return host.endswith(base) if base.startswith(".") else host == base
        case "uri":
            host = (urlsplit(value).hostname or "").lower()
            return host.endswith(base) if base.startswith(".") else host == base
        case _:
            wanted = _folded(names.parse_name(base))
            return _folded(names.parse_name(value))[: len(wanted)] == wanted


def _folded(name: Name) -> tuple[tuple[str, str], ...]:
    """Compared without regard to case and inner spaces (RFC 5280 section 7.1)."""
    return tuple((oid, " ".join(value.casefold().split())) for oid, value in name.attributes)


def _subtrees(number: int, constraints: Iterable[str]) -> bytes:
    # minimum is 0 by default and maximum is absent: RFC 5280 knows no others.
    return der.context(number, b"".join(der.sequence(_general_name(each)) for each in constraints))


def _general_name(constraint: str) -> bytes:
    form, value = _split(constraint)
    tag = _TAGS.get(form)
    try:
        if tag is None:
            raise ConstraintError("it begins with none of dns:, ip:, email:, uri: and dirname:")
        if tag == _DIRECTORY:
            return der.context(4, names.encode(names.parse_name(value)))
        if tag == _IP:
            network = ipaddress.ip_network(value)
            return der.tlv(tag, network.network_address.packed + network.netmask.packed)
        mailbox, at, host = value.rpartition("@") if tag == _EMAIL else ("", "", value)
        if value or tag != _DNS:
            # In a DNS constraint no dot leads; in the others it says "hosts under this domain".
            parse_dns(host if tag == _DNS or at else host.removeprefix("."), wildcard=False)
        return der.tlv(tag, f"{mailbox}{at}{host.lower()}".encode("ascii"))
    except (ValueError, IdentifierError) as error:
        raise ConstraintError(f"{constraint!r} is no name constraint: {error}") from None


def _read_subtrees(reader: der.Reader) -> tuple[str, ...]:
    found = []
    while reader.more():
        subtree = reader.enter()
        tag, content = subtree.any()
        if subtree.more():
            raise ConstraintError("a subtree with a minimum or a maximum")
        text = _read(tag, content)
        if text is not None:
            found.append(text)
    return tuple(found)


def _read(tag: int, content: bytes) -> str | None:
    if tag == _DIRECTORY:
        return f"dirname:{names.format_name(names.decode(content))}"
    if tag == _IP:
        half = len(content) // 2
        if len(content) not in (8, 32):
            raise ConstraintError("an address range that is neither IPv4's nor IPv6's")
        mask = int.from_bytes(content[half:], "big")
        bits = 8 * half
        prefix = mask.bit_count()
        if mask != ((1 << bits) - 1) ^ ((1 << (bits - prefix)) - 1):
            raise ConstraintError("an address range whose mask has holes")
        return f"ip:{ipaddress.ip_network((content[:half], prefix), strict=False)}"
    for form, known in _TAGS.items():
        if known == tag:
            text = content.decode("ascii")
            if form == "email" and "@" in text:
                mailbox, _, host = text.rpartition("@")
                return f"email:{mailbox}@{host.lower()}"
            # A leading dot in a DNS constraint is common and means the same, less the domain itself.
            return f"{form}:{text.lower().removeprefix('.') if form == 'dns' else text.lower()}"
    return None


assert {type.value for type in IdentifierType} <= _TAGS.keys()
