"""Logs: structlog to standard error, one line an event, as JSON or as text."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar
from typing import Any

import structlog

from certloom.settings.schema import Logging

_HIDDEN = frozenset(
    {"secret", "token", "mac_key", "hmac_key", "password", "private_key", "authorization", "eab", "data_key"}
)

# Never with the values of local variables: they hold keys.
_EXCEPTIONS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=12)
)


request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request being answered, which its client also sees; tasks begun for it inherit it."""


def _add_request_id(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Every line that is written for a request says for which."""
    id = event.pop("trace", "") or request_id.get()
    if id:
        event["request_id"] = id
    return event


def _hide_secrets(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """A last net: nothing is logged under a name that speaks of a secret."""
    for name in _HIDDEN & event.keys():
        event[name] = "(hidden)"
    return event


def configure(settings: Logging) -> None:
    """Set up structlog, and send what libraries log the same way."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _hide_secrets,
    ]
    finish: list[Any] = (
        [_EXCEPTIONS, structlog.processors.JSONRenderer()]
        if settings.format == "json"
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
    )
    structlog.configure(
        processors=shared + finish,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *finish],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
