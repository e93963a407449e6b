"""How long commits take: a histogram that the store's own threads fill, and metrics read."""

from __future__ import annotations

import threading
from bisect import bisect_left

COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds of the histogram's buckets; the last bucket has none."""


class CommitTimes:
    """Counts of commits by how long they took."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = [0] * (len(COMMIT_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """One commit, with the units that were in it, took this long."""
        bucket = bisect_left(COMMIT_SECONDS, seconds)
        with self._lock:
            self._counts[bucket] += 1
            self._sum += seconds

    def read(self) -> tuple[list[int], float]:
        """The count in each bucket, and the seconds of all together."""
        with self._lock:
            return self._counts.copy(), self._sum
