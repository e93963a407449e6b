"""PKCS#11 URIs (RFC 7512): which key in which token."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

import msgspec

_SCHEME = "pkcs11:"
_TEXT = ("token", "manufacturer", "model", "serial", "object", "type")
_MOST_OCTETS = 2048
_PLAIN = "-._~:[]@!$'()*+,="  # section 2.3: pk11-res-avail, but for what separates attributes
_ATTRIBUTE = re.compile(r"[A-Za-z0-9_-]+")


class BadURI(ValueError):
    """Not a PKCS#11 URI, or one of a kind that is not taken."""


class TokenURI(msgspec.Struct, frozen=True):
    """What of a URI is used. Empty: anything will do."""

    token: str = ""
    manufacturer: str = ""
    model: str = ""
    serial: str = ""
    object: str = ""
    id: bytes = b""
    """CKA_ID."""

    def __str__(self) -> str:
        parts = [
            f"{name}={quote(value, safe=_PLAIN)}"
            for name in ("token", "manufacturer", "model", "serial", "object")
            if (value := getattr(self, name))
        ]
        if self.id:
            parts.append("id=" + "".join(f"%{octet:02X}" for octet in self.id))
        return _SCHEME + ";".join([*parts, "type=private"])


def parse(text: str) -> TokenURI:
    """Raises ``BadURI``, also for a URI that holds a PIN: what is stored and shown must not."""
    if not text.startswith(_SCHEME) or len(text) > _MOST_OCTETS:
        raise BadURI("expected pkcs11:token=...;object=... (RFC 7512)")
    path, _, query = text.removeprefix(_SCHEME).partition("?")
    if query:
        raise BadURI("a PKCS#11 URI without a query: module and PIN are in the signer's settings")
    found: dict[str, str] = {}
    id = b""
    seen: set[str] = set()
    for part in path.split(";") if path else ():
        name, equals, value = part.partition("=")
        if not equals or not _ATTRIBUTE.fullmatch(name):
            raise BadURI(f"not an attribute of a PKCS#11 URI: {part!r}")
        if name in seen:
            raise BadURI(f"{name} twice in a PKCS#11 URI")
        seen.add(name)
        if re.search(r"%(?![0-9A-Fa-f]{2})", value) or not value.isascii():
            raise BadURI(f"{name} is not percent-encoded as RFC 3986 has it")
        raw = unquote_to_bytes(value)
        if name == "id":
            id = raw
        elif name in _TEXT:
            try:
                found[name] = raw.decode("utf-8")
            except UnicodeDecodeError:
                raise BadURI(f"{name} is not UTF-8") from None
        elif not name.startswith("x-"):
            # Section 2.3: what an implementation does not know it must not pass over.
            raise BadURI(f"{name} in a PKCS#11 URI is not known here")
    kind = found.pop("type", "private")
    if kind not in ("private", "public", "cert"):
        raise BadURI(f"a PKCS#11 URI of a key, not of type {kind!r}")
    return TokenURI(**found, id=id)
