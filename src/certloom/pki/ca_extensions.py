"""The extensions that CA certificates may have beside those that every one has."""

from __future__ import annotations

from collections.abc import Sequence

from certloom.pki import der, extensions
from certloom.pki.extensions import Extension
from certloom.pki.name_constraints import NameConstraints
from certloom.pki.name_constraints import extension as name_constraints_extension

CERTIFICATE_POLICIES = "2.5.29.32"
ANY_POLICY = "2.5.29.32.0"
_CPS_QUALIFIER = "1.3.6.1.5.5.7.2.1"


def certificate_policies(policies: Sequence[str], cps: str = "") -> Extension:
    """The certificatePolicies extension (RFC 5280 section 4.2.1.4) with these dotted OIDs, the first of them
    with a pointer to the certification practice statement. Raises ``ValueError``."""
    if len(set(policies)) != len(policies):
        raise ValueError("the same certificate policy twice")
    written = []
    for i, policy in enumerate(policies):
        qualifiers = b""
        if cps and i == 0:
            pointer = der.tlv(0x16, cps.encode("ascii"))
            qualifiers = der.sequence(der.sequence(der.oid(_CPS_QUALIFIER), pointer))
        written.append(der.sequence(der.oid(policy), qualifiers))
    return Extension(CERTIFICATE_POLICIES, False, der.sequence(*written))


def ca_extensions(
    constraints: NameConstraints,
    policies: Sequence[str],
    cps: str,
    extended_key_usage: Sequence[str],
) -> tuple[Extension, ...]:
    """Those that are asked for, in this order. ``extended_key_usage`` are dotted OIDs: what the CA's
    certificates may at most be for. Raises ``ValueError``."""
    found = []
    if extended_key_usage:
        value = extensions.encode_extended_key_usage(extended_key_usage)
        found.append(Extension(extensions.EXTENDED_KEY_USAGE, False, value))
    if constraints:
        found.append(name_constraints_extension(constraints))
    if policies or cps:
        found.append(certificate_policies(policies or (ANY_POLICY,), cps))
    return tuple(found)


def read_policies(value: bytes) -> tuple[tuple[str, ...], str]:
    """The dotted OIDs in a certificatePolicies extension, and the first pointer to a certification practice
    statement. Raises ``der.DERError``."""
    policies: list[str] = []
    cps = ""
    reader = der.whole(value)
    while reader.more():
        information = reader.enter()
        policies.append(information.oid())
        qualifiers = information.enter() if information.more() else None
        while qualifiers is not None and qualifiers.more():
            qualifier = qualifiers.enter()
            if qualifier.oid() == _CPS_QUALIFIER and not cps:
                cps = qualifier.content(0x16).decode("ascii", "replace")
    return tuple(policies), cps
