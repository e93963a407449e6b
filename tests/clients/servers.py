"""The servers that a session's client tests run against, each started when a test first wants it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.clients.checks import Obtained
from tests.clients.lab import Lab
from tests.clients.server import Certloom, Section
from tests.clients.target import Target
from tests.postgresql import Cluster

_CHANNELS = """
[[channels]]
protocol = "acme"
name = "open"
profiles = ["tls-server"]

[[channels]]
protocol = "acme"
name = "bound"
profiles = ["tls-server"]
eab_required = true
"""


class Servers:
    """One shared server for each kind of database, and further ones for tests that need their own."""

    def __init__(self, lab: Lab, folder: Path, postgresql: Callable[[], Cluster]) -> None:
        self._lab, self._folder, self._postgresql = lab, folder, postgresql
        self._running: dict[str, Certloom] = {}

    def another(
        self, folder: Path, *, database: str = "sqlite", plain: bool = False, **sections: Section
    ) -> Certloom:
        """A server of the test's own, not started yet."""
        url = ""
        if database == "postgresql":
            cluster = self._postgresql()
            url = cluster.url(cluster.create())
        return Certloom(folder / "certloom", self._lab, database_url=url, plain=plain, **sections)

    def certloom(self, database: str = "sqlite") -> Certloom:
        """The shared server."""
        if database not in self._running:
            server = self.another(self._folder / database, database=database).start()
            self._running[database] = server
            server.apply(_CHANNELS)
        return self._running[database]

    def target(self, *, eab: bool = False, database: str = "sqlite") -> Target:
        """A channel of the shared server: with ``eab``, one that requires it, and a credential for it."""
        server = self.certloom(database)
        return server.target("bound", server.new_eab("bound")) if eab else server.target("open")

    def assert_revoked(
        self, obtained: Obtained, *, reason: int | None = None, database: str = "sqlite"
    ) -> None:
        """The certificate must be on the CRL that it names, with this reason."""
        self.certloom(database).assert_revoked(obtained, reason)

    def close(self) -> None:
        for server in self._running.values():
            assert server.stop() == 0, server.printed()[-4000:]
