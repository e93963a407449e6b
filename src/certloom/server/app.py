"""The server: the rooms put together with protocols, listeners and what runs by the clock.

``build`` wires, ``Application.run`` serves until it is told to stop. The order at the start: sockets are
bound (an address in use stops everything before anything is made), the store opens and the first run
completes, the HTTPS listener gets its certificate, jobs start, and only then does anybody listen. The stop is
the reverse: listeners close, requests in flight and jobs finish, serials are given back, the store closes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import signal
import socket
import ssl
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from certloom.api import idempotency
from certloom.api.app import API
from certloom.audit import chain
from certloom.audit.forwarding import Forwarder
from certloom.authorities.serials import burn_abandoned
from certloom.clock import Clock
from certloom.console import Console
from certloom.console.app import Parts as ConsoleParts
from certloom.identity.ratelimit import Limit
from certloom.protocols.acme.routes import ACMEApp
from certloom.protocols.acme.service import ACMEService
from certloom.protocols.est.routes import ESTApp, is_est
from certloom.protocols.est.service import ESTService
from certloom.server.admin import AdminApp
from certloom.server.ca_pages import roots_pem
from certloom.server.connections import ASGIApp, Connections, Listener
from certloom.server.data_dir import write_atomically
from certloom.server.health import Doctor
from certloom.server.http import protocol_factory
from certloom.server.metrics import Metrics
from certloom.server.metrics_app import MetricsApp
from certloom.server.ocsp import OCSPApp
from certloom.server.pages import Pages, below, refusal, where
from certloom.server.proxies import TrustedProxies
from certloom.server.retention import Retention
from certloom.server.rooms import Rooms, open_rooms
from certloom.server.services import services
from certloom.server.sockets import bind
from certloom.server.tls import ListenerTLS
from certloom.settings import Address, Settings
from certloom.signing import SigningUnavailable
from certloom.unix_sockets import bind_unix
from certloom.validation import Validator

_TLS_CLOSE_SECONDS = 3.0
_JOBS_GRACE_SECONDS = 5.0
_SAME_SIGNAL_SECONDS = 0.5
_ADMIN_BODY_BYTES = 32 * 1024 * 1024

_log = structlog.get_logger("certloom.server")


class _Open(msgspec.Struct, frozen=True):
    """A listener with its bound socket."""

    listener: Listener
    sock: socket.socket
    tls: ssl.SSLContext | None = None


class Application:
    """A server that is built and not yet listening. Made by ``build``."""

    def __init__(
        self, rooms: Rooms, validator: Validator, acme: ACMEApp, sockets: dict[str, socket.socket]
    ) -> None:
        self.rooms = rooms
        self.connections = Connections(rooms.clock, rooms.settings.limits.connections)
        self.tls = ListenerTLS(rooms)
        self._validator = validator
        self.sockets = sockets
        self._servers: list[asyncio.Server] = []
        self._stop = asyncio.Event()
        self._told_to_stop = 0.0
        self._trusted_as_of = -1
        """The generation of the configuration whose CAs the TLS listeners trust."""
        self._has_tls = not sockets.keys().isdisjoint(("https", "https_client"))
        self.metrics = Metrics(rooms, self.connections)
        pages = Pages(rooms, Doctor(rooms, self.metrics, lambda: not self._stop.is_set()))
        parts = services(rooms, self.metrics.render)
        api = API(parts)
        console = Console(
            ConsoleParts(
                store=rooms.store,
                approvals=rooms.approvals,
                authentication=parts.authentication,
                logins=rooms.logins,
                oidc=rooms.oidc,
                visits=Limit("visits", rooms.settings.api.requests_per_minute, rooms.clock),
            )
        )
        public = OCSPApp(rooms.ocsp, lambda: rooms.authorities.local, pages)
        est = ESTApp(
            ESTService(
                store=rooms.store,
                clock=rooms.clock,
                books=rooms.books,
                enrollment=rooms.enrollment,
                credentials=rooms.credentials,
                server_keys=rooms.server_keys,
                revoker=rooms.revoker,
                registration=rooms.registration,
                failures=Limit("failures", rooms.settings.api.failures_per_minute, rooms.clock),
            )
        )
        everything = below(
            "/acme/", acme, below("/api/", api, below("/console/", console, where(is_est, est, public)))
        )
        to_client: ASGIApp = below("/api/", api, where(is_est, est, pages))
        if rooms.settings.proxy.trusted:
            everything = TrustedProxies(everything, rooms.settings.proxy)
            to_client = TrustedProxies(to_client, rooms.settings.proxy)
        admin = AdminApp(below("/api/", api, pages))
        seen = rooms.origins
        apps: dict[str, tuple[ASGIApp, str, bool]] = {
            "https": (everything, seen.https, True),
            "http": (public, seen.http, False),
            "https_client": (to_client, seen.https_client, True),
            "acme_plain": (below("/acme/", acme, pages), seen.acme_plain, True),
            "admin": (admin, "", False),
            "metrics": (MetricsApp(self.metrics, pages), "", False),
        }
        contexts = {"https": self.tls.context, "https_client": self.tls.client_context}
        self._listeners = [
            _Open(self._listener(name, *apps[name]), sock, contexts.get(name))
            for name, sock in sockets.items()
        ]
        self._schedule()

    def _listener(self, name: str, app: ASGIApp, base_url: str, require_host: bool) -> Listener:
        limits = self.rooms.settings.limits
        if name == "admin":
            # Its owner's files of declarations are larger than what strangers may send.
            limits = msgspec.structs.replace(limits, body_bytes=max(limits.body_bytes, _ADMIN_BODY_BYTES))
        return Listener(
            name=name,
            app=app,
            base_url=base_url,
            limits=limits,
            connections=self.connections,
            require_host=require_host,
            refusal=refusal,
            meters=self.metrics.meter(name),
            asks_for_certificate=name == "https_client",
            limited=name != "admin",
        )

    def _schedule(self) -> None:
        rooms = self.rooms
        every = rooms.runner.every
        every(60, "https certificate", self.tls.keep if self._has_tls else _nothing)
        every(2, "configuration", self._refresh)
        every(60, "CRLs", rooms.crls.refresh)
        every(60, "roots", self._write_roots)
        every(60, "OCSP responders", rooms.ocsp.keep)
        every(10, "OCSP answers", rooms.ocsp.renew)
        every(60, "registration authorities", rooms.registration.keep_all)
        every(60, "approvals", rooms.approvals.expire)
        every(60, "server keys", rooms.server_keys.wipe_expired)
        retention = Retention(rooms.store, rooms.clock, rooms.settings.retention)
        every(3600, "retention", retention.prune)
        every(600, "idempotency keys", self._forget_answers)
        every(600, "sessions", rooms.logins.prune)
        every(1, "webhooks", rooms.notices.follow)
        every(60, "notices", rooms.notices.sweep)
        every(1, "audit chain", lambda: chain.link(rooms.store, self.metrics.tally.observe))
        every(rooms.settings.audit.checkpoint_seconds, "audit checkpoints", rooms.checkpoints.keep)
        if rooms.settings.audit.syslog:
            every(1, "syslog", Forwarder(rooms.store, rooms.clock, rooms.node, rooms.settings.audit).forward)
        if rooms.store.dialect != "sqlite":
            every(1, "OCSP status", rooms.ocsp.follow)
            every(600, "abandoned serials", lambda: burn_abandoned(rooms.store, rooms.clock, alone=False))

    async def _refresh(self) -> None:
        """Take up what another process, or the API of this one, has changed."""
        await self.rooms.refresh()
        if self.rooms.books.generation != self._trusted_as_of:
            self._trusted_as_of = self.rooms.books.generation
            self.tls.trust()

    async def _write_roots(self) -> None:
        """Keep the file of roots to trust as the authorities are."""
        path, roots = self.rooms.data_dir.root_pem, roots_pem(self.rooms.books)
        if not path.exists() or path.read_bytes() != roots:
            write_atomically(path, roots, 0o644)

    async def _forget_answers(self) -> None:
        rooms = self.rooms
        kept_since = rooms.clock.now() - rooms.settings.api.idempotency_seconds
        await idempotency.prune(rooms.store, kept_since)

    async def _tell_of_signer(self) -> None:
        """Say in the log what an operator may not know: that whoever has this process has the keys."""
        try:
            status = await self.rooms.signing.status()
        except SigningUnavailable as error:
            _log.warning("signer.unreachable", why=str(error))
            return
        if not status.isolated:
            _log.warning("signer is not isolated", why=status.why)

    async def start(self) -> None:
        """Do all that comes before listening, then listen. Raises ``TLSError`` or ``StoreError``."""
        rooms = self.rooms
        await burn_abandoned(rooms.store, rooms.clock, alone=rooms.store.dialect == "sqlite")
        await self._write_roots()
        await self._tell_of_signer()
        if self._has_tls:
            await self.tls.start()
        # Before anybody can ask for them, and before the first certificate names one.
        await rooms.crls.refresh()
        await rooms.runner.start()
        self.connections.start()
        loop = asyncio.get_running_loop()
        for listening in self._listeners:
            factory = protocol_factory(listening.listener)
            if listening.listener.name == "admin":
                server = await loop.create_unix_server(factory, sock=listening.sock)
            elif listening.tls is None:
                server = await loop.create_server(factory, sock=listening.sock, backlog=2048)
            else:
                server = await loop.create_server(
                    factory,
                    sock=listening.sock,
                    backlog=2048,
                    ssl=listening.tls,
                    ssl_handshake_timeout=rooms.settings.limits.header_seconds,
                    ssl_shutdown_timeout=_TLS_CLOSE_SECONDS,
                )
            self._servers.append(server)
            _log.info("listening", listener=listening.listener.name, at=_shown(listening.sock))
        _tune_garbage_collection()

    async def run(self, on_ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """Serve until SIGTERM or SIGINT (or ``stop``), then stop gracefully; a second signal ends it hard."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            await self.start()
            if on_ready is not None:
                await on_ready()
            await self._stop.wait()
        finally:
            await self.close()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        now = asyncio.get_running_loop().time()
        if self._stop.is_set():
            if now < self._told_to_stop + _SAME_SIGNAL_SECONDS:
                return  # a supervisor that tells the process and its group tells it twice
            _log.warning("stopped hard", signal=signal.Signals(number).name)
            os._exit(128 + number)
        _log.info("stopping", signal=signal.Signals(number).name, in_flight=self.connections.in_flight)
        self._told_to_stop = now
        self._stop.set()

    def stop(self) -> None:
        """Let ``run`` come to its end."""
        self._stop.set()

    async def close(self) -> None:
        """Stop in good order; see the module's text."""
        self._stop.set()
        for server in self._servers:
            server.close()
        for listening in self._listeners:
            listening.sock.close()
        cut = await self.connections.stop(self.rooms.settings.limits.stop_seconds)
        if cut:
            _log.warning("connections cut off", count=cut)
        await self.rooms.runner.stop(_JOBS_GRACE_SECONDS)
        await self._validator.close()
        await self.rooms.close()
        if "admin" in self.sockets:
            self.rooms.data_dir.admin_socket.unlink(missing_ok=True)
        self.rooms.data_dir.unlock()
        _log.info("stopped")


def _shown(sock: socket.socket) -> str:
    """Where it listens, as settings would say it."""
    at = sock.getsockname()
    return at if isinstance(at, str) else str(Address(at[0], at[1]))


async def _nothing() -> None:
    """What is done where there is nothing to do."""


async def build(settings: Settings, clock: Clock) -> Application:
    """Bind, open and wire everything.

    Raises ``ListenError``, ``DataDirError``, ``StoreError`` or ``SecretError``, each with a message for the
    operator; nothing is left open then.
    """
    sockets: dict[str, socket.socket] = {}
    try:
        for name in ("https", "https_client", "http", "acme_plain", "metrics"):
            address = getattr(settings.listen, name)
            if address:
                sockets[name] = bind(address)
        ports = {name: sock.getsockname()[1] for name, sock in sockets.items()}
        rooms = await open_rooms(settings, clock, ports=ports, serve=True)
    except BaseException:
        for sock in sockets.values():
            sock.close()
        raise
    sockets["admin"] = bind_unix(rooms.data_dir.admin_socket)
    validator = Validator(settings.validation, clock)
    acme = ACMEApp(
        ACMEService(
            store=rooms.store,
            clock=clock,
            enrollment=rooms.enrollment,
            revoker=rooms.revoker,
            validator=validator,
            caa=validator.caa,
            credentials=rooms.credentials,
            runner=rooms.runner,
            books=rooms.books,
            settings=settings,
        )
    )
    return Application(rooms, validator, acme, sockets)


def _tune_garbage_collection() -> None:
    """Keep the collector off what stays, and from running in every few requests.

    Requests make no reference cycles worth a walk over everything every 700 objects.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def raise_file_limit() -> None:
    """Let this process hold as many connections as the system allows it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
