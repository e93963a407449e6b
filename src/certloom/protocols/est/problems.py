"""How EST says no: an HTTP status and one plain sentence (RFC 7030 section 4.2.3)."""

from __future__ import annotations

from certloom.enrollment.errors import EnrollmentError, Unavailable

Header = tuple[bytes, bytes]

_CHALLENGES: tuple[Header, ...] = (
    (b"www-authenticate", b'Basic realm="Certloom EST", charset="UTF-8"'),
    (b"www-authenticate", b'Bearer realm="Certloom EST"'),
)


class ESTProblem(Exception):
    """What is answered in the place of what was asked for. ``detail`` is for the client's eyes."""

    def __init__(
        self, status: int, detail: str, *headers: Header, counted: bool = False, silent: bool = False
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers = headers
        self.counted = counted
        """Whether somebody tried a secret that is not good."""
        self.silent = silent
        """Whether the sentence is for the log alone."""


def unauthorized(detail: str, *, counted: bool, silent: bool = False) -> ESTProblem:
    """401, with both ways to do better (RFC 9110 section 11.6.1)."""
    return ESTProblem(401, detail, *_CHALLENGES, counted=counted, silent=silent)


def retry_after(seconds: int) -> Header:
    """Whole seconds, never a date, which some clients do not read."""
    return (b"retry-after", b"%d" % seconds)


_STATUS = {
    # What is wrong with the request itself, and not with who asks or for what.
    "bad-public-key": 400,
    "unsupported-key": 400,
    "rsa-key-too-small": 400,
    "rsa-key-too-large": 400,
    "rsa-exponent": 400,
    "rsa-small-factor": 400,
    "rsa-close-primes": 400,
    "rsa-roca": 400,
    "weak-point": 400,
    "no-names": 400,
    "too-many-names": 400,
    "too-many-waiting": 429,
    "not-configured": 503,
}


def of_enrollment(error: EnrollmentError) -> ESTProblem:
    """The pipeline's refusals, in EST's terms."""
    if isinstance(error, Unavailable):
        return ESTProblem(503, _sentence(error), retry_after(error.retry_after))
    status = _STATUS.get(error.code, 403)
    headers = (retry_after(3600),) if status == 429 else (retry_after(60),) if status == 503 else ()
    return ESTProblem(status, _sentence(error), *headers)


def _sentence(error: EnrollmentError) -> str:
    return "; ".join(reason.message for reason in error.reasons) or "refused"
