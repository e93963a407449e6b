"""The process that has loaded a vendor's PKCS#11 module: it crashes, hangs and leaks alone.

Asked by ``signing.tokens`` over its standard input and output, and ended with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag, exceptions
from pkcs11.util.ec import encode_named_curve_parameters

from certloom.pki import der
from certloom.signing.tokens import messages
from certloom.signing.tokens.uri import TokenURI

_CURVES = {
    "P-256": ("secp256r1", "sha256", "1.2.840.10045.3.1.7"),
    "P-384": ("secp384r1", "sha384", "1.3.132.0.34"),
    "P-521": ("secp521r1", "sha512", "1.3.132.0.35"),
}
_RSA_ENCRYPTION = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.NULL)
_EC_PUBLIC_KEY = der.oid("1.2.840.10045.2.1")
_ED25519 = der.sequence(der.oid("1.3.101.112"))
_DIGEST_INFO_SHA256 = bytes.fromhex("3031300d060960864801650304020105000420")
"""DigestInfo of SHA-256 up to the hash itself (RFC 8017 section 9.2, note 1)."""
_GONE = (
    exceptions.DeviceError,
    exceptions.DeviceMemory,
    exceptions.DeviceRemoved,
    exceptions.FunctionFailed,
    exceptions.GeneralError,
    exceptions.HostMemory,
    exceptions.SessionClosed,
    exceptions.SessionCount,
    exceptions.SessionHandleInvalid,
    exceptions.TokenNotPresent,
    exceptions.TokenNotRecognised,
    exceptions.UserNotLoggedIn,
    exceptions.KeyHandleInvalid,
    exceptions.ObjectHandleInvalid,
    exceptions.NoSuchToken,
    exceptions.SlotIDInvalid,
)
"""After these the module is not trusted with anything more: whoever asked ends this process and starts
another."""


class Refused(Exception):
    """It cannot be done."""


class Worker:
    """One module, one token, one session."""

    def __init__(self) -> None:
        self._token: Any = None
        self._session: Any = None
        self._keys: dict[TokenURI, Any] = {}

    def answer(self, request: messages.Request) -> messages.Answer:
        """Do what is asked."""
        try:
            return self._answer(request)
        except Refused as error:
            return messages.Failed("refused", str(error))
        except (exceptions.PinIncorrect, exceptions.PinInvalid, exceptions.PinLenRange):
            return messages.Failed("pin", "the PIN is wrong")
        except (exceptions.PinLocked, exceptions.PinExpired, exceptions.UserPinNotInitialized) as error:
            return messages.Failed("pin", f"the PIN cannot be used: {type(error).__name__}")
        except _GONE as error:
            return messages.Failed("gone", f"{type(error).__name__} {error}".strip())
        except (exceptions.PKCS11Error, RuntimeError, OSError) as error:
            return messages.Failed("refused", f"{type(error).__name__} {error}".strip())

    def _answer(self, request: messages.Request) -> messages.Answer:
        match request:
            case messages.Open(module, label, serial):
                return self._open(module, label, serial)
            case messages.LogIn(pin):
                # Read-only would do but for making keys; C_Login is for all sessions of this process.
                self._session = self._token.open(rw=True, user_pin=pin)
                return messages.Done()
            case messages.Generate(algorithm, label, id, purpose):
                return self._generate(algorithm, label, id, purpose)
            case messages.Find(uri):
                key = self._key(uri)
                found = TokenURI(
                    token=self._token.label,
                    serial=_text(self._token.serial),
                    object=key.label or "",
                    id=bytes(key.id or b""),
                )
                return messages.Done((self._spki(key), str(found).encode()))
            case messages.Sign(uri, algorithm, data):
                key = self._key(uri)
                return messages.Done(tuple(_sign(key, algorithm, one) for one in data))
            case messages.Decrypt(uri, ciphertext, padding):
                return messages.Done((_decrypt(self._key(uri), ciphertext, padding),))

    def _open(self, module: str, label: str, serial: str) -> messages.Answer:
        library = pkcs11.lib(module)
        wanted: dict[str, Any] = {"token_label": label} if label else {}
        if serial:
            wanted["token_serial"] = serial.encode()
        try:
            self._token = library.get_token(**wanted)
        except exceptions.MultipleTokensReturned:
            raise Refused(f"several tokens have the label {label!r}: set serial") from None
        flags = self._token.flags
        needs_login = bool(flags & TokenFlag.LOGIN_REQUIRED)
        if not needs_login:
            self._session = self._token.open(rw=True)
        return messages.Opened(
            self._token.label,
            _text(self._token.serial),
            needs_login,
            bool(flags & TokenFlag.USER_PIN_COUNT_LOW),
            bool(flags & TokenFlag.USER_PIN_FINAL_TRY),
            bool(flags & TokenFlag.USER_PIN_LOCKED),
        )

    # -- keys --------------------------------------------------------------------------------------------

    def _key(self, uri: TokenURI) -> Any:
        """The one private key that a URI names."""
        key = self._keys.get(uri)
        if key is None:
            if self._session is None:
                raise Refused("nobody is logged in")
            wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
            if uri.object:
                wanted[Attribute.LABEL] = uri.object
            if uri.id:
                wanted[Attribute.ID] = uri.id
            found = list(self._session.get_objects(wanted))
            if not found:
                raise Refused(f"there is no private key {uri}")
            if len(found) > 1:
                raise Refused(f"{len(found)} private keys fit {uri}: name one by object and id")
            key = self._keys[uri] = found[0]
        return key

    def _generate(self, algorithm: str, label: str, id: bytes, purpose: str) -> messages.Answer:
        there = {Attribute.CLASS: ObjectClass.PRIVATE_KEY, Attribute.ID: id}
        if list(self._session.get_objects(there)):
            raise Refused("the token has a key with that id already")
        decrypts = purpose == "ra"
        private = {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.PRIVATE: True,
            Attribute.SIGN: True,
            Attribute.DECRYPT: decrypts and algorithm.startswith("rsa-"),
            Attribute.UNWRAP: False,
            Attribute.DERIVE: False,
        }
        public = {
            Attribute.VERIFY: True,
            Attribute.ENCRYPT: decrypts and algorithm.startswith("rsa-"),
            Attribute.WRAP: False,
        }
        templates = {"public_template": public, "private_template": private}
        if algorithm.startswith("rsa-"):
            self._session.generate_keypair(
                KeyType.RSA, int(algorithm[4:]), id=id, label=label, store=True, **templates
            )
        elif algorithm in _CURVES:
            parameters = self._session.create_domain_parameters(
                KeyType.EC,
                {Attribute.EC_PARAMS: encode_named_curve_parameters(_CURVES[algorithm][0])},
                local=True,
            )
            parameters.generate_keypair(id=id, label=label, store=True, **templates)
        else:
            raise Refused(f"keys of kind {algorithm} are not made in tokens")
        uri = TokenURI(token=self._token.label, serial=_text(self._token.serial), object=label, id=id)
        return messages.Done((self._spki(self._key(uri)), str(uri).encode()))

    def _spki(self, key: Any) -> bytes:
        """The SubjectPublicKeyInfo of a private key: from the public one beside it, or from its own
        numbers."""
        kind = key[Attribute.KEY_TYPE]
        if kind == KeyType.RSA:
            modulus, exponent = self._rsa_numbers(key)
            numbers = der.sequence(der.unsigned(modulus), der.unsigned(exponent))
            return der.sequence(_RSA_ENCRYPTION, der.bit_string(numbers))
        public = self._public(key)
        point = bytes(public[Attribute.EC_POINT])
        with contextlib.suppress(der.DERError):  # an OCTET STRING; some tokens give the point itself
            point = _contents(point)
        if kind == KeyType.EC_EDWARDS:
            return der.sequence(_ED25519, der.bit_string(point))
        parameters = bytes(public[Attribute.EC_PARAMS])
        return der.sequence(der.sequence(_EC_PUBLIC_KEY, parameters), der.bit_string(point))

    def _rsa_numbers(self, key: Any) -> tuple[bytes, bytes]:
        with contextlib.suppress(exceptions.PKCS11Error, KeyError):
            return bytes(key[Attribute.MODULUS]), bytes(key[Attribute.PUBLIC_EXPONENT])
        public = self._public(key)
        return bytes(public[Attribute.MODULUS]), bytes(public[Attribute.PUBLIC_EXPONENT])

    def _public(self, key: Any) -> Any:
        wanted: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.ID: bytes(key.id)}
        found = list(self._session.get_objects(wanted))
        if len(found) != 1:
            raise Refused("the token has no public key, or several, with the private key's id")
        return found[0]


def _text(value: bytes | str) -> str:
    return value.decode("ascii", "replace").strip() if isinstance(value, bytes) else value


def _contents(data: bytes) -> bytes:
    reader = der.Reader(data)
    content = reader.content(der.OCTET_STRING)
    reader.finish()
    return content


def _sign(key: Any, algorithm: str, data: bytes) -> bytes:
    """A signature in the form that X.509 has (RFC 8017 section 8.2, RFC 3279 section 2.2.3, RFC 8410)."""
    if algorithm.startswith("rsa-"):
        try:
            return bytes(key.sign(data, mechanism=Mechanism.SHA256_RSA_PKCS))
        except exceptions.MechanismInvalid:
            info = _DIGEST_INFO_SHA256 + hashlib.sha256(data).digest()
            return bytes(key.sign(info, mechanism=Mechanism.RSA_PKCS))
    if algorithm in _CURVES:
        digest = hashlib.new(_CURVES[algorithm][1], data).digest()
        raw = bytes(key.sign(digest, mechanism=Mechanism.ECDSA))
        half = len(raw) // 2
        return der.sequence(der.unsigned(raw[:half]), der.unsigned(raw[half:]))
    if algorithm == "ed25519":
        return bytes(key.sign(data, mechanism=Mechanism.EDDSA))
    raise Refused(f"keys of kind {algorithm} do not sign here")


def _decrypt(key: Any, ciphertext: bytes, padding: str) -> bytes:
    if padding == "pkcs1":
        try:
            return bytes(key.decrypt(ciphertext, mechanism=Mechanism.RSA_PKCS))
        except (exceptions.EncryptedDataInvalid, exceptions.EncryptedDataLenRange, exceptions.DataInvalid):
            return secrets.token_bytes(32)
        except (exceptions.GeneralError, exceptions.FunctionFailed):
            # What SoftHSM says of wrong padding: no sign that the token is away.
            return secrets.token_bytes(32)
    digest, mask = (Mechanism.SHA256, pkcs11.MGF.SHA256)
    if padding == "oaep-sha1":
        digest, mask = (Mechanism.SHA_1, pkcs11.MGF.SHA1)
    how = {"mechanism": Mechanism.RSA_PKCS_OAEP, "mechanism_param": (digest, mask, None)}
    try:
        return bytes(key.decrypt(ciphertext, **how))
    except (
        exceptions.EncryptedDataInvalid,
        exceptions.EncryptedDataLenRange,
        exceptions.GeneralError,
        exceptions.ArgumentsBad,
        exceptions.MechanismParamInvalid,
    ) as error:
        raise Refused(f"this does not decrypt: {type(error).__name__}") from None


def _requests(source: BinaryIO) -> Iterator[messages.Request]:
    while len(header := source.read(4)) == 4:
        yield messages.decode_request(source.read(int.from_bytes(header, "big")))


def main() -> None:
    """Answer until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A module that prints must not print into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker()
    for request in _requests(sys.stdin.buffer):
        data = messages.encode(worker.answer(request))
        answers.write(len(data).to_bytes(4, "big") + data)
        answers.flush()
    os._exit(0)  # modules hang at the end of a process more often than anywhere else


if __name__ == "__main__":
    main()
