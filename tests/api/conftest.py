"""Installations, as the server's tests have them."""

from tests.server.conftest import either, installation, settings

__all__ = ["either", "installation", "settings"]
