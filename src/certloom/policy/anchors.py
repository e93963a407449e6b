"""Trust anchors: named sets of strangers' CA certificates, whose clients a channel may let in.

Who is listed is trusted, whether self-signed or not: a manufacturer's intermediate CA may stand here instead
of its root, or beside it.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from typing import Annotated

import msgspec

from certloom.pki.certificates import CertificateError, parse_certificate

MOST = 100
"""Certificates in one set."""

_ARMOUR = re.compile(r"\s*-----BEGIN CERTIFICATE-----\s*([A-Za-z0-9+/=\s]+?)\s*-----END CERTIFICATE-----\s*")


class AnchorError(ValueError):
    """This set cannot be. ``path`` says where (``$.certificates[0]``)."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class TrustAnchors(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A named set."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9-]{0,62}$")]
    description: Annotated[str, msgspec.Meta(max_length=500)] = ""
    certificates: Annotated[
        tuple[Annotated[str, msgspec.Meta(max_length=65536)], ...],
        msgspec.Meta(min_length=1, max_length=MOST),
    ]
    """PEM, one certificate each."""


def certificates_of(anchors: TrustAnchors) -> tuple[bytes, ...]:
    """DER of each. Raises ``AnchorError`` for what is no CA's certificate, or is there twice."""
    found: list[bytes] = []
    for i, text in enumerate(anchors.certificates):
        path = f"$.certificates[{i}]"
        match = _ARMOUR.fullmatch(text)
        if match is None:
            raise AnchorError(path, "not one certificate in PEM")
        try:
            der = b64decode("".join(match[1].split()), validate=True)
            facts = parse_certificate(der)
        except (binascii.Error, CertificateError) as error:
            raise AnchorError(path, f"not a certificate: {error}") from None
        if not facts.is_ca:
            raise AnchorError(path, "not a CA's certificate (basicConstraints)")
        if facts.key is None:
            raise AnchorError(path, "its key is of a kind that is not supported")
        if der in found:
            raise AnchorError(path, "this certificate is here twice")
        found.append(der)
    return tuple(found)
