"""AWS KMS: Encrypt and Decrypt, and the signatures (version 4) that its requests carry.

The key's id goes along as encryption context: it is authenticated with the ciphertext, and stands in
CloudTrail. The role needs ``kms:Decrypt`` alone, and ``kms:Encrypt`` where a key is to be wrapped.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from certloom.secrets.errors import SecretError
from certloom.secrets.https import Answer, Endpoint, NoAnswer
from certloom.settings.key_sources import KMS

_AGAIN = frozenset({429, 500, 502, 503, 504})
_METADATA = "http://169.254.169.254"
_CONTAINER = "http://169.254.170.2"
_METADATA_SECONDS = 10
_ROLES = "/latest/meta-data/iam/security-credentials/"


class Credentials(msgspec.Struct, frozen=True):
    """Whom a request is from, and what proves it."""

    access_key: str
    secret_key: str
    token: str = ""
    """Of a session; empty for a user's own keys."""

    def __repr__(self) -> str:
        return f"<Credentials {self.access_key}>"


class _Provided(msgspec.Struct):
    """As the metadata services give them."""

    AccessKeyId: str
    SecretAccessKey: str
    Token: str = ""


class _Encrypted(msgspec.Struct):
    CiphertextBlob: str


class _Decrypted(msgspec.Struct):
    Plaintext: str


class _Fault(msgspec.Struct):
    type: str = msgspec.field(name="__type", default="")
    message: str = ""
    Message: str = ""


def encrypt(settings: KMS, id: str, key: bytes) -> bytes:
    """The ciphertext of ``key``, whose id is authenticated with it. Raises ``SecretError``."""
    body = {"KeyId": settings.key, "Plaintext": _base64(key), "EncryptionContext": _context(id)}
    answer = _ask(settings, "Encrypt", body)
    try:
        return base64.b64decode(msgspec.json.decode(answer.body, type=_Encrypted).CiphertextBlob)
    except (msgspec.DecodeError, binascii.Error):
        raise SecretError("AWS KMS gives no understandable answer") from None


def decrypt(settings: KMS, id: str, ciphertext: bytes) -> bytes:
    """What ``encrypt`` was given. Raises ``SecretError``."""
    # The key is named although the ciphertext names it too: so no other key of the account will do.
    body = {
        "KeyId": settings.key,
        "CiphertextBlob": _base64(ciphertext),
        "EncryptionContext": _context(id),
    }
    answer = _ask(settings, "Decrypt", body)
    try:
        return base64.b64decode(msgspec.json.decode(answer.body, type=_Decrypted).Plaintext)
    except (msgspec.DecodeError, binascii.Error):
        raise SecretError("AWS KMS gives no understandable answer") from None


def _context(id: str) -> dict[str, str]:
    return {"certloom-key-id": id}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _ask(settings: KMS, operation: str, body: Mapping[str, object]) -> Answer:
    region = settings.region or _region(settings.key)
    origin = settings.endpoint.rstrip("/") or f"https://kms.{region}.amazonaws.com"
    endpoint = Endpoint(origin, "AWS KMS", settings.roots, settings.seconds)
    payload = msgspec.json.encode(body)
    headers = {
        "Content-Type": "application/x-amz-json-1.1",
        "Host": urlsplit(origin).netloc,
        "X-Amz-Target": f"TrentService.{operation}",
    }
    signed = sign(credentials(), region, "kms", headers, payload, time.time())
    answer = endpoint.ask("POST", "/", signed, payload, again=_AGAIN)
    if answer.status == 200:
        return answer
    fault = _Fault()
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        fault = msgspec.json.decode(answer.body, type=_Fault)
    name = fault.type.rpartition("#")[2] or f"status {answer.status}"
    said = "".join(c if c.isprintable() else " " for c in fault.message or fault.Message)[:300].strip()
    raise SecretError(f"AWS KMS refuses to {operation.lower()} ({name}){said and ': '}{said}")


def _region(key: str) -> str:
    """From an ARN (``arn:aws:kms:REGION:ACCOUNT:key/ID``), or the environment. Raises ``SecretError``."""
    parts = key.split(":")
    found = parts[3] if key.startswith("arn:") and len(parts) > 5 else os.environ.get("AWS_REGION", "")
    if not found:
        raise SecretError("no region is set: aws_kms.region, a key's ARN, or AWS_REGION")
    return found


def sign(
    by: Credentials, region: str, service: str, headers: Mapping[str, str], payload: bytes, at: float
) -> dict[str, str]:
    """The headers of a ``POST /``, with what AWS Signature Version 4 adds to them. ``at`` is Unix seconds."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    scope = f"{now[:8]}/{region}/{service}/aws4_request"
    all_headers = {**headers, "X-Amz-Date": now}
    if by.token:
        all_headers["X-Amz-Security-Token"] = by.token
    canonical = sorted((name.lower(), " ".join(value.split())) for name, value in all_headers.items())
    names = ";".join(name for name, _ in canonical)
    lines = "".join(f"{name}:{value}\n" for name, value in canonical)
    request = f"POST\n/\n\n{lines}\n{names}\n{hashlib.sha256(payload).hexdigest()}"
    to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = b"AWS4" + by.secret_key.encode()
    for part in (now[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    all_headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={by.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return all_headers


def credentials() -> Credentials:
    """From the environment, else the container's role, else the instance's. Raises ``SecretError``."""
    access_key = os.environ.get("AWS_ACCESS_KEY_ID")
    secret_key = os.environ.get("AWS_SECRET_ACCESS_KEY")
    if access_key and secret_key:
        return Credentials(access_key, secret_key, os.environ.get("AWS_SESSION_TOKEN", ""))
    relative = os.environ.get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    try:
        text = _container(relative) if relative else _instance()
        found = msgspec.json.decode(text, type=_Provided)
    except (NoAnswer, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SecretError(
            "there are no AWS credentials in the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY),"
            f" and no role gives any: {error if isinstance(error, NoAnswer) else 'no understandable answer'}"
        ) from None
    return Credentials(found.AccessKeyId, found.SecretAccessKey, found.Token)


def _container(path: str) -> bytes:
    endpoint = Endpoint(_CONTAINER, "the container's credentials service", "", _METADATA_SECONDS)
    return _found(endpoint.ask("GET", path, {}, None, again=_AGAIN))


def _instance() -> bytes:
    """IMDSv2: a session token first, so that a server tricked into a GET cannot fetch credentials."""
    origin = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", _METADATA)
    endpoint = Endpoint(origin, "the instance's metadata service", "", _METADATA_SECONDS)
    life = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = _found(endpoint.ask("PUT", "/latest/api/token", life, None, again=_AGAIN)).decode(
        "ascii", "replace"
    )
    headers = {"X-aws-ec2-metadata-token": token}
    role = _found(endpoint.ask("GET", _ROLES, headers, None, again=_AGAIN)).decode("ascii", "replace")
    return _found(endpoint.ask("GET", _ROLES + role.strip(), headers, None, again=_AGAIN))


def _found(answer: Answer) -> bytes:
    if answer.status != 200:
        raise NoAnswer(f"the metadata service answers with status {answer.status}")
    return answer.body
