"""Subject templates: how a profile says what the distinguished name of its certificates is.

A template is an ordered list of attributes, each fixed text with placeholders in braces:

``{first_dns}``
    the first DNS name of the certificate that fits an attribute of this type
``{first_name}``
    the first DNS name, mailbox or URI that fits
``{csr.CN}``, ``{csr.O}``, ...
    the attribute of that type in the CSR's subject
``{cert.CN}``, ``{cert.serialNumber}``, ...
    the attribute of that type in the subject of the certificate that the requester enrols with

The last stand in templates of names, too (``NameTemplate``), and there also ``{cert.dns}``: the first DNS
name of that certificate.

An attribute whose placeholder finds nothing is left out, or refused if it is ``required``. What comes from a
CSR is nobody's proven word, so it is checked: by the attribute's ``allow`` globs, by the type's own
rules, and, where the certificate can authenticate a TLS server, a CN must be one of its names (some clients
still look there; CA/Browser Forum BR section 7.1.4.3). An IP address never stands in the CN.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated, Literal

import msgspec

from certloom.pki.identifiers import Identifier, IdentifierError, IdentifierType, parse
from certloom.pki.names import Name
from certloom.policy.decisions import ShownCertificate

AttributeType = Literal[
    "CN", "C", "ST", "L", "STREET", "O", "OU", "serialNumber", "GN", "SN", "title", "UID", "DC"
]

OIDS: dict[str, str] = {
    "CN": "2.5.4.3",
    "SN": "2.5.4.4",
    "serialNumber": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "STREET": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "title": "2.5.4.12",
    "GN": "2.5.4.42",
    "UID": "0.9.2342.19200300.100.1.1",
    "DC": "0.9.2342.19200300.100.1.25",
}

# Upper bounds in characters: RFC 5280 appendix A.1 and, where it has none worth the name, X.520 annex C.
_LONGEST = {"ST": 128, "L": 128, "STREET": 128, "UID": 256, "DC": 63, "C": 2}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FORMS = {
    "C": (re.compile(r"[A-Z]{2}"), "two capital letters (ISO 3166)"),
    "serialNumber": (re.compile(r"[A-Za-z0-9 '()+,./:=?-]+"), "characters of PrintableString"),
    "DC": (re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"), "one label of a domain name"),
}
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_MOST_STARS = 4


class SubjectAttribute(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One attribute of a subject template."""

    type: AttributeType
    value: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    """Text with placeholders."""
    allow: tuple[str, ...] = ()
    """Globs (``*`` any text, ``?`` any character) of which the result must match one; none means any text."""
    required: bool = False
    """Refuse a request that does not fill this attribute."""


class TemplateError(ValueError):
    """This template cannot work. ``field`` is the attribute's field at fault."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


Source = Callable[[tuple[Identifier, ...], Name, ShownCertificate | None], str | None]
Complain = Callable[[str], None]


class _Attribute:
    __slots__ = ("allow", "from_csr", "literals", "longest", "oid", "required", "sources", "type")

    def __init__(self, attribute: SubjectAttribute) -> None:
        self.type = attribute.type
        self.oid = OIDS[attribute.type]
        self.longest = _LONGEST.get(attribute.type, 64)
        self.required = attribute.required
        self.allow = tuple(_glob(glob) for glob in attribute.allow)
        pieces = _PLACEHOLDER.split(attribute.value)
        self.literals = pieces[0::2]
        if any("{" in literal or "}" in literal for literal in self.literals):
            raise TemplateError("value", f"{attribute.value!r} has a brace without its partner")
        names = pieces[1::2]
        self.from_csr = any(name.startswith(("csr.", "cert.")) for name in names)
        self.sources: tuple[Source, ...] = tuple(_source(name, self.longest) for name in names)
        if not self.sources:
            text = attribute.value
            if complaint := self.unfit(text):
                raise TemplateError("value", f"{text!r} {complaint}")
            if attribute.type == "CN" and _is_address(text):
                raise TemplateError(
                    "value", "an IP address does not go into a CN: clients take it for a DNS name"
                )
        if self.allow and not self.sources:
            raise TemplateError("allow", "fixed text needs no patterns")

    def text(
        self, identifiers: tuple[Identifier, ...], csr_subject: Name, shown: ShownCertificate | None
    ) -> str | None:
        """The attribute's text, or None when a placeholder finds nothing."""
        text = self.literals[0]
        for source, literal in zip(self.sources, self.literals[1:], strict=True):
            found = source(identifiers, csr_subject, shown)
            if not found:
                return None
            text += found + literal
        return text

    def unfit(self, text: str) -> str | None:
        """Why this text cannot stand in this attribute."""
        if len(text) > self.longest:
            return f"has more than {self.longest} characters"
        if _CONTROL.search(text) or text != text.strip():
            return "has control characters, or blanks at its ends"
        form = _FORMS.get(self.type)
        if form is not None and not form[0].fullmatch(text):
            return f"is not made of {form[1]}" if self.type == "serialNumber" else f"is not {form[1]}"
        if self.allow and not any(glob.fullmatch(text) for glob in self.allow):
            return "matches none of the profile's patterns"
        return None


class Template:
    """A compiled subject template."""

    __slots__ = ("_attributes", "_common_name_is_name", "_fixed")

    def __init__(self, attributes: tuple[SubjectAttribute, ...], *, common_name_is_name: bool) -> None:
        """``common_name_is_name``: a CN from a CSR must be one of the certificate's names.

        Raises ``TemplateError`` with ``$[i].field`` before its ``field``.
        """
        compiled = []
        for i, attribute in enumerate(attributes):
            try:
                compiled.append(_Attribute(attribute))
            except TemplateError as error:
                raise TemplateError(f"[{i}].{error.field}", str(error)) from None
        self._attributes = tuple(compiled)
        self._common_name_is_name = common_name_is_name
        self._fixed: Name | None = None
        if not any(attribute.sources for attribute in compiled):
            self._fixed = Name(tuple((a.oid, a.literals[0]) for a in compiled))

    def render(
        self,
        identifiers: tuple[Identifier, ...],
        csr_subject: Name,
        complain: Complain,
        shown: ShownCertificate | None = None,
    ) -> Name:
        """The subject for these names, this CSR and the certificate that was shown with it. ``complain`` is
        called with each reason to refuse."""
        if self._fixed is not None:
            return self._fixed
        rendered: list[tuple[str, str]] = []
        for attribute in self._attributes:
            if not attribute.sources:
                rendered.append((attribute.oid, attribute.literals[0]))
                continue
            text = attribute.text(identifiers, csr_subject, shown)
            if text is not None and attribute.type == "CN" and (len(text) > 64 or _is_address(text)):
                text = None
            if text is None:
                if attribute.required:
                    complain(
                        f"the subject needs a {attribute.type}, and the request does not give one that fits"
                    )
                continue
            if attribute.from_csr or attribute.allow or attribute.type in _FORMS:
                complaint = attribute.unfit(text)
                if complaint is None and attribute.from_csr and attribute.type == "CN":
                    complaint = self._not_a_name(text, identifiers)
                if complaint is not None:
                    complain(f"the subject's {attribute.type} {text[:80]!r} {complaint}")
                    continue
            elif len(text) > attribute.longest:
                continue
            rendered.append((attribute.oid, text))
        return Name(tuple(rendered))

    def _not_a_name(self, text: str, identifiers: tuple[Identifier, ...]) -> str | None:
        if not self._common_name_is_name or any(text.lower() == i.value.lower() for i in identifiers):
            return None
        return "is not one of the certificate's names"


class NameTemplate:
    """A compiled template of a name that is made of what stands in the requester's certificate."""

    __slots__ = ("_literals", "_made", "_sources", "type")

    def __init__(self, text: str) -> None:
        """Raises ``TemplateError``."""
        type, _, value = text.partition(":")
        try:
            self.type = IdentifierType(type)
        except ValueError:
            raise TemplateError("", f"{text!r} does not begin with dns:, ip:, uri: or email:") from None
        pieces = _PLACEHOLDER.split(value)
        self._literals = pieces[0::2]
        if any("{" in literal or "}" in literal for literal in self._literals):
            raise TemplateError("", f"{text!r} has a brace without its partner")
        if len(pieces) == 1:
            raise TemplateError("", f"{text!r} has nothing of a certificate in it")
        self._sources = tuple(_certificate_source(name) for name in pieces[1::2])
        # Written as names are: canonical forms are in lower case where case does not count.
        self._made = re.compile(".+".join(map(re.escape, self._literals)), re.DOTALL | re.IGNORECASE)

    def may_have_made(self, name: Identifier) -> bool:
        """Whether some certificate would give this name."""
        return name.type is self.type and self._made.fullmatch(name.value) is not None

    def name(self, shown: ShownCertificate) -> Identifier | None:
        """The name for who shows this certificate; None where a placeholder finds nothing.

        Raises ``IdentifierError`` where what is found makes no name.
        """
        text = self._literals[0]
        for source, literal in zip(self._sources, self._literals[1:], strict=True):
            found = source((), Name(), shown)
            if not found:
                return None
            if self.type is IdentifierType.DNS and not _LABELS.fullmatch(found.lower()):
                # What stands in the middle of a name must not bring dots of its own choice, or a wildcard.
                raise IdentifierError("malformed-identifier", f"{found[:80]!r} cannot stand in a DNS name")
            text += (found.lower() if self.type is IdentifierType.DNS else found) + literal
        return parse(self.type.value, text)


_LABELS = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")


def _certificate_source(name: str) -> Source:
    if name == "cert.dns":
        return lambda _, __, shown: next(
            (i.value for i in (shown.identifiers if shown else ()) if i.type is IdentifierType.DNS), None
        )
    kind, _, type = name.partition(".")
    if kind == "cert" and type in OIDS:
        oid = OIDS[type]
        return lambda _, __, shown: next(
            (text for o, text in (shown.subject.attributes if shown else ()) if o == oid), None
        )
    raise TemplateError(
        "value",
        f"{{{name}}} is not a placeholder here; there are {{cert.dns}} and {{cert.X}} for X of {_TYPES}",
    )


_TYPES = ", ".join(OIDS)


def _source(name: str, longest: int) -> Source:
    if name == "first_dns":
        return lambda identifiers, _, __: next(
            (i.value for i in identifiers if i.type is IdentifierType.DNS and len(i.value) <= longest), None
        )
    if name == "first_name":
        return lambda identifiers, _, __: next(
            (i.value for i in identifiers if i.type is not IdentifierType.IP and len(i.value) <= longest),
            None,
        )
    kind, _, type = name.partition(".")
    if kind == "csr" and type in OIDS:
        oid = OIDS[type]
        return lambda _, subject, __: next((text for o, text in subject.attributes if o == oid), None)
    if kind == "cert" and type in OIDS:
        return _certificate_source(name)
    raise TemplateError(
        "value",
        f"{{{name}}} is not a placeholder; there are {{first_dns}}, {{first_name}}, {{csr.X}} and {{cert.X}} "
        f"for X of {_TYPES}",
    )


def _glob(glob: str) -> re.Pattern[str]:
    if glob.count("*") > _MOST_STARS or len(glob) > 256:
        raise TemplateError("allow", f"{glob[:80]!r} has more than {_MOST_STARS} stars or 256 characters")
    return re.compile("".join({"*": ".*", "?": "."}.get(c, re.escape(c)) for c in glob), re.DOTALL)


def _is_address(text: str) -> bool:
    if text[-1:].isdigit() or ":" in text:
        try:
            ipaddress.ip_address(text.strip("[] "))
        except ValueError:
            return False
        return True
    return False
