"""Challenges (RFC 8555 sections 7.5.1 and 8): the client says it is ready, the server asks the network.

Most proofs are there at once, so the answer waits for the network for a moment: what is decided by then is
committed in one unit and answered as ``valid`` or ``invalid``. What is not becomes a durable job: in one unit
the challenge turns ``processing`` and the job comes to be, and when the job is done, its effect on challenge,
authorization and order is committed together with its end. The job takes over the check that was begun, if
this process still has it. A failure that may pass is tried again by the server (RFC 8555 section 8.2), the
last error standing in the challenge meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET, Raw

from certloom.audit import SYSTEM, record
from certloom.jobs import Job, Retry
from certloom.pki.identifiers import Identifier, IdentifierType
from certloom.policy.channels import ACMEChannel
from certloom.protocols.acme import messages
from certloom.protocols.acme.authorizations import challenge_resource, own
from certloom.protocols.acme.exchange import Answer, Exchange, retry_after, up
from certloom.protocols.acme.jwk import account_key
from certloom.protocols.acme.messages import HeldChallenge
from certloom.protocols.acme.problems import (
    ProblemDocument,
    about_identifier,
    malformed,
    validation_error,
)
from certloom.protocols.acme.service import ACMEService, by_account
from certloom.protocols.acme.states import (
    AUTHORIZATION,
    CHALLENGE,
    AccountStatus,
    Act,
    AuthorizationStatus,
    ChallengeStatus,
    after,
    authorization_status,
)
from certloom.store import acme as statements
from certloom.store.acme import StoredAccount, StoredAuthorization
from certloom.store.base import Tx
from certloom.validation import Proof, Validated, ValidationFailed

VALIDATE_JOB = "acme.validate"
_AFTER_A_CRASH = (5.0, 30.0, 120.0)
"""Seconds before a validation that broke off unexpectedly is tried again."""
_AT_ONCE = 0.5
"""Seconds that an answer waits for the network."""
_MOST_AT_ONCE = 64
"""Checks that answers wait for; further ones go to the job queue, which has its own bound."""
_KEPT = 120.0
"""Seconds after which a check that no job has taken over is forgotten."""


async def challenge(service: ACMEService, x: Exchange, id: str, type: str) -> Answer:
    """Fetch a challenge, or have it checked (RFC 8555 section 7.5.1)."""
    signed = await by_account(service, x, lambda tx, _: statements.authorization(tx, id))
    found = own(signed.loaded, signed.account)
    held = _held(found, type)
    if signed.payload:
        messages.read(messages.Anything, signed.payload)
        now = service.clock.now()
        status = authorization_status(found.status, found.expires, now)
        if status is AuthorizationStatus.EXPIRED:
            raise malformed("the authorization has expired", 404)
        if status is AuthorizationStatus.PENDING and held.status == ChallengeStatus.PENDING:
            decided = await _at_once(service, x, found, held.type, signed.account)
            if decided is not None:
                found, held = decided, _held(decided, type)
            else:
                held = await _respond(service, x, found, held, x.site.account + signed.account.id)
    body = messages.encode(challenge_resource(x, found, held))
    headers = (up(x.site.authorization + id),)
    if held.status == ChallengeStatus.PROCESSING:
        return Answer(body, *headers, retry_after(1))
    return Answer(body, *headers)


def _held(authorization: StoredAuthorization, type: str) -> HeldChallenge:
    for held in messages.read_challenges(authorization.challenges):
        if held.type == type:
            return held
    raise malformed("there is no such challenge", 404)


def _replace(authorization: StoredAuthorization, new: HeldChallenge) -> str:
    """The challenges' column with one of them changed."""
    return messages.write_challenges(
        [new if h.type == new.type else h for h in messages.read_challenges(authorization.challenges)]
    )


async def _at_once(
    service: ACMEService, x: Exchange, seen: StoredAuthorization, type: str, account: StoredAccount
) -> StoredAuthorization | None:
    """The authorization as it is once decided; None where that takes longer and so takes a job."""
    if type not in x.channel.challenges:
        return await service.store.write(_not_offered(service, seen.id, type, responds=True))
    key = (seen.id, type)
    task = service.checks.get(key)
    if task is None:
        if len(service.checks) >= _MOST_AT_ONCE:
            return None
        account_url = x.site.account + account.id
        task = asyncio.create_task(_check(service, seen, account, x.channel, type, account_url, attempt=0))
        task.add_done_callback(_noted)
        service.checks[key] = task
    await asyncio.wait((task,), timeout=_AT_ONCE)
    failed = task.exception() if task.done() else None
    if not task.done() or (failed is not None and not _is_final(failed)):
        asyncio.get_running_loop().call_later(_KEPT, _forget, service.checks, key, task)
        return None
    try:
        if isinstance(failed, ValidationFailed):
            error = validation_error(failed.code, failed.detail)
            return await service.store.write(_failure(service, seen.id, type, error, responds=True))
        success = _success(service, seen.id, type, task.result(), caa=x.channel.caa, responds=True)
        return await service.store.write(success)
    finally:
        service.checks.pop(key, None)


def _is_final(error: BaseException) -> bool:
    return isinstance(error, ValidationFailed) and not error.retryable


def _forget(
    checks: dict[tuple[str, str], asyncio.Task[Validated]],
    key: tuple[str, str],
    task: asyncio.Task[Validated],
) -> None:
    if checks.get(key) is task:
        del checks[key]


def _noted(task: asyncio.Task[Validated]) -> None:
    """Whoever waits for the check is told what it raised; if nobody does any more, nobody needs to be."""
    if not task.cancelled():
        task.exception()


async def _respond(
    service: ACMEService, x: Exchange, seen: StoredAuthorization, held: HeldChallenge, account_url: str
) -> HeldChallenge:
    payload = {"authorization": seen.id, "type": held.type, "account_url": account_url}

    def unit(tx: Tx) -> tuple[HeldChallenge, Job | None]:
        was: StoredAuthorization | None = seen
        while was is not None:
            now = _held(was, held.type)
            if (
                was.status != AuthorizationStatus.PENDING
                or (ChallengeStatus(now.status), Act.RESPOND) not in CHALLENGE
            ):
                return now, None
            status = after(AUTHORIZATION, AuthorizationStatus.PENDING, Act.RESPOND)
            new = HeldChallenge(held.type, after(CHALLENGE, ChallengeStatus(now.status), Act.RESPOND))
            if statements.update_authorization(tx, was, status, _replace(was, new), was.expires):
                return new, service.runner.insert_leased(tx, VALIDATE_JOB, payload)
            # Something has changed since it was read: look again, this time with the row held.
            was = statements.authorization(tx, seen.id, lock=True)
        return held, None

    answered, job = await service.store.write(unit)
    if job is not None:
        service.runner.start_leased(job)
    return answered


def register(service: ACMEService) -> None:
    """Take on the validation jobs. Before the runner starts."""

    async def handler(job: Job) -> Callable[[Tx], object] | None:
        return await _validate(service, job)

    def on_exhausted(job: Job) -> Callable[[Tx], object]:
        id, type = str(job.payload["authorization"]), str(job.payload["type"])
        return _failure(service, id, type, validation_error("serverInternal", "the check broke off"))

    service.runner.register(VALIDATE_JOB, handler, retries=_AFTER_A_CRASH, on_exhausted=on_exhausted)


async def _validate(service: ACMEService, job: Job) -> Callable[[Tx], object] | None:
    id, type = str(job.payload["authorization"]), str(job.payload["type"])
    account_url = str(job.payload["account_url"])

    def load(tx: Tx) -> tuple[StoredAuthorization | None, StoredAccount | None]:
        authorization = statements.authorization(tx, id)
        if authorization is None:
            return None, None
        return authorization, service.account(tx, authorization.account_id)

    authorization, account = await service.store.read(load)
    if authorization is None or account is None or account.status != AccountStatus.VALID:
        return None
    now = service.clock.now()
    if (
        authorization_status(authorization.status, authorization.expires, now)
        is not AuthorizationStatus.PENDING
    ):
        return None
    channel = service.books.acme_channel(account.channel)
    if channel is None or type not in channel.challenges:
        return _not_offered(service, id, type)
    begun = service.checks.pop((id, type), None)
    try:
        validated = await (
            begun
            or _check(service, authorization, account, channel, type, account_url, attempt=job.attempt - 1)
        )
    except ValidationFailed as failed:
        error = validation_error(failed.code, failed.detail)
        retries = service.settings.validation.retries
        if failed.retryable and job.attempt <= len(retries):
            await _note(service, id, type, error)
            raise Retry(retries[job.attempt - 1], failed.code) from None
        return _failure(service, id, type, error)
    return _success(service, id, type, validated, caa=channel.caa)


async def _check(
    service: ACMEService,
    authorization: StoredAuthorization,
    account: StoredAccount,
    channel: ACMEChannel,
    type: str,
    account_url: str,
    *,
    attempt: int,
) -> Validated:
    """Ask the network. Raises ``ValidationFailed``."""
    validated = await service.validator.validate(
        _proof(authorization, account, channel, type, account_url), attempt=attempt
    )
    if channel.caa:
        await check_caa(service, channel, authorization, type, account_url)
    return validated


async def check_caa(
    service: ACMEService,
    channel: ACMEChannel,
    authorization: StoredAuthorization,
    method: str,
    account_url: str,
) -> None:
    """Whether the domain's owner lets this CA issue (RFC 8659, RFC 8657). Raises ``ValidationFailed``."""
    await service.caa.check(
        _identifier(authorization),
        issuer_domains=channel.caa_identities,
        wildcard=authorization.wildcard == 1,
        account_url=account_url,
        method=method,
    )


def _identifier(authorization: StoredAuthorization) -> Identifier:
    """Without ``*.``."""
    return Identifier(IdentifierType(authorization.identifier_type), authorization.identifier_value)


def _proof(
    authorization: StoredAuthorization,
    account: StoredAccount,
    channel: ACMEChannel,
    type: str,
    account_url: str,
) -> Proof:
    key = account_key(account.jwk)
    return Proof(
        identifier=_identifier(authorization),
        type=type,
        wildcard=authorization.wildcard == 1,
        token=authorization.token,
        key_authorization=f"{authorization.token}.{key.thumbprint_text}",
        account_url=account_url,
        issuer_domains=channel.caa_identities,
        account_hash_prefix=_hash_prefix(account_url),
        key_thumbprints=(key.thumbprint_text, *account.past_thumbprints.split()),
    )


def _hash_prefix(account_url: str) -> str:
    """The directory's ``accountHashPrefix`` at the origin where the account is known by this URL."""
    return account_url.rpartition("/account/")[0] + "/account-hash/"


def _success(
    service: ACMEService, id: str, type: str, validated: Validated, *, caa: bool, responds: bool = False
) -> Callable[[Tx], StoredAuthorization | None]:
    acme = service.settings.acme
    now = service.clock.now()
    # Without reuse it still has to last for the order it was made for.
    expires = now + (acme.authorization_reuse or acme.order_lifetime)
    if validated.valid_until is not None:
        expires = min(expires, validated.valid_until)

    def change(held: HeldChallenge) -> HeldChallenge:
        return HeldChallenge(
            type,
            after(CHALLENGE, ChallengeStatus(held.status), Act.PROVE),
            validated=now,
            caa_checked=now if caa else None,
            records=_raw(validated.records),
        )

    return _end(service, id, type, Act.PROVE, change, expires, responds=responds)


def _raw(records: Sequence[object]) -> Raw | msgspec.UnsetType:
    return Raw(messages.encode(records)) if records else UNSET


def _failure(
    service: ACMEService, id: str, type: str, error: ProblemDocument, *, responds: bool = False
) -> Callable[[Tx], StoredAuthorization | None]:
    def change(held: HeldChallenge) -> HeldChallenge:
        return HeldChallenge(type, after(CHALLENGE, ChallengeStatus(held.status), Act.FAIL), error=error)

    return _end(service, id, type, Act.FAIL, change, None, error, responds=responds)


def _not_offered(
    service: ACMEService, id: str, type: str, *, responds: bool = False
) -> Callable[[Tx], StoredAuthorization | None]:
    error = validation_error("unauthorized", "the channel does not offer this challenge any more")
    return _failure(service, id, type, error, responds=responds)


def _end(
    service: ACMEService,
    id: str,
    type: str,
    act: Act,
    change: Callable[[HeldChallenge], HeldChallenge],
    expires: int | None,
    error: ProblemDocument | None = None,
    *,
    responds: bool,
) -> Callable[[Tx], StoredAuthorization | None]:
    """The unit that decides an authorization, if it is still open and its challenge still being checked.

    With ``responds`` it also is the client's response to the challenge, which then was pending until now. The
    unit answers the authorization as it then is, whoever decided it; None where there is nothing to say yet.
    """

    def unit(tx: Tx) -> StoredAuthorization | None:
        was = statements.authorization(tx, id, lock=True)
        now = service.clock.now()
        if was is None or authorization_status(was.status, was.expires, now) != AuthorizationStatus.PENDING:
            return was
        held = _held(was, type)
        if responds and held.status == ChallengeStatus.PENDING:
            held = HeldChallenge(type, after(CHALLENGE, ChallengeStatus.PENDING, Act.RESPOND))
        elif held.status != ChallengeStatus.PROCESSING:
            return None
        status = after(AUTHORIZATION, AuthorizationStatus.PENDING, act)
        challenges = _replace(was, change(held))
        statements.update_authorization(tx, was, status, challenges, expires or was.expires)
        if error is not None and was.order_id is not None:
            value = ("*." if was.wildcard else "") + was.identifier_value
            statements.set_order_error(tx, was.order_id, about_identifier(error, was.identifier_type, value))
        record(
            tx,
            service.clock.now_ms(),
            f"acme-authorization.{status}",
            f"acme-authorization:{id}",
            SYSTEM,
            {
                "account": was.account_id,
                "identifier": f"{was.identifier_type}:{'*.' if was.wildcard else ''}{was.identifier_value}",
                "challenge": type,
                **({"error": error.type, "detail": error.detail} if error is not None else {}),
            },
        )
        return msgspec.structs.replace(
            was, status=status, challenges=challenges, expires=expires or was.expires
        )

    return unit


async def _note(service: ACMEService, id: str, type: str, error: ProblemDocument) -> None:
    """Let the client see why the check is being repeated (RFC 8555 section 8.2)."""

    def unit(tx: Tx) -> None:
        was = statements.authorization(tx, id, lock=True)
        if was is None or was.status != AuthorizationStatus.PENDING:
            return
        held = _held(was, type)
        if held.status == ChallengeStatus.PROCESSING:
            noted = _replace(was, msgspec.structs.replace(held, error=error))
            statements.update_authorization(tx, was, was.status, noted, was.expires)

    await service.store.write(unit)
