"""Every part of the product that needs the database, put together: for the server and for offline commands.

Here the rooms are handed to one another; ``server.app`` adds what only a running server has (protocols,
listeners, jobs that run, its own TLS certificate).
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from dataclasses import dataclass

import structlog

from certloom.audit import Checkpoints
from certloom.authorities.certifying import Certifier
from certloom.authorities.conversion import enter_ca_certificates, hand_over_keys
from certloom.authorities.ct import CTLogs
from certloom.authorities.lint import Linter
from certloom.authorities.local import URLs
from certloom.authorities.registration import RegistrationAuthorities
from certloom.authorities.registry import Authorities, UnknownKey
from certloom.clock import Clock
from certloom.enrollment.approvals import Approvals
from certloom.enrollment.books import Books
from certloom.enrollment.compromise import Compromise
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.revoke import CRL_JOB, Revoker
from certloom.enrollment.server_keys import ServerKeys
from certloom.identity.credentials import Credentials
from certloom.identity.login import Logins
from certloom.identity.oidc import Provider
from certloom.identity.oidc_login import OIDCLogins
from certloom.identity.passwords import Passwords
from certloom.identity.people import People
from certloom.jobs import Runner
from certloom.notifications import Notices, Webhooks
from certloom.outbound.http import HTTPClient
from certloom.secrets import DataKey, load_key
from certloom.server.data_dir import DataDir
from certloom.server.first_run import complete_first_run
from certloom.server.outgoing import http_client, mailer
from certloom.server.signer import open_signing
from certloom.settings import Origins, Settings, origins
from certloom.signing import Signing
from certloom.status.crl import CRLPublisher
from certloom.status.ocsp import OCSPResponder
from certloom.store import configuration, open_store
from certloom.store.base import Store

_log = structlog.get_logger("certloom.server")


@dataclass(frozen=True, slots=True)
class Rooms:
    """All parts, opened. ``close`` them in the end."""

    settings: Settings
    clock: Clock
    data_dir: DataDir
    origins: Origins
    node: str
    store: Store
    data_key: DataKey
    signing: Signing
    linter: Linter
    ct_logs: CTLogs
    authorities: Authorities
    certifier: Certifier
    books: Books
    credentials: Credentials
    runner: Runner
    enrollment: Enrollment
    approvals: Approvals
    server_keys: ServerKeys
    revoker: Revoker
    registration: RegistrationAuthorities
    compromise: Compromise
    crls: CRLPublisher
    ocsp: OCSPResponder
    checkpoints: Checkpoints
    people: People
    logins: Logins
    oidc: OIDCLogins | None
    """Login through the identity provider, where settings name one."""
    http: HTTPClient
    """For webhooks and identity providers."""
    webhooks: Webhooks
    notices: Notices

    async def refresh(self) -> bool:
        """Take up changes of the configuration; answer whether there were any."""
        generation = await self.store.read(configuration.generation)
        if generation == self.books.generation:
            return False
        await self.authorities.load()
        try:
            await self.books.refresh()
        except UnknownKey:
            generation = -1  # made after the keys were read
        if self.books.generation != generation:
            # Changed again in between: authorities must not be older than the books.
            await self.authorities.load()
            await self.books.refresh()
        self.ocsp.load()
        return True

    async def close(self) -> None:
        """Give back what is held and close the store; whatever fails on the way is logged."""
        self.notices.close()
        self.logins.close()
        for name, close in (
            ("authorities", self.books.close),
            ("linter", self.linter.close),
            ("HTTP client", self.http.close),
            ("signer", self.signing.close),
        ):
            try:
                await close()
            except Exception:
                _log.exception("not closed cleanly", part=name)
        await self.store.close()


def _publish_seconds(authorities: Authorities, name: str) -> int:
    """How long an authority's CRLs may wait for further revocations."""
    found = authorities.local.get(name)
    return 0 if found is None else found.publish_seconds


def _oidc(
    settings: Settings, store: Store, clock: Clock, logins: Logins, provider: Provider
) -> OIDCLogins | None:
    return OIDCLogins(store, clock, logins, settings.oidc, provider) if settings.oidc.issuer else None


async def open_rooms(
    settings: Settings, clock: Clock, *, ports: dict[str, int] | None = None, serve: bool = False
) -> Rooms:
    """Open the store, complete the first run if need be, and put all parts together.

    ``ports`` are those that the listeners really have; ``serve`` locks the data directory. Raises
    ``StoreError``, ``SecretError``, ``DataDirError`` or ``SettingsError``.
    """
    data_dir = DataDir(settings)
    data_dir.prepare()
    data_dir.refuse_half_restored()
    if serve:
        data_dir.lock()
    host = socket.gethostname()
    node = f"{host}/{os.getpid()}/{secrets.token_hex(4)}"
    seen = origins(settings, socket.getfqdn() or host, ports)
    urls = URLs(seen.http)
    store = await open_store(data_dir.database_url, clock=clock, connections=settings.database.connections)
    linter = Linter()
    signing: Signing | None = None
    try:
        data_key = await asyncio.to_thread(load_key, settings.secrets, data_dir.data_key)
        credentials = Credentials(data_key, clock)
        signing = await open_signing(settings, data_dir, clock, serve=serve)
        await complete_first_run(store, clock, data_key, signing, credentials, urls)
        await hand_over_keys(store, data_key, signing)
        await enter_ca_certificates(store, clock)
        http = http_client(settings)
        ct_logs = CTLogs(settings.ct, http, clock)
        authorities = Authorities(store, clock, signing, linter, urls, node, ct_logs)
        books = Books(store, authorities.make)
        runner = Runner(store, clock, node)
        enrollment = Enrollment(store, clock, books, runner, settings.enrollment)
        revoker = Revoker(store, clock, lambda name: _publish_seconds(authorities, name))
        people = People(clock)
        logins = Logins(store, clock, people, Passwords(), settings.api)
        webhooks = Webhooks(store, clock, data_key, http)
        notices = Notices(store, clock, runner, webhooks, mailer(settings), seen.https)
        enrollment.moves.on_waiting = notices.waiting
        enrollment.moves.on_decided = notices.decided
        rooms = Rooms(
            settings=settings,
            clock=clock,
            data_dir=data_dir,
            origins=seen,
            node=node,
            store=store,
            data_key=data_key,
            signing=signing,
            linter=linter,
            ct_logs=ct_logs,
            authorities=authorities,
            certifier=Certifier(store, clock, signing, urls, linter),
            books=books,
            credentials=credentials,
            runner=runner,
            server_keys=ServerKeys(store, clock, data_key),
            enrollment=enrollment,
            approvals=Approvals(store, clock, enrollment),
            revoker=revoker,
            registration=RegistrationAuthorities(
                store, clock, signing, node, lambda: authorities.local, authorities.generations
            ),
            compromise=Compromise(clock, revoker, runner),
            crls=CRLPublisher(store, clock, runner, lambda: dict(authorities.local), CRL_JOB),
            ocsp=OCSPResponder(
                store, clock, signing, node, lambda: authorities.local, authorities.generations
            ),
            checkpoints=Checkpoints(store, clock, data_key),
            people=people,
            logins=logins,
            oidc=_oidc(settings, store, clock, logins, Provider(settings.oidc, http, clock, data_key)),
            http=http,
            webhooks=webhooks,
            notices=notices,
        )
        await rooms.refresh()
    except BaseException:
        if signing is not None:
            await signing.close()
        await store.close()
        raise
    return rooms
