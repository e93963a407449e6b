"""Server-rendered pages: logging in, and deciding about what waits for people."""

from certloom.console.app import Console

__all__ = ["Console"]
