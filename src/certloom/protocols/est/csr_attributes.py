"""CSR attributes: what a client is told to put into its request (RFC 7030 section 4.5.2, RFC 9908).

Said twice in one answer: as a list of attributes for clients of before, and as a template, which clients that
know it read alone (RFC 9908 section 4). Only what the profile really wants stands in it.
"""

from __future__ import annotations

from functools import lru_cache

from certloom.pki import der, extensions
from certloom.pki.keys import PublicKeyFacts
from certloom.policy.decide import key_usage_for
from certloom.policy.profile_parts import ECKeys, KeyRule, RSAKeys, key_algorithm
from certloom.policy.profiles import Profile
from certloom.policy.subjects import OIDS, SubjectAttribute
from certloom.policy.usages import purpose_oid

_CHALLENGE_PASSWORD = der.oid("1.2.840.113549.1.9.7")
_EXTENSION_REQUEST = der.oid("1.2.840.113549.1.9.14")
_TEMPLATE = der.oid("1.2.840.113549.1.9.16.2.61")
_EXTENSION_TEMPLATE = der.oid("1.2.840.113549.1.9.16.2.62")
_RSA = der.oid("1.2.840.113549.1.1.1")
_EC = der.oid("1.2.840.10045.2.1")
_CURVES = {
    "P-256": (der.oid("1.2.840.10045.3.1.7"), der.oid("1.2.840.10045.4.3.2")),
    "P-384": (der.oid("1.3.132.0.34"), der.oid("1.2.840.10045.4.3.3")),
    "P-521": (der.oid("1.3.132.0.35"), der.oid("1.2.840.10045.4.3.4")),
}
"""The curve, and ECDSA with the hash that goes with it."""
_ALONE = {
    "ed25519": der.oid("1.3.101.112"),
    "ed448": der.oid("1.3.101.113"),
    "ml-dsa-44": der.oid("2.16.840.1.101.3.4.3.17"),
    "ml-dsa-65": der.oid("2.16.840.1.101.3.4.3.18"),
    "ml-dsa-87": der.oid("2.16.840.1.101.3.4.3.19"),
}
_SHA256_WITH_RSA = der.oid("1.2.840.113549.1.1.11")
_STRINGS = {"C": der.PRINTABLE_STRING, "serialNumber": der.PRINTABLE_STRING, "DC": der.IA5_STRING}


@lru_cache(maxsize=256)
def csr_attributes(profile: Profile, *, bound: bool) -> bytes:
    """DER of CsrAttrs for requests by this profile; ``bound``: they must be bound to their TLS session. An
    empty SEQUENCE where nothing is to be said."""
    key = _key(profile)
    asked = _asked_extensions(profile)
    old: list[bytes] = [_CHALLENGE_PASSWORD] if bound else []
    old += [der.oid(OIDS[a.type]) for a in profile.subject if _is_open(a)]
    if key is not None:
        old += _old_key(key)
    complete = [extension for extension, is_complete in asked if is_complete]
    if complete:
        old.append(der.sequence(_EXTENSION_REQUEST, der.set_of(der.sequence(*complete))))
    template = _template(profile, key, asked, bound=bound)
    return der.sequence(*old, *([template] if template else []))


def _key(profile: Profile) -> KeyRule | None:
    """The one kind of key that will do, if there is only one."""
    if len(profile.keys) != 1 or key_algorithm(profile.keys[0]).startswith("ml-kem"):
        return None
    rule = profile.keys[0]
    return rule if not isinstance(rule, ECKeys) or len(rule.curves) == 1 else None


def _old_key(rule: KeyRule) -> list[bytes]:
    """The kind of key with its curve or its size, and the signature's algorithm."""
    if isinstance(rule, ECKeys):
        curve, signature = _CURVES[rule.curves[0]]
        return [der.sequence(_EC, der.set_of(curve)), signature]
    if isinstance(rule, RSAKeys):
        return [der.sequence(_RSA, der.set_of(der.integer(rule.min))), _SHA256_WITH_RSA]
    return [_ALONE[key_algorithm(rule)]]


def _is_open(attribute: SubjectAttribute) -> bool:
    """Whether the client is to fill in this attribute of its subject."""
    return "{csr." in attribute.value


def _asked_extensions(profile: Profile) -> list[tuple[bytes, bool]]:
    """DER of each (an Extension, or an ExtensionTemplate without its value), and whether it is complete."""
    found: list[tuple[bytes, bool]] = []
    names = profile.names
    if names.asked and names.required and not names.from_certificate:
        found.append((der.sequence(der.oid(extensions.SUBJECT_ALT_NAME)), False))
    usage = {
        key_usage_for(profile, PublicKeyFacts(b"", b"", key_algorithm(rule), 0)) for rule in profile.keys
    }
    if len(usage) == 1 and (bits := usage.pop()):
        found.append((extensions.encode(extensions.KEY_USAGE, True, extensions.encode_key_usage(bits)), True))
    if profile.extended_key_usage:
        value = extensions.encode_extended_key_usage(map(purpose_oid, profile.extended_key_usage))
        found.append((extensions.encode(extensions.EXTENDED_KEY_USAGE, False, value), True))
    return found


def _template(
    profile: Profile, key: KeyRule | None, asked: list[tuple[bytes, bool]], *, bound: bool
) -> bytes | None:
    """The id-aa-certificationRequestInfoTemplate attribute (RFC 9908 section 3.4)."""
    rdns = [rdn for attribute in profile.subject if (rdn := _rdn(attribute))]
    attributes = []
    if bound:
        # There must be a value, and it is not known here.
        attributes.append(der.sequence(_CHALLENGE_PASSWORD, der.set_of(der.tlv(der.UTF8_STRING, b""))))
    if asked:
        # Both at once must not be: the template is for where a value is left to the client.
        partial = not all(is_complete for _, is_complete in asked)
        kind = _EXTENSION_TEMPLATE if partial else _EXTENSION_REQUEST
        attributes.append(der.sequence(kind, der.set_of(der.sequence(*[value for value, _ in asked]))))
    if not (rdns or key or attributes):
        return None
    template = der.sequence(
        der.integer(0),
        der.sequence(*rdns) if rdns else b"",
        der.context(0, _key_template(key)) if key is not None else b"",
        der.context(1, b"".join(sorted(attributes))),
    )
    return der.sequence(_TEMPLATE, der.set_of(template))


def _rdn(attribute: SubjectAttribute) -> bytes | None:
    """One RDN, without its value where that is the client's to give; None where it is made here."""
    type = der.oid(OIDS[attribute.type])
    if _is_open(attribute):
        return der.set_of(der.sequence(type))
    if "{" in attribute.value:
        return None
    string = der.tlv(_STRINGS.get(attribute.type, der.UTF8_STRING), attribute.value.encode())
    return der.set_of(der.sequence(type, string))


def _key_template(rule: KeyRule) -> bytes:
    """Contents of a SubjectPublicKeyInfoTemplate; an RSA key's size is told by a number of that size."""
    if isinstance(rule, ECKeys):
        return der.sequence(_EC, _CURVES[rule.curves[0]][0])
    if isinstance(rule, RSAKeys):
        number = der.integer((1 << rule.min) - 1)
        dummy = der.bit_string(der.sequence(number, der.integer(65537)))
        return der.sequence(_RSA, der.NULL) + dummy
    return der.sequence(_ALONE[key_algorithm(rule)])
