"""Facts and profiles for the tests of this room."""

from __future__ import annotations

from typing import Any

from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.pki.keys import PublicKeyFacts
from certloom.pki.names import Name
from certloom.policy.decisions import Facts, Requester
from certloom.policy.profiles import Profile, parse_profile

NOW = 1_800_000_000
DAY = 86400


def key(algorithm: str = "ec", bits: int = 256, curve: str = "P-256") -> PublicKeyFacts:
    return PublicKeyFacts(spki=b"spki", spki_sha256=b"\0" * 32, algorithm=algorithm, bits=bits, curve=curve)


EC = key()
RSA = key("rsa", 2048, "")
ED25519 = key("ed25519", 0, "")
ML_DSA = key("ml-dsa-65", 0, "")


def dns(*names: str) -> tuple[Identifier, ...]:
    return tuple(Identifier(IdentifierType.DNS, name) for name in names)


def ip(value: str) -> Identifier:
    return Identifier(IdentifierType.IP, value)


def uri(value: str) -> Identifier:
    return Identifier(IdentifierType.URI, value)


def email(value: str) -> Identifier:
    return Identifier(IdentifierType.EMAIL, value)


def table(**changes: Any) -> dict[str, Any]:
    """A small profile as a table, with these sections put over it."""
    return {
        "name": "web",
        "authority": "issuing",
        "keys": [{"type": "rsa"}, {"type": "ec"}, {"type": "ed25519"}, {"type": "ml-dsa-65"}],
        "validity": {"default": "90d", "backdate": "1h"},
        "extended_key_usage": ["serverAuth"],
        **changes,
    }


def profile(**changes: Any) -> Profile:
    return parse_profile(table(**changes))


def facts(*identifiers: Identifier, **changes: Any) -> Facts:
    values: dict[str, Any] = {
        "now": NOW,
        "protocol": "acme",
        "channel": "web",
        "requester": Requester("acme-account", "1"),
        "key": EC,
        "key_is_blocked": False,
        "identifiers": identifiers or dns("www.example.com"),
        "csr_subject": Name(),
    }
    return Facts(**(values | changes))
