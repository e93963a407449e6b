"""Asking again: a client that was told to wait, or never saw the answer, sends the same once more.

Theory of operation. An ask is the same where requester, operation, public key, subject and names are
(RFC 7030 section 4.2.3): its signature and its challenge password may be others. A hash of these leads to the
last request that was made of it, and what became of that is the answer:

    open (waiting, approved, issuing)     wait
    issued, not long ago                  the certificate, once more
    denied, failed or cancelled, so too   no
    otherwise, or never asked             a new ask

"Not long ago" is the channel's to say. The new request and the transaction that leads to it are written in
one unit, and an idempotency key that names the request before it lets only one of two asks at one instant
through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from certloom.clock import Clock
from certloom.enrollment.asks import Ask, requester_text
from certloom.enrollment.errors import EnrollmentError, Refused
from certloom.enrollment.pipeline import Enrollment
from certloom.enrollment.states import State
from certloom.identity.credentials import CredentialRefused, Credentials, PresentedCredential
from certloom.policy.channels import ESTChannel
from certloom.protocols.est.problems import ESTProblem, of_enrollment, retry_after, unauthorized
from certloom.store import certificates as certificate_statements
from certloom.store import est as statements
from certloom.store import requests as request_statements
from certloom.store.base import Store, Tx
from certloom.store.certificates import StoredCertificate
from certloom.store.est import StoredTransaction
from certloom.store.requests import EnrolmentRequest

_OPEN = frozenset({State.RECEIVED, State.AWAITING_APPROVAL, State.APPROVED, State.ISSUING})
_REFUSED_SECONDS = 3600
"""For how long a refusal by people is at least remembered: a client that polls must not ask them anew."""


class Outcome(msgspec.Struct, frozen=True):
    """What became of an ask: its request, and the certificate if it has been issued."""

    request: EnrolmentRequest
    certificate: StoredCertificate | None


class _Known(msgspec.Struct, frozen=True):
    last: str
    """The request before, or empty."""
    outcome: Outcome | None
    """Where it is the answer."""


def key_of(ask: Ask, operation: str) -> bytes:
    """What makes an ask the same as another. The operations that a client may confuse are not told apart."""
    names = sorted(str(identifier) for identifier in ask.identifiers)
    whole = msgspec.json.encode(
        [
            operation,
            ask.channel,
            ask.profile,
            requester_text(ask.requester),
            ask.csr.key.spki_sha256,
            ask.csr.subject,
            names,
        ]
    )
    return hashlib.sha256(whole).digest()


class Transactions:
    """Submits asks, each once."""

    def __init__(self, store: Store, clock: Clock, enrollment: Enrollment, credentials: Credentials) -> None:
        self._store = store
        self._clock = clock
        self._enrollment = enrollment
        self._credentials = credentials

    async def known(self, channel: ESTChannel, key: bytes) -> Outcome | None:
        """What became of an ask that was made before, where that is still the answer."""
        return (await self._store.read(lambda tx: self._look(tx, channel, key))).outcome

    async def submit(
        self,
        channel: ESTChannel,
        key: bytes,
        ask: Ask,
        credential: PresentedCredential | None,
        also: Callable[[Tx, EnrolmentRequest], None] | None = None,
    ) -> Outcome:
        """Take an ask as far as it goes now, or find what became of it.

        ``also`` runs in the unit that stores a new request; the credential's use is spent there, too. Raises
        ``ESTProblem`` where nothing was, or will be, issued.
        """
        known = await self._store.read(lambda tx: self._look(tx, channel, key))
        if known.outcome is not None:
            return known.outcome
        if credential is not None and credential.spent:
            raise unauthorized("the password or token has been used up", counted=False)

        def unit(tx: Tx, request: EnrolmentRequest) -> None:
            if credential is not None:
                self._credentials.spend(tx, credential.id)
            statements.put(tx, StoredTransaction(key, request.id, self._clock.now()))
            if also is not None:
                also(tx, request)

        once = msgspec.structs.replace(ask, idempotency_key=f"est:{key.hex()}:{known.last}")
        try:
            request = await self._enrollment.submit(once, unit)
        except CredentialRefused:
            raise unauthorized("the password or token has been used up", counted=False) from None
        except EnrollmentError as error:
            if isinstance(error, Refused) and error.code == "different-ask":
                # The same was asked at the same instant, with another signature.
                again = await self.known(channel, key)
                if again is not None:
                    return again
            raise of_enrollment(error) from error
        return await self._store.read(lambda tx: _outcome(tx, request))

    def _look(self, tx: Tx, channel: ESTChannel, key: bytes) -> _Known:
        transaction = statements.get(tx, key)
        if transaction is None:
            return _Known("", None)
        request = request_statements.get(tx, transaction.request_id)
        if request is None:
            return _Known(transaction.request_id, None)
        remembered = channel.repeat_seconds
        if request.state != State.ISSUED:
            remembered = max(remembered, _REFUSED_SECONDS)
        if request.state in _OPEN or request.updated + remembered > self._clock.now():
            return _Known(request.id, _outcome(tx, request))
        return _Known(request.id, None)


def _outcome(tx: Tx, request: EnrolmentRequest) -> Outcome:
    id = request.certificate_id
    return Outcome(request, None if id is None else certificate_statements.get(tx, id))


def issued(channel: ESTChannel, outcome: Outcome) -> StoredCertificate | None:
    """The certificate; None while the client has to wait. Raises ``ESTProblem`` where there will be none."""
    if outcome.certificate is not None:
        if outcome.certificate.revoked is not None:
            raise ESTProblem(403, "the certificate that was issued has been revoked")
        return outcome.certificate
    if outcome.request.state in _OPEN:
        return None
    reasons = "; ".join(reason.message for reason in outcome.request.reasons)
    raise ESTProblem(403, reasons or f"the request was {outcome.request.state}", retry_after(3600))
