"""Prometheus metrics: what the meters, the store and the audit log know, in the exposition format.

Counters of certificates and requests are counted from the audit log as it is linked, so they cost the
enrolment nothing, and on PostgreSQL each event is counted on one node only. What needs the database is read
at most every 30 seconds, on a reader thread, from indexes (``store.standing``).
"""

from __future__ import annotations

import asyncio
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

import msgspec
import structlog
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder

from certloom import __version__
from certloom.server.connections import Connections
from certloom.server.meters import CLASSES, SECONDS, Meters
from certloom.server.rooms import Rooms
from certloom.signing import SigningError, SigningStatus
from certloom.store import standing
from certloom.store.base import StoreError
from certloom.store.standing import HORIZONS, Standing
from certloom.store.timing import COMMIT_SECONDS

_REFRESH_SECONDS = 30
_SHARE = 50
"""What is read from the database takes at most one part in so many of the time."""
_WAIT_SECONDS = 5.0
_MOST_SERIES = 2_000
_DAY = 86_400

_log = structlog.get_logger("certloom.metrics")


class _Told(msgspec.Struct):
    """What is read out of an event's data."""

    profile: str = ""
    protocol: str = ""
    reason: int | None = None


_decode = msgspec.json.Decoder(_Told).decode

_COUNTED = {
    "certificate.issued": "issued",
    "certificate.revoked": "revoked",
    "certificate.held": "held",
    "request.denied": "refused",
    "request.failed": "refused",
}


class Tally:
    """Certificates issued, refused and revoked since this process began, by profile and protocol."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.linked = 0

    def observe(self, events: Sequence[tuple[str, str]]) -> None:
        """Count events that were just linked; see ``audit.chain.link``."""
        self.linked += len(events)
        for kind, data in events:
            what = _COUNTED.get(kind)
            if what is None:
                continue
            try:
                told = _decode(data)
            except msgspec.DecodeError:
                continue
            self.counts[what, told.profile, told.protocol] += 1


class Metrics:
    """Everything that can be measured of one process."""

    def __init__(self, rooms: Rooms, connections: Connections) -> None:
        self.meters: list[Meters] = []
        self.tally = Tally()
        self._rooms = rooms
        self._connections = connections
        self._standing: Standing | None = None
        self._signer: SigningStatus | None = None
        self._read_at = -1e9
        self._pause = float(_REFRESH_SECONDS)
        self._reading: asyncio.Task[None] | None = None
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def meter(self, listener: str) -> Meters:
        """What a listener counts its requests with."""
        meters = Meters(listener)
        self.meters.append(meters)
        return meters

    async def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where that is wanted, else the text format."""
        await self.standing()
        self._signer = await self._look_at_signer()
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    async def _look_at_signer(self) -> SigningStatus | None:
        try:
            async with asyncio.timeout(_WAIT_SECONDS):
                return await self._rooms.signing.status()
        except (TimeoutError, SigningError):
            return None

    async def standing(self) -> Standing | None:
        """How things stood in the database lately; None while that cannot be found out."""
        loop = asyncio.get_running_loop()
        if self._reading is None and loop.time() >= self._read_at + self._pause:
            self._reading = loop.create_task(self._read())
        if self._reading is not None:
            # Whoever asks does not wait for a slow database longer than this; the reading goes on.
            await asyncio.wait((self._reading,), timeout=_WAIT_SECONDS)
        return self._standing

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            now = self._rooms.clock.now()
            self._standing = await self._rooms.store.scan(lambda tx: standing.read(tx, now))
        except StoreError as error:
            _log.warning("metrics.store", error=str(error))
        finally:
            self._read_at = loop.time()
            self._pause = max(_REFRESH_SECONDS, (self._read_at - began) * _SHARE)
            self._reading = None

    # -- the families ------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """All families; the registry's call."""
        store = self._rooms.store
        build = {"version": __version__, "python": platform.python_version(), "database": store.dialect}
        yield InfoMetricFamily("certloom_build", "What runs here.", build)
        yield from self._requests()
        yield from self._certificates()
        yield _gauge("certloom_connections_open", "Open connections.", len(self._connections.open))
        yield _gauge("certloom_requests_in_flight", "Requests being answered.", self._connections.in_flight)
        counts, total = store.times.read()
        commits = HistogramMetricFamily("certloom_store_commit_seconds", "How long commits took.")
        commits.add_metric([], _buckets(COMMIT_SECONDS, counts), total)
        yield commits
        signer = self._signer
        yield _gauge("certloom_signer_up", "Whether the signer answers.", signer is not None)
        if signer is not None:
            apart = "Whether the server could not read the signer's keys."
            yield _gauge("certloom_signer_isolated", apart, signer.isolated)
            unusable = sum(bool(key.trouble) for key in signer.keys)
            yield _gauge("certloom_signer_keys_unusable", "Keys that cannot be used just now.", unusable)
        yield _gauge("certloom_store_queue_units", "Units of work that wait for the store.", store.waiting)
        logged = CounterMetricFamily(
            "certloom_ct_submissions",
            "Precertificates sent to Certificate Transparency logs.",
            labels=("log", "outcome"),
        )
        for (log, outcome), count in sorted(self._rooms.ct_logs.counts.items()):
            logged.add_metric([log, outcome], count)
        yield logged
        yield from self._ocsp()
        linked = CounterMetricFamily("certloom_audit_events", "Events linked into the chain by this process.")
        linked.add_metric([], self.tally.linked)
        yield linked
        if self._standing is not None:
            yield from self._stood(self._standing)

    def _requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "certloom_requests", "Requests answered.", labels=("listener", "protocol", "status")
        )
        seconds = HistogramMetricFamily(
            "certloom_request_seconds", "How long answers took.", labels=("listener", "protocol")
        )
        failures = CounterMetricFamily(
            "certloom_authentication_failures", "Requests answered 401.", labels=("listener", "protocol")
        )
        logins = CounterMetricFamily("certloom_login_failures", "Logins refused.", labels=("listener",))
        limited = CounterMetricFamily(
            "certloom_requests_rate_limited", "Requests answered 429.", labels=("listener", "protocol")
        )
        refused = CounterMetricFamily(
            "certloom_requests_malformed",
            "What was refused before it was a request of any protocol.",
            labels=("listener", "status"),
        )
        for meters in self.meters:
            for status, count in sorted(meters.refused.items()):
                refused.add_metric([meters.listener, str(status)], count)
            failed = 0
            for protocol, meter in meters.by_protocol():
                labels = [meters.listener, protocol]
                for name, count in zip(CLASSES, meter.classes[1:], strict=True):
                    if count:
                        requests.add_metric([*labels, name], count)
                seconds.add_metric(labels, _buckets(SECONDS, meter.buckets), meter.seconds)
                failures.add_metric(labels, meter.unauthenticated)
                limited.add_metric(labels, meter.limited)
                failed += meter.login_failures
            logins.add_metric([meters.listener], failed)
        yield from (requests, seconds, failures, logins, limited, refused)

    def _certificates(self) -> Iterator[Metric]:
        refusals = Counter(self.tally.counts)
        known = self._rooms.books.has_profile
        for (profile, protocol), count in self._rooms.enrollment.refusals.items():
            refusals["refused", profile if known(profile) else "", protocol] += count
        for what, text in (
            ("issued", "Certificates issued."),
            ("refused", "Asks for certificates that policy, people or an authority refused."),
            ("revoked", "Certificates revoked."),
            ("held", "Certificates put on hold."),
        ):
            family = CounterMetricFamily(
                f"certloom_certificates_{what}", text, labels=("profile", "protocol")
            )
            for (kind, profile, protocol), count in sorted(refusals.items())[:_MOST_SERIES]:
                if kind == what:
                    family.add_metric([profile, protocol], count)
            yield family

    def _ocsp(self) -> Iterator[Metric]:
        ocsp = self._rooms.ocsp
        answers = CounterMetricFamily(
            "certloom_ocsp_answers", "OCSP requests answered.", labels=("answer", "source")
        )
        for (answer, source), count in sorted(ocsp.counts.items()):
            answers.add_metric([answer, source], count)
        yield answers
        signed = CounterMetricFamily("certloom_ocsp_signatures", "Signatures made for OCSP answers.")
        signed.add_metric([], ocsp.batches.signed)
        yield signed
        yield _gauge("certloom_ocsp_kept_answers", "OCSP answers that are kept.", len(ocsp.cache))
        yield _gauge("certloom_ocsp_kept_bytes", "What they take, about.", ocsp.cache.octets)

    def _stood(self, seen: Standing) -> Iterator[Metric]:
        now = self._rooms.clock.now()
        yield _gauge("certloom_standing_age_seconds", "How old what the database said is.", now - seen.now)
        yield _gauge("certloom_approvals_waiting", "Questions that wait for people.", seen.approvals_waiting)
        jobs = GaugeMetricFamily("certloom_jobs", "Background jobs.", labels=("state",))
        for state in ("waiting", "running", "failed"):
            jobs.add_metric([state], seen.jobs.get(state, 0))
        yield jobs
        oldest = 0 if seen.oldest_due_ms is None else max(0.0, seen.now - seen.oldest_due_ms / 1000)
        yield _gauge("certloom_jobs_overdue_seconds", "How long ago the oldest waiting job was due.", oldest)
        expiring = GaugeMetricFamily(
            "certloom_certificates_expiring",
            "Certificates, neither revoked nor replaced, that expire within so many days.",
            labels=("days",),
        )
        for horizon, count in zip(HORIZONS, seen.expiring, strict=True):
            expiring.add_metric([str(horizon // _DAY)], count)
        yield expiring
        yield _gauge(
            "certloom_certificates_expired_unreplaced",
            "Certificates, neither revoked nor replaced, that expired within the last 30 days.",
            seen.expired,
        )
        age = GaugeMetricFamily(
            "certloom_crl_age_seconds", "Age of an authority's oldest CRL.", labels=("authority",)
        )
        left = GaugeMetricFamily(
            "certloom_crl_valid_seconds",
            "Time until the first of an authority's CRLs is no longer good; negative when it is not.",
            labels=("authority",),
        )
        for crls in seen.crls:
            age.add_metric([crls.authority], now - crls.oldest)
            left.add_metric([crls.authority], crls.soonest - now)
        yield from (age, left)
        responder = GaugeMetricFamily(
            "certloom_ocsp_responder_valid_seconds",
            "Time until the certificate of an authority's OCSP responder ends.",
            labels=("authority", "generation"),
        )
        for authority, generation, not_after in seen.responders:
            responder.add_metric([authority, str(generation)], not_after - now)
        yield responder
        yield _gauge("certloom_audit_unlinked_events", "Events not in the chain yet.", seen.unlinked)
        yield _gauge("certloom_audit_sequence", "Number of the chain's last event.", seen.head)
        if self._rooms.settings.audit.syslog:
            behind = seen.head - (seen.forwarded or 0)
            yield _gauge("certloom_audit_syslog_behind_events", "Linked events that syslog has not.", behind)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _buckets(bounds: Iterable[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    names = [*(str(bound) for bound in bounds), "+Inf"]
    return list(zip(names, accumulate(counts), strict=True))
