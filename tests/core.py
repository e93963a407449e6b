"""A whole pipeline over a test's store, for tests of the rooms that stand on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec

from certloom.audit import SYSTEM
from certloom.authorities import creation
from certloom.authorities.lint import Linter
from certloom.authorities.local import LocalAuthority, URLs
from certloom.authorities.registry import Authorities
from certloom.clock import Clock
from certloom.enrollment.approvals import Approvals
from certloom.enrollment.books import Books
from certloom.enrollment.compromise import Compromise
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.revoke import CRL_JOB, Revoker
from certloom.identity.credentials import Credentials
from certloom.jobs import Runner
from certloom.pki.names import parse_name
from certloom.policy.channels import Channel, protocol_of
from certloom.policy.profiles import Profile, default_profiles, encode_profile
from certloom.secrets import DataKey
from certloom.signing.service import Service
from certloom.status.crl import CRLPublisher
from certloom.store import Store, configuration
from certloom.store import authorities as authority_statements
from certloom.store.base import Tx

DATA_KEY = DataKey(bytes(range(32)))
SIGNER_KEY = DataKey(bytes(range(1, 33)))
BASE = "http://pki.test:8080"


@dataclass
class Core:
    """The parts, as wired."""

    store: Store
    clock: Clock
    books: Books
    runner: Runner
    linter: Linter
    enrollment: Enrollment
    approvals: Approvals
    revoker: Revoker
    compromise: Compromise
    credentials: Credentials
    crls: CRLPublisher
    signing: Service

    def local(self, name: str = "issuing") -> LocalAuthority:
        return local(self.books, name)

    async def put_profile(self, profile: Profile, version: int) -> None:
        """Add a version of a profile, as ``apply`` would."""

        def unit(tx: Tx) -> None:
            configuration.add_profile_version(
                tx, profile.name, version, encode_profile(profile), self.clock.now()
            )
            configuration.touch(tx)

        await self.store.write(unit)
        await self.books.refresh()

    async def put_channel(self, channel: Channel) -> None:
        def unit(tx: Tx) -> None:
            body = msgspec.json.encode(channel).decode()
            configuration.put_channel(tx, protocol_of(channel), channel.name, body, self.clock.now())
            configuration.touch(tx)

        await self.store.write(unit)
        await self.books.refresh()


async def prepare(store: Store, clock: Clock) -> None:
    """Root, issuing CA and the default profiles without lint, if they are not there yet."""
    if await store.read(authority_statements.every):
        return
    urls = URLs(BASE)
    now = clock.now()
    signing = Service(SIGNER_KEY, clock)
    root = await creation.make_local_ca(
        signing, clock, urls, name="root", subject=parse_name("CN=Test Root"), days=7300
    )
    issuing = await creation.make_local_ca(
        signing,
        clock,
        urls,
        name="issuing",
        subject=parse_name("CN=Test Issuing"),
        days=3650,
        crl_shards=16,
        issuer=root.authority,
    )

    def unit(tx: Tx) -> None:
        for made in (root, issuing):
            # Tests count certificates: the CAs' own are left out of the inventory.
            msgspec.structs.replace(made, certificate=None).store(tx)
        for profile in default_profiles("issuing"):
            body = msgspec.json.decode(encode_profile(profile))
            body["lint"] = {"mode": "off"}
            configuration.add_profile_version(tx, profile.name, 1, msgspec.json.encode(body).decode(), now)
        configuration.touch(tx)

    await store.write(unit)


@asynccontextmanager
async def core(store: Store, clock: Clock, node: str = "node") -> AsyncIterator[Core]:
    """Everything up to the pipelines, over this store."""
    await prepare(store, clock)
    linter = Linter()
    runner = Runner(store, clock, node)

    signing = Service(SIGNER_KEY, clock)
    authorities = Authorities(store, clock, signing, linter, URLs(BASE), node)
    await authorities.load()
    books = Books(store, authorities.make)
    await books.refresh()
    enrollment = Enrollment(store, clock, books, runner)
    revoker = Revoker(store, clock)
    crls = CRLPublisher(
        store,
        clock,
        runner,
        lambda: {row.name: local(books, row.name) for row in books.authority_rows()},
        CRL_JOB,
    )
    yield Core(
        store,
        clock,
        books,
        runner,
        linter,
        enrollment,
        Approvals(store, clock, enrollment),
        revoker,
        Compromise(clock, revoker, runner),
        Credentials(DATA_KEY, clock),
        crls,
        signing,
    )
    await books.close()
    await linter.close()


def local(books: Books, name: str) -> LocalAuthority:
    authority = books.authority(name)
    assert isinstance(authority, LocalAuthority)
    return authority


__all__ = ["BASE", "DATA_KEY", "SYSTEM", "Core", "core", "prepare"]
