"""Key usages and extended key usages: which exist, which key may have which, and which fit together."""

from __future__ import annotations

import re
from collections.abc import Iterable

from certloom.pki.extensions import KEY_USAGE_BITS

SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
ANY_EXTENDED_KEY_USAGE = "2.5.29.37.0"

EXTENDED_KEY_USAGES = {
    "serverAuth": SERVER_AUTH,
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "OCSPSigning": "1.3.6.1.5.5.7.3.9",
    "ipsecIKE": "1.3.6.1.5.5.7.3.17",
    "cmcRA": "1.3.6.1.5.5.7.3.28",
    "cmKGA": "1.3.6.1.5.5.7.3.32",
    "documentSigning": "1.3.6.1.5.5.7.3.36",
    "pkinitClientAuth": "1.3.6.1.5.2.3.4",
    "pkinitKDC": "1.3.6.1.5.2.3.5",
    "smartcardLogon": "1.3.6.1.4.1.311.20.2.2",
    "anyExtendedKeyUsage": ANY_EXTENDED_KEY_USAGE,
}
"""Names that a profile may use for purposes; any other purpose goes by its OID."""

_TIME_STAMPING = "1.3.6.1.5.5.7.3.8"
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9][0-9]*)){1,30}")

_SIGNATURES = frozenset(("digitalSignature", "nonRepudiation"))
_ENCIPHERMENT = frozenset(("keyEncipherment",))
# What an end entity's key of each algorithm may be used for, and who says so. The two CA usages are
# nobody's here: keyCertSign needs a CA certificate (RFC 5280 section 4.2.1.9).
_BY_ALGORITHM: dict[str, tuple[frozenset[str], str]] = {
    "rsa": (_SIGNATURES | {"keyEncipherment", "dataEncipherment"}, "RFC 4055 section 1.2"),
    "ec": (_SIGNATURES | {"keyAgreement", "encipherOnly", "decipherOnly"}, "RFC 8813 section 3"),
    "ed25519": (_SIGNATURES, "RFC 9295 section 3"),
    "ed448": (_SIGNATURES, "RFC 9295 section 3"),
    "ml-dsa-44": (_SIGNATURES, "RFC 9881 section 5"),
    "ml-dsa-65": (_SIGNATURES, "RFC 9881 section 5"),
    "ml-dsa-87": (_SIGNATURES, "RFC 9881 section 5"),
    "ml-kem-768": (_ENCIPHERMENT, "RFC 9935 section 5"),
    "ml-kem-1024": (_ENCIPHERMENT, "RFC 9935 section 5"),
}

# RFC 5280 section 4.2.1.12: key usages that are consistent with each purpose.
_AGREEMENT = frozenset(("keyAgreement",))
_BY_PURPOSE = {
    EXTENDED_KEY_USAGES["serverAuth"]: _AGREEMENT | {"digitalSignature", "keyEncipherment"},
    EXTENDED_KEY_USAGES["clientAuth"]: _AGREEMENT | {"digitalSignature"},
    EXTENDED_KEY_USAGES["codeSigning"]: frozenset(("digitalSignature",)),
    EXTENDED_KEY_USAGES["emailProtection"]: _SIGNATURES | _AGREEMENT | {"keyEncipherment"},
    EXTENDED_KEY_USAGES["OCSPSigning"]: _SIGNATURES,
}


def purpose_oid(purpose: str) -> str:
    """The OID of an extended key usage given by name or OID. Raises ``ValueError``."""
    oid = EXTENDED_KEY_USAGES.get(purpose, purpose)
    if not _OID.fullmatch(oid) or (oid[0] in "01" and int(oid.split(".")[1]) > 39):
        raise ValueError(f"{purpose!r} is neither an OID nor one of {', '.join(EXTENDED_KEY_USAGES)}")
    if oid == _TIME_STAMPING:
        raise ValueError(
            "timeStamping needs a critical extension (RFC 3161 section 2.3), which profiles cannot ask for"
        )
    return oid


def serves_tls(purposes: Iterable[str]) -> bool:
    """Whether a certificate for these purposes (OIDs) can authenticate a TLS server; without any, it can."""
    purposes = tuple(purposes)
    return not purposes or SERVER_AUTH in purposes or ANY_EXTENDED_KEY_USAGE in purposes


def automatic_key_usage(algorithm: str, purposes: Iterable[str]) -> tuple[str, ...]:
    """What ``auto`` means: to sign, and for an RSA key of a TLS server also RSA key exchange, which TLS 1.2
    and older may use (RFC 5246 section 7.4.2). A key that only encapsulates can do nothing else."""
    if is_kem(algorithm):
        return ("keyEncipherment",)
    if algorithm == "rsa" and SERVER_AUTH in tuple(purposes):
        return ("digitalSignature", "keyEncipherment")
    return ("digitalSignature",)


def is_kem(algorithm: str) -> bool:
    """Whether keys of this algorithm only encapsulate keys, and cannot sign."""
    return algorithm.startswith("ml-kem-")


def in_bit_order(key_usage: Iterable[str]) -> tuple[str, ...]:
    """Sorted as the bits stand in the extension, which is how a certificate is read back."""
    return tuple(sorted(key_usage, key=KEY_USAGE_BITS.index))


def check_key_usage(key_usage: tuple[str, ...], algorithm: str, purposes: Iterable[str]) -> None:
    """Raises ``ValueError`` unless a key of this algorithm may have this key usage, for these purposes."""
    if not key_usage:
        raise ValueError("a key usage must assert at least one bit (RFC 5280 section 4.2.1.3)")
    for name in key_usage:
        if name == "contentCommitment":
            raise ValueError("contentCommitment goes by its older name here, nonRepudiation")
        if name not in KEY_USAGE_BITS:
            raise ValueError(f"{name!r} is not a key usage; there are {', '.join(KEY_USAGE_BITS)}")
        if name in ("keyCertSign", "cRLSign"):
            raise ValueError(f"{name} is for CA certificates, which profiles do not describe")
    if len(set(key_usage)) != len(key_usage):
        raise ValueError("a key usage is named twice")
    allowed, source = _BY_ALGORITHM[algorithm]
    if wrong := [name for name in key_usage if name not in allowed]:
        raise ValueError(f"{', '.join(wrong)} is not for {algorithm} keys ({source})")
    asserted = set(key_usage)
    if asserted & {"encipherOnly", "decipherOnly"}:
        if "keyAgreement" not in asserted:
            raise ValueError(
                "encipherOnly and decipherOnly mean nothing without keyAgreement (RFC 5280 section 4.2.1.3)"
            )
        if asserted >= {"encipherOnly", "decipherOnly"}:
            raise ValueError("encipherOnly and decipherOnly exclude each other")
    for purpose in purposes:
        fitting = _BY_PURPOSE.get(purpose)
        if fitting is not None and not asserted & fitting:
            raise ValueError(
                f"no usage here fits the purpose {purpose} (RFC 5280 section 4.2.1.12): it takes one of "
                + ", ".join(in_bit_order(fitting))
            )
