"""Sealing under a passphrase: argon2id (RFC 9106) makes a key of it, AES-256-GCM seals with that.

The cost is far above that of a login: it is paid once at a start, and is what stands between a copied file
and its key. Parameters are kept with what they sealed, authenticated, and bounded when read.
"""

from __future__ import annotations

import secrets
import unicodedata

import msgspec
from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from certloom.secrets.errors import SecretError, WrongPassphrase

LEAST_CHARACTERS = 12
"""Of a passphrase that is to be."""
MOST_CHARACTERS = 1024
_MEMORY_KIB = 262_144
_PASSES = 3
_LANES = 4
# What is believed of a file: else one could have a start take all memory there is, or cost next to nothing.
_MOST_MEMORY_KIB = 4_194_304
_MOST_PASSES = 64
_MOST_LANES = 64
_SALT = 16
_NONCE = 12


class SealedUnderPassphrase(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is needed to open it again, but for the passphrase."""

    salt: bytes
    memory_kib: int
    passes: int
    lanes: int
    nonce: bytes
    ciphertext: bytes
    """With its tag."""


def check_new(passphrase: str) -> None:
    """Raises ``SecretError`` unless this may become a passphrase."""
    if len(passphrase) < LEAST_CHARACTERS:
        raise SecretError(f"a passphrase has at least {LEAST_CHARACTERS} characters")
    if len(passphrase) > MOST_CHARACTERS:
        raise SecretError(f"a passphrase has at most {MOST_CHARACTERS} characters")


def seal(passphrase: str, purpose: str, data: bytes) -> SealedUnderPassphrase:
    """Seal ``data`` for one purpose. Takes some tenths of a second. Raises ``SecretError``."""
    sealed = SealedUnderPassphrase(
        secrets.token_bytes(_SALT), _MEMORY_KIB, _PASSES, _LANES, secrets.token_bytes(_NONCE), b""
    )
    ciphertext = _aead(passphrase, sealed).encrypt(sealed.nonce, data, _header(purpose, sealed))
    return msgspec.structs.replace(sealed, ciphertext=ciphertext)


def unseal(passphrase: str, purpose: str, sealed: SealedUnderPassphrase) -> bytes:
    """What was sealed for the same purpose. Raises ``WrongPassphrase``, or ``SecretError`` for parameters
    that nothing here was sealed with."""
    if not (
        0 < sealed.memory_kib <= _MOST_MEMORY_KIB
        and 0 < sealed.passes <= _MOST_PASSES
        and 0 < sealed.lanes <= _MOST_LANES
        and len(sealed.salt) == _SALT
        and len(sealed.nonce) == _NONCE
    ):
        raise SecretError("what is sealed under the passphrase has parameters out of bounds")
    try:
        return _aead(passphrase, sealed).decrypt(sealed.nonce, sealed.ciphertext, _header(purpose, sealed))
    except InvalidTag:
        raise WrongPassphrase("wrong passphrase") from None


def _aead(passphrase: str, sealed: SealedUnderPassphrase) -> AESGCM:
    # One spelling for what different keyboards send for the same characters (RFC 8265 section 4.2.2).
    try:
        octets = unicodedata.normalize("NFC", passphrase).encode()
        key = hash_secret_raw(
            octets, sealed.salt, sealed.passes, sealed.memory_kib, sealed.lanes, 32, Type.ID
        )
    except UnicodeEncodeError:
        raise SecretError("the passphrase is not Unicode text") from None
    except HashingError as error:  # above all: not enough memory
        raise SecretError(f"no key could be made of the passphrase: {error}") from None
    return AESGCM(key)


def _header(purpose: str, sealed: SealedUnderPassphrase) -> bytes:
    parameters = f"argon2id {sealed.memory_kib} {sealed.passes} {sealed.lanes} {sealed.salt.hex()}"
    return f"certloom passphrase {purpose} {parameters}".encode()
