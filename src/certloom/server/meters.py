"""What is counted on the way of every request: plain numbers, no locks, read when somebody asks for metrics.

A request costs two readings of a clock and half a microsecond here. Everything runs in the event loop.
"""

from __future__ import annotations

from bisect import bisect_left

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of requests' durations; the last bucket has none."""
PROTOCOLS = ("acme", "est", "ocsp", "api", "console", "pages")
CLASSES = ("1xx", "2xx", "3xx", "4xx", "5xx")
_EST = "/.well-known/est/"
_LOGIN = ("/api/v1/sessions", "/console/login")


class Meter:
    """The requests of one protocol on one listener."""

    __slots__ = ("buckets", "classes", "limited", "login_failures", "seconds", "unauthenticated")

    def __init__(self) -> None:
        self.buckets = [0] * (len(SECONDS) + 1)
        self.seconds = 0.0
        self.classes = [0] * 6
        """By the first digit of the status."""
        self.unauthenticated = 0
        """Answers 401."""
        self.limited = 0
        """Answers 429."""
        self.login_failures = 0
        """Logins that were refused."""

    def count(self, path: str, status: int, seconds: float) -> None:
        """One request was answered."""
        self.buckets[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds
        self.classes[status // 100] += 1
        if status >= 400:
            self._refused(path, status)

    def _refused(self, path: str, status: int) -> None:
        if status == 401:
            self.unauthenticated += 1
        elif status == 429:
            self.limited += 1
        if status in (401, 403) and path.startswith(_LOGIN):
            self.login_failures += 1


class Meters:
    """The requests of one listener."""

    __slots__ = ("acme", "api", "console", "est", "listener", "ocsp", "pages", "refused")

    def __init__(self, listener: str) -> None:
        self.listener = listener
        self.acme = Meter()
        self.est = Meter()
        self.ocsp = Meter()
        self.api = Meter()
        self.console = Meter()
        self.pages = Meter()
        self.refused: dict[int, int] = {}
        """By status: what was refused before any protocol was asked (too large, too slow, not HTTP)."""

    def count(self, path: str, status: int, seconds: float) -> None:
        """One request was answered; ``seconds`` is how long that took, from the request's last octet on."""
        if path.startswith("/acme/"):
            meter = self.acme
        elif _EST in path:
            meter = self.est
        elif path.startswith("/ocsp"):
            meter = self.ocsp
        elif path.startswith("/api/"):
            meter = self.api
        elif path.startswith("/console"):
            meter = self.console
        else:
            meter = self.pages
        meter.count(path, status, seconds)

    def refuse(self, status: int) -> None:
        """Something that came in was refused before any protocol was asked."""
        self.refused[status] = self.refused.get(status, 0) + 1

    def by_protocol(self) -> list[tuple[str, Meter]]:
        """All that have counted something."""
        meters = [(name, getattr(self, name)) for name in PROTOCOLS]
        return [(name, meter) for name, meter in meters if any(meter.buckets)]
