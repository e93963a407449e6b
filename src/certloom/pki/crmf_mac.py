"""PasswordBasedMac (RFC 4211 section 4.4, RFC 9045): a MAC keyed with a shared secret, in CRMF and in CMP."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import msgspec

from certloom.pki import der
from certloom.pki.der import DERError, Reader

PASSWORD_BASED_MAC = "1.2.840.113533.7.66.13"  # noqa: S105 - an object identifier
SHA1 = "1.3.14.3.2.26"
SHA256 = "2.16.840.1.101.3.4.2.1"
HMAC_SHA1 = "1.2.840.113549.2.7"
HMAC_SHA256 = "1.2.840.113549.2.9"

MIN_ITERATIONS = 100
"""RFC 4211 section 4.4 has no fewer."""
MAX_ITERATIONS = 100_000
"""More is refused: who asks is not known before the work is done. This many take about 50 ms."""
_MAX_SALT = 1024

HASHES: dict[str, Callable[[bytes], Any]] = {
    "2.16.840.1.101.3.4.2.4": hashlib.sha224,
    SHA256: hashlib.sha256,
    "2.16.840.1.101.3.4.2.2": hashlib.sha384,
    "2.16.840.1.101.3.4.2.3": hashlib.sha512,
}
"""Hash functions that make keys of secrets: not SHA-1, though RFC 4211 and RFC 5274 have it mandatory."""
HMACS = {
    "1.2.840.113549.2.8": "sha224",
    HMAC_SHA256: "sha256",
    "1.2.840.113549.2.10": "sha384",
    "1.2.840.113549.2.11": "sha512",
}
HMACS_WITH_SHA1 = {HMAC_SHA1: "sha1", "1.3.6.1.5.5.8.1.2": "sha1"}
"""The two names of one MAC, of RFC 8018 and of RFC 3370. It is not broken, and OpenSSL's CMP client takes it
unless told otherwise."""


class CRMFError(ValueError):
    """This certificate request message is not what was expected, or proves nothing. ``code`` is for machines.

    Reading: ``too-large``, ``malformed``, ``bad-name``, ``too-many-messages``, ``too-many-controls``,
    ``duplicate-control``, ``duplicate-extension``, ``bad-template``. Verifying: see
    ``crmf.verify_possession`` and ``crmf_mac.verify_mac``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class AlgorithmIdentifier(msgspec.Struct, frozen=True):
    """RFC 5280 section 4.1.1.2."""

    oid: str
    parameters: bytes = b""
    """A complete TLV; empty when absent."""

    @staticmethod
    def read(fields: Reader) -> AlgorithmIdentifier:
        """From a reader over its fields. Raises ``DERError``."""
        oid = fields.oid()
        begin = fields.offset
        if fields.more():
            fields.any()
        fields.finish()
        return AlgorithmIdentifier(oid, fields.data[begin : fields.offset])

    def encode(self) -> bytes:
        """DER."""
        return der.sequence(der.oid(self.oid), self.parameters)


class PKMACValue(msgspec.Struct, frozen=True):
    """A MAC, with the algorithm that made it."""

    algorithm: AlgorithmIdentifier
    value: bytes

    @staticmethod
    def read(fields: Reader) -> PKMACValue:
        """From a reader over its fields. Raises ``DERError``."""
        mac = PKMACValue(AlgorithmIdentifier.read(fields.enter()), fields.bit_string())
        fields.finish()
        return mac

    def encode(self) -> bytes:
        """DER."""
        return der.sequence(self.algorithm.encode(), der.bit_string(self.value))


class PBMParameter(msgspec.Struct, frozen=True):
    """How a secret becomes a key, and the key a MAC."""

    salt: bytes
    iterations: int
    one_way_function: AlgorithmIdentifier = AlgorithmIdentifier(SHA256)
    mac: AlgorithmIdentifier = AlgorithmIdentifier(HMAC_SHA256, der.NULL)

    def algorithm(self) -> AlgorithmIdentifier:
        """As it goes with the MAC."""
        parameters = der.sequence(
            der.octet_string(self.salt),
            self.one_way_function.encode(),
            der.integer(self.iterations),
            self.mac.encode(),
        )
        return AlgorithmIdentifier(PASSWORD_BASED_MAC, parameters)


def decode_pbm(algorithm: AlgorithmIdentifier) -> PBMParameter:
    """The parameters of a PasswordBasedMac. Raises ``CRMFError``: ``malformed``, ``unsupported-mac``."""
    if algorithm.oid != PASSWORD_BASED_MAC:
        raise CRMFError("unsupported-mac", f"MAC algorithm {algorithm.oid} is not accepted")
    try:
        reader = der.whole(algorithm.parameters)
        salt = reader.content(der.OCTET_STRING)
        one_way_function = AlgorithmIdentifier.read(reader.enter())
        iterations = reader.integer()
        mac = AlgorithmIdentifier.read(reader.enter())
        reader.finish()
    except DERError as error:
        raise CRMFError("malformed", f"malformed parameters of a MAC: {error}") from None
    return PBMParameter(salt, iterations, one_way_function, mac)


def password_based_mac(parameter: PBMParameter, secret: bytes, data: bytes) -> bytes:
    """The MAC over ``data`` (RFC 4211 section 4.4). Takes up to ``MAX_ITERATIONS`` hashes of CPU time.

    Raises ``CRMFError``: ``bad-iteration-count``, ``unsupported-mac``.
    """
    if not MIN_ITERATIONS <= parameter.iterations <= MAX_ITERATIONS:
        raise CRMFError(
            "bad-iteration-count", f"an iteration count is from {MIN_ITERATIONS} to {MAX_ITERATIONS}"
        )
    if len(parameter.salt) > _MAX_SALT:
        raise CRMFError("unsupported-mac", f"a salt has at most {_MAX_SALT} octets")
    digest = HASHES.get(parameter.one_way_function.oid)
    function = (HMACS | HMACS_WITH_SHA1).get(parameter.mac.oid)
    if digest is None or function is None:
        raise CRMFError(
            "unsupported-mac",
            f"a MAC of {parameter.one_way_function.oid} and {parameter.mac.oid} is not accepted",
        )
    key = secret + parameter.salt
    for _ in range(parameter.iterations):
        key = digest(key).digest()
    return hmac.digest(key, data, function)


def verify_mac(mac: PKMACValue, secret: bytes, data: bytes) -> None:
    """Raise ``CRMFError`` (``bad-mac``, or as ``decode_pbm`` and ``password_based_mac``) unless this is the
    PasswordBasedMac over ``data`` with this secret."""
    expected = password_based_mac(decode_pbm(mac.algorithm), secret, data)
    if not hmac.compare_digest(expected, mac.value):
        raise CRMFError("bad-mac", "the MAC does not verify")


def make_mac(parameter: PBMParameter, secret: bytes, data: bytes) -> PKMACValue:
    """The PasswordBasedMac over ``data``. Raises ``CRMFError`` as ``password_based_mac``."""
    return PKMACValue(parameter.algorithm(), password_based_mac(parameter, secret, data))
