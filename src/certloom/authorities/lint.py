"""Lint before signing: what pkilint says about a certificate before the CA's key makes it real.

The certificate as it would be, with zeros for a signature, is handed to a linter in a child process
(``lint_worker``), started when it is first needed and stopped when it has been idle: the linter's memory is
not the server's, and its milliseconds do not block the event loop. If the child crashes or hangs, nothing is
issued: whoever was waiting gets ``AuthorityUnavailable``, and the next request starts another.

Most certificates of a profile differ in nothing that the linter looks at. A *shape* names what it does look
at; in mode ``first-of-shape`` a shape that has passed is not linted again in this process. Shapes that did
not pass are not remembered, since the fault may be in a value.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from certloom.authorities.base import AuthorityUnavailable
from certloom.authorities.lint_exceptions import Finding
from certloom.authorities.lint_subjects import Subject, certificate_by
from certloom.pki import der as asn1
from certloom.pki import signatures
from certloom.pki.ca import tbs_ca_certificate
from certloom.pki.certificates import issuer_facts, tbs_certificate
from certloom.pki.identifiers import IdentifierType
from certloom.pki.keys import facts_of, public_key
from certloom.pki.template import CATemplate, CertificateTemplate, IssuerFacts
from certloom.policy.decisions import CertificateContents, LintMode, LintRules

SEVERITIES = ("info", "notice", "warning", "error", "fatal")
_UTC_TIME_ENDS = 2524608000  # 2050-01-01: later times are GeneralizedTime (RFC 5280 section 4.1.2.5)
_MOST_SHAPES = 4096
_FINDINGS = msgspec.msgpack.Decoder(list[Finding])


def lint(subject: Subject, der: bytes, level: str = "notice") -> list[Finding]:
    """What counts against a DER document at or above a severity; for tests and commands.

    Lints in this process and blocks it for some milliseconds, several hundred the first time.
    """
    from certloom.authorities.lint_worker import findings

    return at_or_above(level, findings(der, subject))


def lint_certificate(der: bytes, level: str = "notice", rules: LintRules = LintRules.PKIX) -> list[Finding]:
    """What counts against a certificate, of a CA or of an end entity, whoever signed it; see ``lint``."""
    return lint(certificate_by(rules), der, level)


def lint_ca(
    template: CATemplate, issuer: bytes | None, level: str = "notice", rules: LintRules = LintRules.PKIX
) -> list[Finding]:
    """What would count against a CA certificate, before a key makes it real; see ``lint``.

    ``issuer`` is the DER certificate above, None for a self-signed one. Raises ``TemplateError``.
    """
    return lint_certificate(unsigned_ca(template, issuer), level, rules)


def unsigned_certificate(template: CertificateTemplate, issuer: IssuerFacts) -> bytes:
    """A certificate with a signature of zeros: to be linted (which looks at no signature) and no more.

    Raises ``TemplateError``.
    """
    return _unsigned(tbs_certificate(template, issuer), issuer.signature_algorithm)


def unsigned_ca(template: CATemplate, issuer: bytes | None) -> bytes:
    """The same for a CA certificate. Raises ``TemplateError``, ``CertificateError`` or ``KeyRejected``."""
    above = None if issuer is None else issuer_facts(issuer)
    if above is None:
        algorithm = signatures.algorithm_for(public_key(facts_of(template.spki)))
    else:
        algorithm = above.signature_algorithm
    return _unsigned(tbs_ca_certificate(template, above, algorithm), algorithm)


def _unsigned(tbs: bytes, algorithm: bytes) -> bytes:
    return asn1.sequence(tbs, algorithm, asn1.bit_string(bytes(64)))


def lint_crl(
    der: bytes, level: str = "notice", rules: LintRules = LintRules.PKIX, *, of_cas: bool = False
) -> list[Finding]:
    """What counts against a CRL; ``of_cas``: the certificates in it are CAs'. See ``lint``."""
    if rules is LintRules.PKIX:
        return lint(Subject.CRL, der, level)
    return lint(Subject.ARL_CABF if of_cas else Subject.CRL_CABF, der, level)


def lint_ocsp(der: bytes, level: str = "notice") -> list[Finding]:
    """What counts against an OCSP response; see ``lint``."""
    return lint(Subject.OCSP, der, level)


def at_or_above(level: str, findings: list[Finding]) -> list[Finding]:
    """The findings of at least this severity."""
    least = SEVERITIES.index(level)
    return [finding for finding in findings if SEVERITIES.index(finding.severity) >= least]


def shape_of(contents: CertificateContents, issuer: bytes = b"") -> bytes | None:
    """What of a certificate the linter looks at, apart from the values of its names; None where it looks at
    those too, as the CA/Browser Forum's rules do.

    Profile version and authority fix usages, extensions and URLs. The rest comes from the request: the kind
    and size of the key, the types of names (and wildcards, which are names of their own kind), the types of
    subject attributes, the encoding of the times. ``issuer`` tells generations of an authority apart, and
    what its options add to the certificate.
    """
    if contents.lint_rules is not LintRules.PKIX:
        return None
    kinds = 0
    for identifier in contents.identifiers:
        type = identifier.type
        if type is IdentifierType.DNS:
            kinds |= 2 if identifier.value.startswith("*.") else 1
        elif type is IdentifierType.IP:
            kinds |= 8 if ":" in identifier.value else 4
        else:
            kinds |= 16 if type is IdentifierType.URI else 32
    kinds |= (contents.not_before >= _UTC_TIME_ENDS) << 6 | (contents.not_after >= _UTC_TIME_ENDS) << 7
    spki = contents.spki
    # The header of an SPKI holds algorithm and parameters, its length the size of the key.
    text = (
        f"{contents.authority}\0{contents.profile}\0{contents.profile_version}\0"
        f"{kinds}\0{len(spki)}\0{','.join([oid for oid, _ in contents.subject.attributes])}\0"
    )
    return text.encode() + _algorithm(spki) + issuer


def _algorithm(spki: bytes) -> bytes:
    """The AlgorithmIdentifier's octets in a DER SubjectPublicKeyInfo."""
    start = 2 if spki[1] < 0x80 else 2 + (spki[1] & 0x7F)
    return spki[start : start + 2 + spki[start + 1]]


_STOPPED = "the linter was stopped"


@dataclass(slots=True)
class _Child:
    """A running linter and who waits for its answers, in the order they were asked."""

    process: asyncio.subprocess.Process
    waiting: deque[asyncio.Future[list[Finding]]] = field(default_factory=deque)
    progress: float = field(default_factory=time.monotonic)
    """When it last answered, or was given work after a rest."""
    reader: asyncio.Task[None] | None = None
    over: str = ""
    """Why it is of no more use."""


class Linter:
    """Lints in a child process. One per server process; belongs to the event loop that uses it."""

    def __init__(
        self,
        *,
        timeout: float = 15.0,
        idle: float = 60.0,
        command: tuple[str, ...] = (sys.executable, "-P", "-m", "certloom.authorities.lint_worker"),
    ) -> None:
        """``timeout``: seconds without an answer after which the child counts as hung (it takes under one to
        start). ``idle``: seconds without a request after which it is stopped. ``command`` starts it."""
        self._timeout = timeout
        self._idle = idle
        self._command = command
        self._passed: OrderedDict[bytes, None] = OrderedDict()
        self._child: _Child | None = None
        self._starting = asyncio.Lock()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self.trouble = ""
        """Why the child was last of no use, until one answers again; empty while all is well."""

    @property
    def pid(self) -> int | None:
        """The child's process id while one runs."""
        return self._child.process.pid if self._child is not None else None

    def needed(self, shape: bytes | None, mode: LintMode) -> bool:
        """Whether ``check`` would have to lint: ask before building a certificate for it."""
        if mode is LintMode.OFF:
            return False
        return mode is LintMode.EVERY or shape is None or shape not in self._passed

    async def check(
        self,
        der: bytes,
        shape: bytes | None,
        mode: LintMode,
        level: str,
        rules: LintRules = LintRules.PKIX,
    ) -> list[Finding]:
        """The findings at or above ``level`` that stand against this certificate, which nobody has signed.

        Empty when nothing does, or when the mode spares this one. Raises ``AuthorityUnavailable`` when the
        linter crashes or hangs.
        """
        return await self.check_all((der,), shape, mode, level, rules)

    async def check_all(
        self, ders: Sequence[bytes], shape: bytes | None, mode: LintMode, level: str, rules: LintRules
    ) -> list[Finding]:
        """The same for the forms that one certificate will have: its precertificate, and itself."""
        if not self.needed(shape, mode):
            return []
        found: list[Finding] = []
        for der in ders:
            found += await self.findings(certificate_by(rules), der, level)
        if not found and shape is not None and mode is LintMode.FIRST_OF_SHAPE:
            self._passed[shape] = None
            if len(self._passed) > _MOST_SHAPES:
                self._passed.popitem(last=False)
        return found

    async def findings(self, subject: Subject, der: bytes, level: str) -> list[Finding]:
        """The findings at or above ``level`` that stand against a document.

        Raises ``AuthorityUnavailable`` when the linter crashes or hangs.
        """
        return at_or_above(level, await self._lint(subject, der))

    async def start(self) -> None:
        """Start the child now, so that the first certificate waits less. Raises ``AuthorityUnavailable``."""
        await self._running()

    async def close(self) -> None:
        """Stop the child; who still waits gets ``AuthorityUnavailable``."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._child is not None:
            self._end(self._child, _STOPPED)
        while self._ending:
            await asyncio.gather(*self._ending)

    async def _lint(self, subject: Subject, der: bytes) -> list[Finding]:
        child = await self._running()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Finding]] = loop.create_future()
        if not child.waiting:
            child.progress = time.monotonic()
        child.waiting.append(answer)
        stdin = child.process.stdin
        assert stdin is not None
        stdin.write(len(der).to_bytes(4, "big") + bytes((subject,)) + der)
        while not answer.done():
            left = child.progress + self._timeout - time.monotonic()
            if left <= 0:
                self._end(child, f"the linter did not answer within {self._timeout:g} seconds")
                break
            # Not wait_for: a caller that gives up must not take the answer's place in the line with it.
            await asyncio.wait((answer,), timeout=left)
        if child.over and not answer.done():
            answer.cancel()
        if answer.cancelled():
            raise AuthorityUnavailable("linter-unavailable", child.over or _STOPPED)
        self._rest()
        return answer.result()

    async def _running(self) -> _Child:
        async with self._starting:
            if self._child is not None:
                return self._child
            try:
                process = await asyncio.create_subprocess_exec(
                    *self._command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
                )
            except OSError as error:
                self.trouble = f"the linter cannot be started: {error}"
                raise AuthorityUnavailable("linter-unavailable", self.trouble) from error
            child = _Child(process)
            child.reader = asyncio.create_task(self._read(child))
            self._child = child
            self._rest()
            return child

    async def _read(self, child: _Child) -> None:
        stdout = child.process.stdout
        assert stdout is not None
        why = "the linter ended unexpectedly"
        try:
            while True:
                length = int.from_bytes(await stdout.readexactly(4), "big")
                found = _FINDINGS.decode(await stdout.readexactly(length))
                child.progress = time.monotonic()
                self.trouble = ""
                answer = child.waiting.popleft()
                if not answer.done():
                    answer.set_result(found)
        except (asyncio.IncompleteReadError, OSError):
            if not child.over:
                why = f"the linter ended unexpectedly (exit status {await child.process.wait()})"
        except (msgspec.DecodeError, IndexError):
            why = "the linter gave an answer that makes no sense"
        self._end(child, why)

    def _rest(self) -> None:
        """Stop the child after a while without requests."""
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        self._idle_timer = asyncio.get_running_loop().call_later(self._idle, self._idled)

    def _idled(self) -> None:
        child = self._child
        if child is None:
            return
        if child.waiting:
            self._rest()
        else:
            self._end(child, _STOPPED)

    def _end(self, child: _Child, why: str) -> None:
        """Take a child out of use; it goes on its own when its input closes, or is killed."""
        if child.over:
            return
        child.over = why
        if why != _STOPPED:
            self.trouble = why
        if self._child is child:
            self._child = None
        for answer in child.waiting:
            answer.cancel()
        task = asyncio.create_task(_bury(child))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


async def _bury(child: _Child) -> None:
    process = child.process
    if child.waiting or child.reader is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    elif process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), 5)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if child.reader is not None and not child.reader.done():
        child.reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await child.reader
