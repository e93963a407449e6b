"""An OpenID Connect provider, as the relying party sees it: discovery, the way there and back, the ID token.

Authorization code flow with PKCE (RFC 7636), state and nonce (OpenID Connect Core 1.0 section 3.1). What must
be remembered between going and coming back is sealed into a cookie of the browser that goes, so that nobody
can be logged in by an answer that another browser fetched, and nothing is kept here that a flood could fill.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key

from certloom.clock import Clock
from certloom.outbound.http import HTTPAnswer, HTTPClient, HTTPFailed
from certloom.secrets import DataKey, SecretError
from certloom.settings.schema import OIDC

LOGIN_SECONDS = 600
"""How long the way to the provider and back may take."""
_PURPOSE = "oidc-login"
_METADATA_SECONDS = 3_600
_KEYS_AGAIN_SECONDS = 60
_FAILED_AGAIN_SECONDS = 5
_LEEWAY_SECONDS = 60
_HTTP_SECONDS = 10.0
_BODY_BYTES = 262_144
_MOST_KEYS = 50
_ALGORITHMS = (
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
    "Ed25519",
)
"""Signatures only: never ``none``, never a MAC with what anybody may know."""

_Key = RSAKey | ECKey | OKPKey
T = TypeVar("T")


class OIDCError(Exception):
    """Nobody is logged in. The message says why, fit for the person and for the operator."""


class Departure(msgspec.Struct, frozen=True):
    """The way to the provider."""

    url: str
    cookie: str
    """For this browser, until it comes back: ``HttpOnly``, ``SameSite=Lax``, ``LOGIN_SECONDS``."""


class Identity(msgspec.Struct, frozen=True):
    """Who came back, as the provider vouches for them."""

    issuer: str
    subject: str
    name: str
    """The claim that names accounts; may be empty."""
    display: str
    email: str
    groups: tuple[str, ...]
    next: str
    """Where they wanted to go, a path of this site."""


class _Kept(msgspec.Struct, frozen=True):
    """In the cookie, sealed."""

    state: str
    nonce: str
    verifier: str
    redirect_uri: str
    next: str
    until: int


class _Metadata(msgspec.Struct, frozen=True):
    """What is used of the provider's configuration (OpenID Connect Discovery 1.0 section 3)."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str = ""
    token_endpoint_auth_methods_supported: tuple[str, ...] = ("client_secret_basic",)
    id_token_signing_alg_values_supported: tuple[str, ...] = ("RS256",)
    authorization_response_iss_parameter_supported: bool = False


class _Tokens(msgspec.Struct, frozen=True):
    id_token: str
    access_token: str = ""


class Provider:
    """The provider that settings name. One per process; needs ``http`` made in its event loop."""

    def __init__(self, settings: OIDC, http: HTTPClient, clock: Clock, data_key: DataKey) -> None:
        self._settings = settings
        self._http = http
        self._clock = clock
        self._data_key = data_key
        self._metadata: _Metadata | None = None
        self._metadata_until = 0
        self._failure: tuple[int, str] = (0, "")
        self._keys: dict[str | None, list[_Key]] = {}
        self._keys_fetched = 0
        self._lock: asyncio.Lock | None = None

    @property
    def name(self) -> str:
        """What to call it on a button: its host."""
        return urlsplit(self._settings.issuer).hostname or ""

    # -- there and back --------------------------------------------------------------------------------

    async def depart(self, redirect_uri: str, next: str = "/") -> Departure:
        """Begin a login. ``redirect_uri`` is where the provider sends the browser back to. Raises
        ``OIDCError`` where the provider cannot be asked what it is like."""
        metadata = await self._discover()
        kept = _Kept(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            redirect_uri=redirect_uri,
            next=local_path(next),
            until=self._clock.now() + LOGIN_SECONDS,
        )
        challenge = base64.urlsafe_b64encode(hashlib.sha256(kept.verifier.encode()).digest())
        query = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(dict.fromkeys(("openid", *self._settings.scopes))),
            "state": kept.state,
            "nonce": kept.nonce,
            "code_challenge": challenge.rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        endpoint = metadata.authorization_endpoint
        url = f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query)}"
        sealed = self._data_key.seal(_PURPOSE, msgspec.json.encode(kept))
        return Departure(url, base64.urlsafe_b64encode(sealed).rstrip(b"=").decode())

    async def arrive(self, cookie: str, query: Mapping[str, str]) -> Identity:
        """End a login with what the browser brought back. Raises ``OIDCError``."""
        kept = self._opened(cookie)
        if not hmac.compare_digest(query.get("state", "").encode(), kept.state.encode()):
            raise OIDCError("this answer belongs to another login; begin again")
        if "error" in query:
            told = _plain(query["error"]), _plain(query.get("error_description", ""))
            raise OIDCError("the identity provider refused: " + ": ".join(filter(None, told)))
        code = query.get("code", "")
        if not code or len(code) > 4_096:
            raise OIDCError("the identity provider sent no code")
        metadata = await self._discover()
        issuer = query.get("iss")
        # RFC 9207: an answer that was meant for another provider's login.
        if issuer != metadata.issuer and (
            issuer is not None or metadata.authorization_response_iss_parameter_supported
        ):
            raise OIDCError("the answer comes from another identity provider")
        tokens = await self._redeem(metadata, code, kept)
        claims = await self._verified(metadata, tokens.id_token, kept.nonce)
        if self._lacks(claims) and metadata.userinfo_endpoint and tokens.access_token:
            claims = {**await self._userinfo(metadata, tokens.access_token, claims["sub"]), **claims}
        return self._identity(metadata, claims, kept.next)

    def _opened(self, cookie: str) -> _Kept:
        try:
            sealed = base64.urlsafe_b64decode(cookie[:4_096] + "=" * (-len(cookie) % 4))
            kept = msgspec.json.decode(self._data_key.open(_PURPOSE, sealed), type=_Kept)
        except (SecretError, msgspec.DecodeError, binascii.Error, ValueError):
            raise OIDCError("this browser has no login under way here; begin again") from None
        if kept.until <= self._clock.now():
            raise OIDCError("the login took too long; begin again")
        return kept

    def _lacks(self, claims: dict[str, Any]) -> bool:
        wanted = (self._settings.name_claim, self._settings.groups_claim)
        return any(claim and claim not in claims for claim in wanted)

    def _identity(self, metadata: _Metadata, claims: dict[str, Any], next: str) -> Identity:
        def text(claim: str) -> str:
            value = claims.get(claim)
            return value if isinstance(value, str) and len(value) <= 256 else ""

        groups = claims.get(self._settings.groups_claim, [])
        if isinstance(groups, str):
            groups = [groups]
        subject = claims["sub"]
        if not isinstance(subject, str) or not 0 < len(subject) <= 255:
            raise OIDCError("the identity provider's subject is no text of at most 255 characters")
        return Identity(
            issuer=metadata.issuer,
            subject=subject,
            name=text(self._settings.name_claim).strip().lower(),
            display=text("name"),
            email=text("email") if claims.get("email_verified", True) is True else "",
            groups=tuple(g for g in groups if isinstance(g, str)) if isinstance(groups, list) else (),
            next=next,
        )

    # -- the provider's endpoints ----------------------------------------------------------------------

    async def _discover(self) -> _Metadata:
        now = self._clock.now()
        if self._metadata is not None and now < self._metadata_until:
            return self._metadata
        if self._lock is None:
            self._lock = asyncio.Lock()
        async with self._lock:
            now = self._clock.now()
            if self._metadata is not None and now < self._metadata_until:
                return self._metadata
            if now < self._failure[0]:
                raise OIDCError(self._failure[1])
            try:
                self._metadata = await self._read_metadata()
            except OIDCError as error:
                self._failure = (now + _FAILED_AGAIN_SECONDS, str(error))
                raise
            self._metadata_until = now + _METADATA_SECONDS
            return self._metadata

    async def _read_metadata(self) -> _Metadata:
        issuer = self._settings.issuer
        check_url(issuer, "oidc.issuer")
        answer = await self._fetch("GET", issuer.rstrip("/") + "/.well-known/openid-configuration")
        metadata = _decoded(answer, _Metadata, "configuration")
        if metadata.issuer != issuer:
            raise OIDCError(f"the identity provider calls itself {_plain(metadata.issuer)}, not {issuer}")
        for what in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            url = getattr(metadata, what)
            if url:
                check_url(url, what)
        return metadata

    async def _redeem(self, metadata: _Metadata, code: str, kept: _Kept) -> _Tokens:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": kept.redirect_uri,
            "code_verifier": kept.verifier,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        secret = self._secret()
        methods = metadata.token_endpoint_auth_methods_supported
        if secret and ("client_secret_basic" in methods or "client_secret_post" not in methods):
            # RFC 6749 section 2.3.1: both are form-encoded before they are put together.
            pair = f"{quote(self._settings.client_id, safe='')}:{quote(secret, safe='')}"
            headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
        else:
            form["client_id"] = self._settings.client_id
            if secret:
                form["client_secret"] = secret
        answer = await self._fetch("POST", metadata.token_endpoint, headers, urlencode(form).encode())
        if answer.status == 400 or answer.status == 401:
            told = _decoded(msgspec.structs.replace(answer, status=200), dict[str, Any], "refusal")
            texts = _plain(str(told.get("error", ""))), _plain(str(told.get("error_description", "")))
            raise OIDCError("the identity provider refused the code: " + ": ".join(filter(None, texts)))
        return _decoded(answer, _Tokens, "token answer")

    def _secret(self) -> str:
        if not self._settings.client_secret_file:
            return ""
        try:
            # Read anew each time, so that it can be changed under a running server.
            return Path(self._settings.client_secret_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise OIDCError("the file that oidc.client_secret_file names cannot be read") from None

    async def _userinfo(self, metadata: _Metadata, access_token: str, subject: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {_header_safe(access_token)}", "Accept": "application/json"}
        answer = await self._fetch("GET", metadata.userinfo_endpoint, headers)
        claims = _decoded(answer, dict[str, Any], "user info")
        # OpenID Connect Core section 5.3.2: or it may be about somebody else.
        if claims.get("sub") != subject:
            raise OIDCError("the identity provider's user info is about somebody else")
        return claims

    async def _fetch(
        self, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> HTTPAnswer:
        try:
            return await self._http.request(
                method, url, headers=headers, body=body, seconds=_HTTP_SECONDS, body_limit=_BODY_BYTES
            )
        except HTTPFailed as error:
            raise OIDCError(f"the identity provider is not to be reached: {error}") from None

    # -- the ID token ----------------------------------------------------------------------------------

    async def _verified(self, metadata: _Metadata, token: str, nonce: str) -> dict[str, Any]:
        """The claims of an ID token that is good (OpenID Connect Core section 3.1.3.7)."""
        if len(token) > 65_536:
            raise OIDCError("the ID token is too long")
        try:
            header = jws.extract_compact(token.encode()).headers()
            kid = header.get("kid")
            if kid is not None and not isinstance(kid, str):
                raise OIDCError("the ID token's kid is no text")
            claims = self._signed(metadata, token, await self._keys_for(metadata, kid))
        except (JoseError, ValueError) as error:
            raise OIDCError(f"the ID token is not good: {_plain(str(error))}") from None
        check_claims(claims, metadata.issuer, self._settings.client_id, nonce, self._clock.now())
        return claims

    def _signed(self, metadata: _Metadata, token: str, keys: list[_Key]) -> dict[str, Any]:
        supported = metadata.id_token_signing_alg_values_supported
        algorithms = [a for a in _ALGORITHMS if a in supported]
        failed: Exception = OIDCError("the identity provider has no key of the ID token's kid")
        for key in keys:
            try:
                return jwt.decode(token, key, algorithms=algorithms).claims
            except (JoseError, ValueError, TypeError) as error:
                failed = error
        raise (
            failed
            if isinstance(failed, OIDCError)
            else OIDCError(f"the ID token's signature is not good: {_plain(str(failed))}")
        )

    async def _keys_for(self, metadata: _Metadata, kid: str | None) -> list[_Key]:
        """Keys of this kid; fetched again, though not often, where it is unknown: keys are rotated."""
        now = self._clock.now()
        known = self._pick(kid)
        if known or (self._keys and now < self._keys_fetched + _KEYS_AGAIN_SECONDS):
            return known
        self._keys_fetched = now
        answer = await self._fetch("GET", metadata.jwks_uri)
        self._keys = _keys(_decoded(answer, dict[str, Any], "key set"))
        return self._pick(kid)

    def _pick(self, kid: str | None) -> list[_Key]:
        if kid is None:
            return [key for keys in self._keys.values() for key in keys]
        return self._keys.get(kid, [])


def check_claims(claims: dict[str, Any], issuer: str, client_id: str, nonce: str, now: int) -> None:
    """Raises ``OIDCError`` unless these claims are about this login, made for us, and current."""
    if claims.get("iss") != issuer:
        raise OIDCError("the ID token is another issuer's")
    audience = claims.get("aud")
    several = audience if isinstance(audience, list) else [audience]
    if client_id not in several:
        raise OIDCError("the ID token is for another client")
    if claims.get("azp", client_id) != client_id or (len(several) > 1 and "azp" not in claims):
        raise OIDCError("the ID token was issued to another client (azp)")
    expires, issued = _number(claims, "exp"), _number(claims, "iat")
    if expires is None or issued is None:
        raise OIDCError("the ID token does not say from when and until when it is good")
    if expires + _LEEWAY_SECONDS <= now:
        raise OIDCError("the ID token has expired; are both clocks right?")
    # RFC 7519 section 4.1.5, where there is one.
    not_before = _number(claims, "nbf") if "nbf" in claims else issued
    if not_before is None or max(issued, not_before) - _LEEWAY_SECONDS > now:
        raise OIDCError("the ID token is from the future; are both clocks right?")
    given = claims.get("nonce")
    if not isinstance(given, str) or not hmac.compare_digest(given.encode(), nonce.encode()):
        raise OIDCError("the ID token belongs to another login (nonce)")
    if not isinstance(claims.get("sub"), str):
        raise OIDCError("the ID token names no subject")


def check_url(url: str, what: str) -> None:
    """Raises ``OIDCError`` unless it is https, or http on this very host."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.scheme == "https" and host:
        return
    if parts.scheme == "http" and _is_loopback(host):
        return
    raise OIDCError(f"{what}: {_plain(url)} is not an https URL")


def local_path(next: str) -> str:
    """A path of this site, and nothing that a browser would take for another's."""
    good = next.startswith("/") and not next.startswith(("//", "/\\")) and len(next) <= 1_000
    return next if good and next.isprintable() and "\\" not in next else "/"


def _keys(document: dict[str, Any]) -> dict[str | None, list[_Key]]:
    """Public signature keys by kid; what is of no use or too weak is left out."""
    found: dict[str | None, list[_Key]] = {}
    entries = document.get("keys")
    for entry in (entries if isinstance(entries, list) else [])[:_MOST_KEYS]:
        if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
            continue
        if entry.get("kty") not in ("RSA", "EC", "OKP"):
            continue
        try:
            key = import_key({k: v for k, v in entry.items() if isinstance(v, str)})
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if isinstance(key, RSAKey) and key.public_key.key_size < 2048:
            continue
        if isinstance(key, RSAKey | ECKey | OKPKey):
            kid = entry.get("kid")
            found.setdefault(kid if isinstance(kid, str) else None, []).append(key)
    return found


def _decoded(answer: HTTPAnswer, type: type[T], what: str) -> T:
    if answer.status != 200:
        raise OIDCError(f"the identity provider answered {answer.status} where its {what} should be")
    try:
        return msgspec.json.decode(answer.body, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise OIDCError(
            f"the identity provider's {what} is not as it must be: {_plain(str(error))}"
        ) from None


def _number(claims: dict[str, Any], claim: str) -> float | None:
    value = claims.get(claim)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _plain(text: str) -> str:
    """A stranger's text, short and on one line."""
    return "".join(c if c.isprintable() else " " for c in text[:300])


def _header_safe(token: str) -> str:
    if not token.isascii() or not token.isprintable() or len(token) > 16_384:
        raise OIDCError("the identity provider's access token is not one")
    return token
