"""What EST's operations share."""

from __future__ import annotations

import structlog

from certloom.authorities.registration import RegistrationAuthorities
from certloom.clock import Clock
from certloom.enrollment.books import Books, UnknownName
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.revoke import Revoker
from certloom.enrollment.server_keys import ServerKeys
from certloom.identity.credentials import Credentials, PresentedCredential
from certloom.identity.ratelimit import Limit
from certloom.policy.channels import ESTChannel
from certloom.policy.profiles import Profile
from certloom.protocols.est.authentication import Authenticated, Authenticator, Peer
from certloom.protocols.est.problems import ESTProblem, retry_after
from certloom.protocols.est.signing import MessageSigner
from certloom.protocols.est.transactions import Transactions
from certloom.store.base import Store

_log = structlog.get_logger("certloom.est")


class ESTService:
    """All that handlers use. One per process."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        books: Books,
        enrollment: Enrollment,
        credentials: Credentials,
        server_keys: ServerKeys,
        revoker: Revoker,
        registration: RegistrationAuthorities,
        failures: Limit,
    ) -> None:
        self.store = store
        self.clock = clock
        self.books = books
        self.credentials = credentials
        self.server_keys = server_keys
        self.revoker = revoker
        self.signer = MessageSigner(clock, registration)
        self.transactions = Transactions(store, clock, enrollment, credentials)
        self._authenticator = Authenticator(store, clock, books, credentials)
        self._failures = failures

    async def authenticate(
        self,
        channel: ESTChannel,
        peer: Peer,
        *,
        renewal: bool = False,
        proven: PresentedCredential | None = None,
    ) -> Authenticated:
        """Who this is. Raises ``ESTProblem``: 401, 403, or 429 for an address that tried too often."""
        if peer.authorization is not None:
            self.check_failures(peer)
        try:
            return await self._authenticator.authenticate(channel, peer, renewal=renewal, proven=proven)
        except ESTProblem as problem:
            if problem.counted:
                self.count_failure(peer)
            raise

    def check_failures(self, peer: Peer) -> None:
        """Raise ``ESTProblem`` (429) while too many secrets were wrong that came from this address."""
        quota = self._failures.look(peer.address)
        if not quota.allowed:
            raise ESTProblem(429, "too many failed attempts from this address", retry_after(quota.reset))

    def count_failure(self, peer: Peer) -> None:
        """Somebody at this address tried a secret that is not good."""
        self._failures.take(peer.address)

    def chain(self, authority: str) -> tuple[bytes, ...]:
        """DER of the CA certificates above what an authority issues, without the root."""
        try:
            return self.books.authority(authority).chains()[0]
        except UnknownName:
            return ()

    def profile(self, channel: ESTChannel) -> Profile:
        """What the channel issues by. Raises ``ESTProblem``."""
        try:
            return self.books.profile(channel.profile)[0]
        except UnknownName as error:
            raise ESTProblem(503, str(error), retry_after(60)) from None
