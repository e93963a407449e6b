"""How the key of an encrypted content is itself encrypted: the algorithms of ``pki.recipients``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap

from certloom.pki import der
from certloom.pki.cms_syntax import CMSError
from certloom.pki.der import Reader

MAX_ITERATIONS = 1_000_000
"""Of PBKDF2, that a message may ask for: about half a second."""


RSA_ENCRYPTION = "1.2.840.113549.1.1.1"
RSAES_OAEP = "1.2.840.113549.1.1.7"
MGF1 = "1.2.840.113549.1.1.8"
SHA1 = "1.3.14.3.2.26"
SHA256 = "2.16.840.1.101.3.4.2.1"
EC_PUBLIC_KEY = "1.2.840.10045.2.1"
PBKDF2 = "1.2.840.113549.1.5.12"
HMAC_SHA1 = "1.2.840.113549.2.7"
HMAC_SHA256 = "1.2.840.113549.2.9"
PWRI_KEK = "1.2.840.113549.1.9.16.3.9"
AES_WRAPS = {16: "2.16.840.1.101.3.4.1.5", 24: "2.16.840.1.101.3.4.1.25", 32: "2.16.840.1.101.3.4.1.45"}
WRAP_SIZES = {oid: size for size, oid in AES_WRAPS.items()}
AES_CBC = {"2.16.840.1.101.3.4.1.2": 16, "2.16.840.1.101.3.4.1.22": 24, "2.16.840.1.101.3.4.1.42": 32}
AES_256_CBC = "2.16.840.1.101.3.4.1.42"
ECDH_SHA256 = "1.3.132.1.11.1"
# dhSinglePass with and without cofactor, which is 1 on these curves (RFC 5753 section 7.1.4).
ECDH: dict[str, hashes.HashAlgorithm] = {
    "1.3.133.16.840.63.0.2": hashes.SHA1(),  # noqa: S303 - to derive a key, where collisions do not matter
    "1.3.133.16.840.63.0.3": hashes.SHA1(),  # noqa: S303
    **{f"1.3.132.1.{arc}.0": hashes.SHA224() for arc in (11, 14)},
    **{f"1.3.132.1.{arc}.1": hashes.SHA256() for arc in (11, 14)},
    **{f"1.3.132.1.{arc}.2": hashes.SHA384() for arc in (11, 14)},
    **{f"1.3.132.1.{arc}.3": hashes.SHA512() for arc in (11, 14)},
}
PRFS = {HMAC_SHA1: "sha1", HMAC_SHA256: "sha256"} | {
    "1.2.840.113549.2.8": "sha224",
    "1.2.840.113549.2.10": "sha384",
    "1.2.840.113549.2.11": "sha512",
}


def decryption_failed() -> CMSError:
    """The one answer to whatever goes wrong once there is a key: anything finer would be an oracle."""
    return CMSError("decryption-failed", "it cannot be decrypted")


def unsupported(what: str) -> CMSError:
    return CMSError("unsupported-key-encryption", what)


def algorithm_identifier(oid: str, *parameters: bytes) -> bytes:
    return der.sequence(der.oid(oid), *parameters)


def agreed_key(secret: bytes, scheme: str, wrap: bytes, ukm: bytes | None, size: int) -> bytes:
    """The key-encryption key of RFC 5753 section 7.2, of ``size`` octets."""
    info = der.sequence(
        wrap,
        b"" if ukm is None else der.context(0, der.octet_string(ukm)),
        der.context(2, der.octet_string((8 * size).to_bytes(4, "big"))),
    )
    return X963KDF(ECDH[scheme], size, info).derive(secret)


PADDINGS: dict[str, padding.AsymmetricPadding] = {
    "pkcs1": padding.PKCS1v15(),
    "oaep-sha1": padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), None),  # noqa: S303
    "oaep-sha256": padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None),
}


def unwrap_aes(kek: bytes, wrapped: bytes) -> bytes:
    try:
        return aes_key_unwrap(kek, wrapped)
    except (InvalidUnwrap, ValueError):
        raise decryption_failed() from None


def derivation(contents: bytes, size: int) -> Callable[[bytes], bytes]:
    """PBKDF2 with these parameters (RFC 8018 appendix A.2), to a key of ``size`` octets."""
    algorithm = Reader(contents)
    if algorithm.oid() != PBKDF2:
        raise unsupported("a key derivation other than PBKDF2")
    parameters = algorithm.enter()
    salt, iterations = parameters.content(der.OCTET_STRING), parameters.integer()
    if parameters.peek() == der.INTEGER and parameters.integer() != size:
        raise unsupported("a derived key of another length than its use has")
    prf = PRFS.get(parameters.enter().oid() if parameters.more() else HMAC_SHA1)
    if prf is None or not 1 <= iterations <= MAX_ITERATIONS:
        raise unsupported(f"PBKDF2 with an unknown function, or more than {MAX_ITERATIONS} iterations")
    return lambda password: hashlib.pbkdf2_hmac(prf, password, salt, iterations, size)


def wrap_pwri(kek: bytes, iv: bytes, key: bytes) -> bytes:
    """RFC 3211 section 2.3.1: length, check value, key and padding, encrypted twice in one chain."""
    block = bytes((len(key), *(octet ^ 0xFF for octet in key[:3]))) + key
    block += os.urandom(max(32, -(-len(block) // 16) * 16) - len(block))
    encryptor = Cipher(AES(kek), CBC(iv)).encryptor()
    return encryptor.update(encryptor.update(block))


def unwrap_pwri(kek: bytes, iv: bytes, wrapped: bytes) -> bytes:
    """RFC 3211 section 2.3.2."""
    if len(wrapped) < 32 or len(wrapped) % 16:
        raise decryption_failed()
    # The second encryption began where the first left off: with its last block, which comes out first.
    last = Cipher(AES(kek), CBC(wrapped[-32:-16])).decryptor().update(wrapped[-16:])
    once = Cipher(AES(kek), CBC(last)).decryptor().update(wrapped)
    block = Cipher(AES(kek), CBC(iv)).decryptor().update(once)
    size = block[0]
    if bytes(octet ^ 0xFF for octet in block[1:4]) != block[4:7] or not 3 <= size <= len(block) - 4:
        raise decryption_failed()
    return block[4 : 4 + size]
