"""A whole pipeline over a test's store, for tests of the rooms that stand on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec

from certloom.audit import SYSTEM
from certloom.authorities import creation
from certloom.authorities.base import Authority
from certloom.authorities.lint import Linter
from certloom.authorities.local import KIND, LocalAuthority, LocalSigner, URLs
from certloom.authorities.serials import SerialPool
from certloom.clock import Clock
from certloom.enrollment.approvals import Approvals
from certloom.enrollment.books import Books
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.revoke import CRL_JOB, Revoker
from certloom.identity.credentials import Credentials
from certloom.jobs import Runner
from certloom.pki.certificates import issuer_facts
from certloom.pki.names import parse_name
from certloom.policy.channels import ACMEChannel
from certloom.policy.profiles import Profile, default_profiles, encode_profile
from certloom.secrets import DataKey
from certloom.status.crl import CRLPublisher
from certloom.store import Store, configuration
from certloom.store import authorities as authority_statements
from certloom.store.authorities import StoredAuthority
from certloom.store.base import Tx

DATA_KEY = DataKey(bytes(range(32)))
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
    credentials: Credentials
    crls: CRLPublisher

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

    async def put_channel(self, channel: ACMEChannel) -> None:
        def unit(tx: Tx) -> None:
            body = msgspec.json.encode(channel).decode()
            configuration.put_channel(tx, "acme", channel.name, body, self.clock.now())
            configuration.touch(tx)

        await self.store.write(unit)
        await self.books.refresh()


async def prepare(store: Store, clock: Clock) -> None:
    """Root, issuing CA and the default profiles without lint, if they are not there yet."""
    if await store.read(authority_statements.every):
        return
    urls = URLs(BASE)
    now = clock.now()
    root = creation.make_local_ca(
        DATA_KEY, clock, urls, name="root", subject=parse_name("CN=Test Root"), days=7300
    )
    issuing = creation.make_local_ca(
        DATA_KEY,
        clock,
        urls,
        name="issuing",
        subject=parse_name("CN=Test Issuing"),
        days=3650,
        crl_shards=16,
        issuer=(root.authority, root.private_key),
    )

    def unit(tx: Tx) -> None:
        for made in (root, issuing):
            authority_statements.insert_key(tx, made.key)
            authority_statements.insert(tx, made.authority)
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

    keys = {
        row.name: await store.read(partial(authority_statements.key, id=row.key_id or ""))
        for row in await store.read(authority_statements.every)
    }

    def make(row: StoredAuthority) -> Authority:
        assert row.kind == KIND
        key = keys[row.name]
        assert key is not None
        signer = LocalSigner(
            row.name,
            issuer_facts(row.certificate),
            creation.open_key(DATA_KEY, key),
            URLs(BASE),
        )
        return LocalAuthority(
            row, signer, SerialPool(store, clock, row.name, node), linter, clock, books.authority_row
        )

    books = Books(store, make)
    await books.refresh()
    enrollment = Enrollment(store, clock, books, runner)
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
        Revoker(store, clock),
        Credentials(DATA_KEY, clock),
        crls,
    )
    await books.close()
    await linter.close()


def local(books: Books, name: str) -> LocalAuthority:
    authority = books.authority(name)
    assert isinstance(authority, LocalAuthority)
    return authority


__all__ = ["BASE", "DATA_KEY", "SYSTEM", "Core", "core", "prepare"]
