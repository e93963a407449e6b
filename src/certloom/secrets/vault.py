"""HashiCorp Vault's and OpenBao's transit engine: it encrypts and decrypts, and keeps its key to itself.

What is sent for decryption is the ciphertext of the key file; the token or AppRole needs ``update`` on
``MOUNT/decrypt/KEY`` alone, and on ``MOUNT/encrypt/KEY`` where a key is to be wrapped.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

import msgspec

from certloom.secrets.errors import SecretError
from certloom.secrets.https import Answer, Endpoint
from certloom.settings.key_sources import Vault

# 412: this node has not caught up. 429: too often. 472, 473: a standby. 5xx: sealed, or in trouble.
_T = TypeVar("_T")
_AGAIN = frozenset({412, 429, 472, 473, 500, 502, 503, 504})


class _Auth(msgspec.Struct):
    client_token: str


class _Login(msgspec.Struct):
    auth: _Auth


class _Data(msgspec.Struct):
    plaintext: str = ""
    ciphertext: str = ""


class _Transit(msgspec.Struct):
    data: _Data


class _Errors(msgspec.Struct):
    errors: list[str] = []


def encrypt(settings: Vault, key: bytes) -> str:
    """The ciphertext of ``key``. Raises ``SecretError``."""
    with _session(settings) as session:
        found = session.transit("encrypt", {"plaintext": base64.b64encode(key).decode()}).ciphertext
    if not found:
        raise SecretError("Vault answers without a ciphertext")
    return found


def decrypt(settings: Vault, ciphertext: str) -> bytes:
    """What ``encrypt`` was given. Raises ``SecretError``."""
    with _session(settings) as session:
        found = session.transit("decrypt", {"ciphertext": ciphertext}).plaintext
    try:
        return base64.b64decode(found, validate=True)
    except binascii.Error:
        raise SecretError("Vault answers with a plaintext that is not base64") from None


class _session:
    """Logged in to Vault; a token made for the occasion is revoked at the end."""

    def __init__(self, settings: Vault) -> None:
        self._settings = settings
        self._endpoint = Endpoint(settings.address, "Vault", settings.roots, settings.seconds)
        self._token = ""

    def __enter__(self) -> _session:
        settings = self._settings
        if settings.token_file:
            self._token = _line(settings.token_file)
        else:
            body = {"role_id": settings.role_id, "secret_id": _line(settings.secret_id_file)}
            answer = self._post(f"auth/{settings.approle_mount}/login", body)
            self._token = _decoded(answer, _Login, "logged in to").auth.client_token
        return self

    def __exit__(self, *_: object) -> None:
        if not self._settings.token_file:
            with contextlib.suppress(SecretError):  # else it ends by itself, after its time to live
                self._post("auth/token/revoke-self", {})
        self._token = ""

    def transit(self, what: str, body: dict[str, str]) -> _Data:
        answer = self._post(f"{self._settings.mount}/{what}/{self._settings.key}", body)
        return _decoded(answer, _Transit, f"asked to {what}").data

    def _post(self, path: str, body: dict[str, str]) -> Answer:
        headers = {"Content-Type": "application/json", "X-Vault-Request": "true"}
        if self._token:
            headers["X-Vault-Token"] = self._token
        if self._settings.namespace:
            headers["X-Vault-Namespace"] = self._settings.namespace
        return self._endpoint.ask(
            "POST", f"/v1/{quote(path)}", headers, msgspec.json.encode(body), again=_AGAIN
        )


def _line(file: str) -> str:
    """A token, or the like, in a file of its own; a header field can hold it."""
    try:
        text = Path(file).read_bytes()[:8192].strip()
    except OSError as error:
        raise SecretError(f"{file}: {error.strerror}") from None
    if not text or not text.isascii() or not text.decode("ascii").isprintable():
        raise SecretError(f"{file} does not hold a token")
    return text.decode("ascii")


def _decoded(answer: Answer, type: type[_T], doing: str) -> _T:
    if answer.status == 200:
        try:
            return msgspec.json.decode(answer.body, type=type)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise SecretError(f"Vault gives no understandable answer when {doing}") from None
    said = ""
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        said = "; ".join(msgspec.json.decode(answer.body, type=_Errors).errors)
    said = "".join(c if c.isprintable() else " " for c in said)[:300].strip()
    raise SecretError(f"Vault refuses with status {answer.status} when {doing}{said and ': '}{said}")
