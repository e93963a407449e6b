"""HTTPS exchanges at a start, before there is an event loop: bounded in time and size, without redirects.

Nothing of a request is ever in an error: it may hold a token or a key.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from certloom.secrets.errors import SecretError

_MOST = 65_536
_STEP_SECONDS = 10.0
_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"<Answer {self.status}>"


class NoAnswer(SecretError):
    """Not reached, not in time, not trusted, or too long: it may be otherwise in a moment."""


def trust(roots: str) -> ssl.SSLContext:
    """Trust anchors from a PEM file, or the system's. Raises ``SecretError``."""
    try:
        context = ssl.create_default_context(cafile=roots or None)
    except OSError as error:  # SSLError is one
        raise SecretError(f"no trust anchors in {roots}: {error.strerror or error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Endpoint:
    """A service that is asked until it answers or time is up."""

    def __init__(self, origin: str, what: str, roots: str, seconds: float) -> None:
        """``what`` names the service in errors. ``seconds`` is for everything it is asked. Raises
        ``SecretError``."""
        parts = urlsplit(origin)
        assert parts.hostname is not None  # the settings were checked
        self._host, self._port = parts.hostname, parts.port
        self._context = trust(roots) if parts.scheme == "https" else None
        self._what = what
        self._deadline = time.monotonic() + seconds
        self._origin = origin

    def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, *, again: frozenset[int]
    ) -> Answer:
        """The answer, asked for again after growing pauses when there is none or its status is in ``again``.

        Raises ``NoAnswer`` when the time is up.
        """
        pause = _FIRST_PAUSE
        while True:
            try:
                answer = self._once(method, path, headers, body)
                if answer.status not in again:
                    return answer
                why = f"it answers with status {answer.status}"
            except NoAnswer as error:
                why = str(error)
            if time.monotonic() + pause >= self._deadline:
                raise NoAnswer(f"{self._what} at {self._origin} cannot be used: {why}")
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _once(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        left = min(_STEP_SECONDS, self._deadline - time.monotonic())
        if left <= 0:
            raise NoAnswer("no answer in time")
        connection = (
            http.client.HTTPConnection(self._host, self._port, timeout=left)
            if self._context is None
            else http.client.HTTPSConnection(self._host, self._port, timeout=left, context=self._context)
        )
        try:
            connection.request(method, path, body, dict(headers))
            response = connection.getresponse()
            text = b""
            while chunk := response.read1(_MOST):
                text += chunk
                if len(text) > _MOST:
                    raise NoAnswer(f"it answers with more than {_MOST} octets")
                if time.monotonic() > self._deadline:
                    raise NoAnswer("no answer in time")
            return Answer(response.status, text)
        except ssl.SSLCertVerificationError as error:
            raise NoAnswer(f"its certificate is not trusted ({error.verify_message})") from None
        except TimeoutError:
            raise NoAnswer("no answer in time") from None
        except OSError as error:
            raise NoAnswer(error.strerror or type(error).__name__) from None
        except http.client.HTTPException as error:
            raise NoAnswer(f"not an HTTP answer ({type(error).__name__})") from None
        finally:
            connection.close()
