"""Certificate Transparency before issuance (RFC 6962): a precertificate to the logs, their SCTs back.

    serial reserved ─▶ precertificate signed ─▶ add-pre-chain to every log of the profile, side by side
                       ─▶ as many SCTs as the profile needs, each verified ─▶ the certificate with them

Nothing a log says is believed: its SCT must be signed by the key in the settings, over the very
precertificate, at about this time. A log that fails or talks nonsense is left alone for some seconds, so that
asks which cannot succeed sign nothing, burn no serial and do not fill the other logs with precertificates.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime
from typing import Annotated

import msgspec
import structlog

from certloom.authorities.base import AuthorityError, AuthorityUnavailable
from certloom.clock import Clock
from certloom.outbound.http import HTTPAnswer, HTTPClient, HTTPFailed
from certloom.pki import ct
from certloom.pki.ct import SCT, CTError
from certloom.pki.extensions import Extension
from certloom.pki.template import CertificateTemplate
from certloom.policy.decisions import CTTerms
from certloom.settings import SettingsError
from certloom.settings.schema import CT as CTSettings
from certloom.settings.schema import CTLog

_log = structlog.get_logger(__name__)

_BODY_LIMIT = 65_536
_SKEW = 600
"""Seconds that a log's clock and ours may differ."""
_REST = 15.0
_LONGEST_QUOTE = 200

Sign = Callable[[CertificateTemplate], Awaitable[bytes]]
"""Signs, and looks at what was signed again, for the CA."""


class _Answer(msgspec.Struct, frozen=True):
    """What add-pre-chain answers (section 4.2)."""

    sct_version: int
    id: str
    timestamp: Annotated[int, msgspec.Meta(ge=0)]
    extensions: str
    signature: str


_decode = msgspec.json.Decoder(_Answer).decode


class _Failed(Exception):
    """No SCT. ``outcome`` is ``unreachable``, ``refused`` or ``nonsense``; the message is the operator's."""

    def __init__(self, outcome: str, message: str, *, rest: bool = True) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.rest = rest


class _Log:
    """One log, as the settings describe it."""

    def __init__(self, name: str, settings: CTLog) -> None:
        """Raises ``CTError``."""
        self.name = name
        self.url = f"{settings.url.rstrip('/')}/ct/v1/add-pre-chain"
        try:
            spki = base64.b64decode(settings.key, validate=True)
        except binascii.Error:
            raise CTError("not base64") from None
        self.key = ct.log_key(spki)
        self.id = ct.log_id(spki)
        self.takes_from = _midnight(settings.expires_from)
        self.takes_until = _midnight(settings.expires_until)
        self.rests_until = 0.0
        """In the event loop's time."""

    def takes(self, not_after: int) -> bool:
        """Whether it takes certificates that expire then: public logs are split by year."""
        return (self.takes_from is None or self.takes_from <= not_after) and (
            self.takes_until is None or not_after < self.takes_until
        )


class CTLogs:
    """The logs of this installation. One per process; belongs to the event loop that uses it."""

    def __init__(self, settings: CTSettings, http: HTTPClient, clock: Clock, *, rest: float = _REST) -> None:
        """``rest``: seconds for which a log that failed is not asked. Raises ``SettingsError``."""
        self._http = http
        self._clock = clock
        self._seconds = settings.timeout_seconds
        self._rest = rest
        self._logs: dict[str, _Log] = {}
        for name, log in settings.logs.items():
            try:
                self._logs[name] = _Log(name, log)
            except CTError as error:
                raise SettingsError("settings", [f"$.ct.logs.{name}.key: {error}"]) from None
        self.counts: Counter[tuple[str, str]] = Counter()
        """Submissions by log and outcome (``sct``, ``unreachable``, ``refused``, ``nonsense``)."""
        self.trouble: dict[str, str] = {}
        """What each log that fails said or did last, until it answers well again."""

    def choose(self, terms: CTTerms, not_after: int) -> list[str]:
        """The logs to ask for a certificate that ends then (Unix seconds).

        Raises ``AuthorityError`` (``not-configured``) where the settings do not have enough of them, and
        ``AuthorityUnavailable`` (``ct-unavailable``) where too many have just failed.
        """
        unknown = [name for name in terms.logs if name not in self._logs]
        if unknown:
            raise AuthorityError(
                "not-configured",
                f"the profile's certificate transparency logs are not configured: {', '.join(unknown)}",
            )
        taking = [name for name in terms.logs if self._logs[name].takes(not_after)]
        if len(taking) < terms.needed:
            raise AuthorityError(
                "not-configured",
                f"{terms.needed} certificate transparency logs are needed, "
                f"{len(taking)} of the profile's take certificates that expire then",
            )
        now = asyncio.get_running_loop().time()
        awake = [name for name in taking if self._logs[name].rests_until <= now]
        if len(awake) < terms.needed:
            raise _too_few(terms, len(awake))
        return awake

    async def submit(
        self,
        chosen: Sequence[str],
        terms: CTTerms,
        precertificate: bytes,
        issuers: Sequence[bytes],
        spki: bytes,
    ) -> tuple[SCT, ...]:
        """As many verified SCTs as are needed, in the order of ``chosen``.

        ``issuers`` are DER, the issuing CA's certificate first and the root last; ``spki`` is the issuing
        CA's. Raises ``AuthorityUnavailable`` (``ct-unavailable``) when too few come in time.
        """
        try:
            tbs = ct.signed_tbs(precertificate)
        except CTError as error:
            raise AuthorityError("not-encodable", str(error)) from error
        chain = [base64.b64encode(one).decode() for one in (precertificate, *issuers)]
        body = msgspec.json.encode({"chain": chain})
        asking = {asyncio.create_task(self._ask(self._logs[name], body, tbs, spki)): name for name in chosen}
        found: dict[str, SCT] = {}
        waiting = set(asking)
        try:
            while waiting and len(found) < terms.needed:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    sct = task.result()
                    if sct is not None:
                        found[asking[task]] = sct
        finally:
            for task in waiting:
                task.cancel()
            if waiting:
                await asyncio.gather(*waiting, return_exceptions=True)
        if len(found) < terms.needed:
            raise _too_few(terms, len(found))
        return tuple([found[name] for name in chosen if name in found][: terms.needed])

    async def _ask(self, log: _Log, body: bytes, tbs: bytes, spki: bytes) -> SCT | None:
        try:
            sct = await self._promise(log, body, tbs, spki)
        except _Failed as failure:
            self.counts[log.name, failure.outcome] += 1
            self.trouble[log.name] = f"{failure.outcome}: {failure}"
            if failure.rest:
                log.rests_until = asyncio.get_running_loop().time() + self._rest
            say = _log.error if failure.outcome == "nonsense" else _log.warning
            say(f"ct.{failure.outcome}", log=log.name, why=str(failure))
            return None
        self.counts[log.name, "sct"] += 1
        self.trouble.pop(log.name, None)
        return sct

    async def _promise(self, log: _Log, body: bytes, tbs: bytes, spki: bytes) -> SCT:
        try:
            answer = await self._http.request(
                "POST",
                log.url,
                headers={"Content-Type": "application/json"},
                body=body,
                seconds=self._seconds,
                body_limit=_BODY_LIMIT,
            )
        except HTTPFailed as error:
            raise _Failed("unreachable", str(error)) from None
        if answer.status != 200:
            # 4xx may be about this certificate alone, but for 429; what follows can still succeed.
            raise _Failed("refused", _quoted(answer), rest=answer.status >= 500 or answer.status == 429)
        try:
            said = _decode(answer.body)
            log_id = base64.b64decode(said.id, validate=True)
            sct = SCT(
                log_id,
                said.timestamp,
                base64.b64decode(said.extensions, validate=True),
                base64.b64decode(said.signature, validate=True),
            )
            if said.sct_version != 0:
                raise CTError(f"an SCT of version {said.sct_version + 1}")
            if log_id != log.id:
                raise CTError("an SCT of another log than the settings have the key of")
            ct.verify(sct, log.key, tbs, spki)
            if abs(sct.timestamp / 1000 - self._clock.now()) > _SKEW:
                raise CTError(f"an SCT of another time: {sct.timestamp} ms")
            ct.encode_sct(sct)
        except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, CTError) as error:
            raise _Failed("nonsense", str(error)) from None
        return sct


async def with_scts(
    logs: CTLogs,
    terms: CTTerms,
    template: CertificateTemplate,
    sign: Sign,
    issuers: Sequence[bytes],
    spki: bytes,
) -> bytes:
    """The DER certificate of this template with the SCTs that the terms ask for.

    Signs twice under the template's serial, which the caller burns when this raises. ``issuers`` and ``spki``
    as for ``CTLogs.submit``. Raises ``AuthorityError`` or ``AuthorityUnavailable``.
    """
    chosen = logs.choose(terms, template.not_after)
    precertificate = await sign(precertificate_template(template))
    scts = await logs.submit(chosen, terms, precertificate, issuers, spki)
    certificate = await sign(_replaced(template, ct.list_extension(scts)))
    try:
        ct.check_same(precertificate, certificate)
    except CTError as error:
        raise AuthorityError("recheck-failed", f"{error}; withheld") from None
    return certificate


def precertificate_template(template: CertificateTemplate) -> CertificateTemplate:
    """The precertificate to a certificate."""
    return _replaced(template, ct.POISON)


def sample_template(template: CertificateTemplate, needed: int) -> CertificateTemplate:
    """The certificate with a list of SCTs that no log made: for lint before there is one."""
    sct = SCT(bytes(32), template.not_before * 1000, b"", bytes((4, 3, 0, 2)) + bytes(2))
    return _replaced(template, ct.list_extension([sct] * needed))


def _replaced(template: CertificateTemplate, extension: Extension) -> CertificateTemplate:
    return msgspec.structs.replace(template, extensions=(*template.extensions, extension))


def _too_few(terms: CTTerms, count: int) -> AuthorityUnavailable:
    return AuthorityUnavailable(
        "ct-unavailable",
        f"{terms.needed} certificate transparency logs must take the certificate, {count} do just now",
    )


def _quoted(answer: HTTPAnswer) -> str:
    text = answer.body[:_LONGEST_QUOTE].decode("utf-8", "replace")
    return f"status {answer.status}: {text!r}"


def _midnight(day: date | None) -> int | None:
    return None if day is None else int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())
