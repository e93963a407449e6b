"""Every resource of the API. Who adds one adds its module here: importing it puts its routes in the table."""

from __future__ import annotations

from importlib import import_module

from certloom.api.routing import ROUTES, Route

MODULES = (
    "approvals",
    "audit",
    "authorities",
    "authority_imports",
    "certificates",
    "channels",
    "credentials",
    "declarations",
    "documents",
    "generations",
    "jobs",
    "keys",
    "people",
    "plans",
    "profiles",
    "requests",
    "roles",
    "rules",
    "sessions",
    "system",
    "teams",
    "trust_anchors",
    "webhooks",
)


def table() -> tuple[Route, ...]:
    """The whole table of routes."""
    for name in MODULES:
        import_module(f"certloom.api.{name}")

    return tuple(ROUTES)
