"""How names are kept so that one name and all names under a domain are both one range of an index.

The key of a DNS name is its labels turned round, each with a dot behind it: ``com.example.www.``. What is
under ``example.com`` (itself, ``*.example.com`` and everything deeper) is then what begins with
``com.example.``. The key of another name is its type and value, ``email:root@example.com``, which no domain
begins like.
"""

from __future__ import annotations

from certloom.pki.identifiers import Identifier, IdentifierType


def key_of(name: Identifier) -> str:
    """What ``certificate_names`` keeps of a name."""
    if name.type is IdentifierType.DNS:
        return domain_key(name.value)
    return str(name)


def domain_key(domain: str) -> str:
    """The key of a DNS name in canonical form; everything under it begins with this."""
    labels = domain.split(".")
    labels.reverse()
    return ".".join(labels) + "."


def under(domain: str) -> tuple[str, str]:
    """From which key on, and before which, all names of a domain stand."""
    first = domain_key(domain)
    return first, first[:-1] + "/"  # the character after the dot
