"""One request of a browser, authenticated and read."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from certloom.audit import Origin
from certloom.console import forms
from certloom.identity.principals import Principal

COOKIE = "__Host-certloom"
"""The session; the API takes it as well."""
FORM_COOKIE = "__Host-certloom-form"
"""What the login form is bound to, before there is a session."""
OIDC_COOKIE = "__Host-certloom-oidc"
"""What must be remembered on the way to the identity provider and back; sealed."""


class Visit(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks what."""

    posts: bool
    """Whether it is a form; it has then been checked to come from one of our pages."""
    path: str
    query: Mapping[str, str]
    fields: Mapping[str, str]
    cookies: Mapping[str, str]
    secret: str
    """The session's; empty where there is none."""
    principal: Principal | None
    origin: Origin
    base_url: str

    @property
    def token(self) -> str:
        """What this session's forms carry."""
        return forms.token(self.secret)

    def __repr__(self) -> str:
        return f"Visit({self.path})"
