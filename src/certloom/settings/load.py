"""Reading settings: strict about keys and types, then about meaning. Every refusal names its path."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from certloom.settings import key_sources
from certloom.settings.origins import check_origin, parse_address
from certloom.settings.schema import Settings


class SettingsError(Exception):
    """Settings that cannot be used. ``problems`` holds all that is wrong, one ``path: what`` each."""

    def __init__(self, source: str, problems: list[str]) -> None:
        super().__init__(f"{source}: " + "; ".join(problems))
        self.source = source
        self.problems = problems


def load(path: Path | str | None) -> Settings:
    """Read a TOML file; None gives the defaults. Raises ``SettingsError``.

    Relative paths inside stay as written: they are relative to the working directory.
    """
    if path is None:
        return Settings()
    try:
        text = Path(path).read_bytes().decode("utf-8")
    except OSError as error:
        raise SettingsError(str(path), [error.strerror or str(error)]) from None
    except UnicodeDecodeError as error:
        raise SettingsError(str(path), [f"not UTF-8: {error}"]) from None
    return parse(text, str(path))


def parse(text: str, source: str = "settings") -> Settings:
    """Read TOML text. Raises ``SettingsError``."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(source, [f"not TOML: {error}"]) from None
    try:
        settings = msgspec.convert(tree, Settings, strict=True)
    except msgspec.ValidationError as error:
        raise SettingsError(source, [_with_path_first(str(error))]) from None
    problems = check(settings)
    if problems:
        raise SettingsError(source, problems)
    return settings


def _with_path_first(message: str) -> str:
    """Turn msgspec's ``what - at `$.path``` into ``$.path: what``, an unknown key's path in full."""
    what, _, at = message.partition(" - at `")
    path = at.rstrip("`") or "$"
    opening = "Object contains unknown field `"
    if what.startswith(opening):
        return f"{path}.{what.removeprefix(opening).rstrip('`')}: unknown key"
    return f"{path}: {what[:1].lower()}{what[1:]}"


def check(settings: Settings) -> list[str]:
    """What is wrong with the meaning of settings whose types are right; empty when nothing is."""
    problems: list[str] = []

    def on(path: str, value: str, rule: Callable[[str], object]) -> None:
        if value:
            try:
                rule(value)
            except ValueError as error:
                # A database URL may hold a password, so it is never repeated.
                shown = "" if path == "database.url" else f"{value!r}: "
                problems.append(f"$.{path}: {shown}{error}")

    if not settings.data_dir:
        problems.append("$.data_dir: must not be empty")
    listen = settings.listen
    on("listen.https", listen.https, parse_address)
    on("listen.http", listen.http, parse_address)
    on("listen.acme_plain", listen.acme_plain, _loopback_address)
    if not (listen.https or listen.http or listen.acme_plain):
        problems.append("$.listen: every listener is off")
    if not listen.http and not settings.public_http_url:
        problems.append(
            "$.public_http_url: needed because listen.http is off: certificates tell where CRLs are"
        )
    if bool(listen.tls_certificate) != bool(listen.tls_key):
        given, missing = ("certificate", "key") if listen.tls_certificate else ("key", "certificate")
        problems.append(f"$.listen.tls_{missing}: needed because tls_{given} is set")
    on("public_url", settings.public_url, lambda text: check_origin(text, "https"))
    on("public_http_url", settings.public_http_url, lambda text: check_origin(text, "http"))
    on("acme_plain_url", settings.acme_plain_url, lambda text: check_origin(text, "http", "https"))
    on("database.url", settings.database.url, _database_url)
    on("acme.terms_of_service", settings.acme.terms_of_service, _web_page)
    on("acme.website", settings.acme.website, _web_page)
    for i, text in enumerate(settings.validation.resolvers):
        on(f"validation.resolvers[{i}]", text or " ", _resolver)
    for name in ("allow_addresses", "deny_addresses"):
        for i, text in enumerate(getattr(settings.validation, name)):
            on(f"validation.{name}[{i}]", text or " ", ipaddress.ip_network)
    for i, text in enumerate(settings.proxy.trusted):
        on(f"proxy.trusted[{i}]", text or " ", ipaddress.ip_network)
    for i, text in enumerate(settings.outbound.allow_addresses):
        on(f"outbound.allow_addresses[{i}]", text or " ", ipaddress.ip_network)
    mail = settings.mail
    if mail.host and not mail.sender:
        problems.append("$.mail.sender: needed because mail.host is set")
    if mail.username and not mail.password_file:
        problems.append("$.mail.password_file: needed because mail.username is set")
    if mail.username and mail.security == "none":
        problems.append("$.mail.security: no password is sent without TLS; choose starttls or tls")
    for where, what in key_sources.missing(settings.secrets, settings.secrets.source):
        problems.append(f"$.secrets.{where}: {what}")
    signer = settings.signer
    for where, what in key_sources.missing(signer.secrets, signer.secrets.source):
        problems.append(f"$.signer.secrets.{where}: {what}")
    if signer.mode == "spawned" and (what := key_sources.beyond_spawned(signer.secrets)):
        problems.append(f"$.signer.secrets.{what}")
    for name, log in settings.ct.logs.items():
        if not _LOG_NAME.fullmatch(name):
            problems.append(f"$.ct.logs.{name}: letters, digits and hyphens, please")
        on(f"ct.logs.{name}.url", log.url or " ", _web_page)
        if log.expires_from and log.expires_until and log.expires_from >= log.expires_until:
            problems.append(f"$.ct.logs.{name}.expires_until: not after expires_from")
    return problems


_LOG_NAME = re.compile("[a-z0-9][a-z0-9-]{0,62}")


def _loopback_address(text: str) -> None:
    if not parse_address(text).is_loopback:
        raise ValueError("ACME without TLS listens on a loopback address only")


def _resolver(text: str) -> None:
    """``address``, ``v4:port`` or ``[v6]:port``."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        try:
            address = parse_address(text)
            ipaddress.ip_address(address.host)
        except ValueError:
            raise ValueError("expected an IP address, or one with :port") from None
        if address.port == 0:
            raise ValueError("0 is not a port") from None


def _database_url(text: str) -> None:
    scheme = urlsplit(text).scheme
    if scheme not in ("sqlite", "postgresql"):
        raise ValueError("expected sqlite:///path or postgresql://...")
    if scheme == "sqlite" and (not text.startswith("sqlite:///") or text == "sqlite:///"):
        raise ValueError("expected sqlite:///path")


def _web_page(text: str) -> None:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in text):
        raise ValueError("expected an http or https URL")
