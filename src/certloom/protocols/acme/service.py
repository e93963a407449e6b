"""What the ACME handlers share: the parts they work with, and who is asking (RFC 8555 section 6.2)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

from certloom.clock import Clock
from certloom.enrollment.books import Books
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.revoke import Revoker
from certloom.identity.credentials import Credentials
from certloom.jobs import Runner
from certloom.protocols.acme import jws
from certloom.protocols.acme.exchange import Exchange
from certloom.protocols.acme.jwk import AccountKey, account_key
from certloom.protocols.acme.nonces import Nonces, bad_nonce
from certloom.protocols.acme.problems import Problem, malformed
from certloom.protocols.acme.states import AccountStatus
from certloom.settings.schema import Settings
from certloom.store import acme as statements
from certloom.store.acme import StoredAccount
from certloom.store.base import Store, Tx
from certloom.validation import CAAChecker, Validated, Validator

T = TypeVar("T")

_REMEMBERED = 4096
"""Accounts kept in memory, at about half a kilobyte each."""


class ACMEService:
    """Every channel of this process. Handlers take it as their first argument."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        enrollment: Enrollment,
        revoker: Revoker,
        validator: Validator,
        caa: CAAChecker,
        credentials: Credentials,
        runner: Runner,
        books: Books,
        settings: Settings,
    ) -> None:
        self.store = store
        self.clock = clock
        self.enrollment = enrollment
        self.revoker = revoker
        self.validator = validator
        self.caa = caa
        self.credentials = credentials
        self.runner = runner
        self.books = books
        self.settings = settings
        self.checks: dict[tuple[str, str], asyncio.Task[Validated]] = {}
        """Checks under way that no job has yet, by authorization and challenge type."""
        self._accounts: dict[str, StoredAccount] = {}
        # Where no other process can write, an account that has been read stays as it is until this one says
        # otherwise. It is forgotten before whoever changed it is told that the change is done.
        self._may_remember = store.dialect == "sqlite"
        store.listen(statements.ACCOUNTS, self._accounts.clear)
        self.nonces = Nonces(clock, settings.acme.nonce_seconds, settings.acme.refuse_good_nonces)

    def account(self, tx: Tx, id: str) -> StoredAccount | None:
        """The account as it is now. For reading units: a writer that relies on it must read it itself."""
        account = self._accounts.get(id)
        if account is None:
            account = statements.account(tx, id)
            if account is not None and self._may_remember:
                if len(self._accounts) >= _REMEMBERED:
                    self._accounts.clear()
                self._accounts[id] = account
        return account


class Signed(msgspec.Struct, Generic[T], frozen=True, gc=False):
    """A request whose signature verified with an account's key."""

    account: StoredAccount
    key: AccountKey
    payload: bytes
    loaded: T
    """What the handler asked to be read in the same unit as the account."""


def read_jws(service: ACMEService, x: Exchange) -> jws.Unverified:
    """Take the JWS apart and check all of it but the signature; its nonce is used up.

    Raises ``malformed``, ``badSignatureAlgorithm``, ``unauthorized`` (another URL) or ``badNonce``.
    """
    request = jws.read(x.body)
    jws.check_algorithm(request)
    if request.url != x.url:
        raise Problem("unauthorized", f"the JWS is for another URL; this one is {x.url}")
    if request.nonce is None:
        raise bad_nonce()
    service.nonces.use(request.nonce)
    return request


def nothing(tx: Tx, account: StoredAccount) -> None:
    """For handlers that need the account only."""


async def by_account(service: ACMEService, x: Exchange, load: Callable[[Tx, StoredAccount], T]) -> Signed[T]:
    """A request signed by an account of this channel, together with what ``load`` reads.

    One unit reads both, before the signature is checked. Raises a ``Problem`` as ``read_jws``, and
    ``accountDoesNotExist`` or ``unauthorized`` (401: RFC 8555 section 7.3.6).
    """
    request = read_jws(service, x)
    if request.kid is None:
        raise malformed("this request must be signed by an account, named in kid")
    prefix = x.site.account
    if not request.kid.startswith(prefix):
        raise Problem("accountDoesNotExist", "kid is not the URL of an account of this channel")
    id, channel = request.kid[len(prefix) :], x.channel.name

    def unit(tx: Tx) -> tuple[StoredAccount, T] | None:
        account = service.account(tx, id)
        if account is None or account.channel != channel:
            return None
        return account, load(tx, account)

    found = await service.store.read(unit)
    if found is None:
        raise Problem("accountDoesNotExist", "there is no such account on this channel")
    account, loaded = found
    key = account_key(account.jwk)
    jws.verify(request, key)
    if account.status != AccountStatus.VALID:
        raise Problem("unauthorized", f"the account is {account.status}", status=401)
    return Signed(account, key, request.payload, loaded)


def expect_get(payload: bytes) -> None:
    """RFC 8555 section 6.3: what only fetches has the empty payload, not ``{}``."""
    if payload:
        raise malformed("this resource can only be fetched, by POST-as-GET with an empty payload")


def require_terms(service: ACMEService, account: StoredAccount) -> None:
    """RFC 8555 section 7.3.3: terms that have changed must be agreed to before anything new is asked for."""
    terms = service.settings.acme.terms_of_service
    if terms and account.terms != terms:
        raise Problem(
            "userActionRequired",
            "the terms of service must be agreed to: visit the instance URL, then update the account with"
            " termsOfServiceAgreed true",
            instance=terms,
            links=(("terms-of-service", terms),),
        )
