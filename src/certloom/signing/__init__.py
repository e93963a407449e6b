"""Where private keys of authorities are: what they may be asked to do, and by whom they are held.

``base`` says what can be asked (``Signing``), whoever does it: ``service`` in this process, or through
``client`` the signer, a process of its own.
"""

from certloom.signing.base import (
    LOST,
    KeyStatus,
    MadeKey,
    Purpose,
    Signing,
    SigningError,
    SigningRefused,
    SigningStatus,
    SigningUnavailable,
)

__all__ = [
    "LOST",
    "KeyStatus",
    "MadeKey",
    "Purpose",
    "Signing",
    "SigningError",
    "SigningRefused",
    "SigningStatus",
    "SigningUnavailable",
]
