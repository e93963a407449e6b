"""The lab and the servers, as for the client tests."""

from tests.clients.conftest import lab, servers

__all__ = ["lab", "servers"]
