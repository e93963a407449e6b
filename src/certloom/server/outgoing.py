"""What connects outwards on an operator's word: HTTP to webhooks and identity providers, and email."""

from __future__ import annotations

import ssl

from certloom.notifications import Mailer
from certloom.outbound.guard import AddressGuard
from certloom.outbound.http import HTTPClient
from certloom.outbound.resolver import Resolver
from certloom.settings import Settings, SettingsError


def http_client(settings: Settings) -> HTTPClient:
    """The client of this process; needs a running event loop. Raises ``SettingsError``."""
    tls = ssl.create_default_context()
    roots = settings.outbound.roots
    if roots:
        try:
            tls.load_verify_locations(cafile=roots)
        except (OSError, ssl.SSLError) as error:
            why = getattr(error, "strerror", None) or str(error)
            raise SettingsError("settings", [f"$.outbound.roots: {roots!r}: {why}"]) from None
    guard = AddressGuard(allow=settings.outbound.allow_addresses)
    return HTTPClient(Resolver(settings.validation.resolvers), guard, tls=tls)


def mailer(settings: Settings) -> Mailer | None:
    """What sends email, if a server is configured. Raises ``SettingsError``."""
    if not settings.mail.host:
        return None
    try:
        return Mailer(settings.mail)
    except ValueError as error:
        raise SettingsError("settings", [f"$.{error}"]) from None
