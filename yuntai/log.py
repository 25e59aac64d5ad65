"""Logging for every process: one JSON object a line on standard error, in UTC, with the process's name.

``request_id`` is bound with :func:`structlog.contextvars.bind_contextvars` where a request enters, and is then on every
line that the request causes. The supervisor that runs the process stores and rotates the lines.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, cast

import structlog

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger, Processor

LEVEL_VARIABLE = "YUNTAI_LOG_LEVEL"
_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


def setup(process_name: str, level: str | None = None) -> FilteringBoundLogger:
    """Send this process's log lines, ours and the libraries', to standard error as JSON; return a logger."""
    chosen = (level or os.environ.get(LEVEL_VARIABLE) or "info").lower()
    if chosen not in _LEVELS:
        raise ValueError(f"{LEVEL_VARIABLE} is {chosen!r}; choose one of {', '.join(_LEVELS)}")
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        structlog.processors.UnicodeDecoder(),
    ]

    def add_process(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process_name
        return event

    shared.append(add_process)
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(ensure_ascii=False)],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[chosen]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    _route_standard_logging(shared, _LEVELS[chosen])
    return get(process_name)


def get(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines carry ``part=name``; safe at import time, before :func:`setup`."""
    return cast("FilteringBoundLogger", structlog.get_logger(part=name))


def _route_standard_logging(shared: list[Processor], level: int) -> None:
    """Give the libraries' :mod:`logging` lines the same form, one level quieter when ours is info."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.JSONRenderer(ensure_ascii=False),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING) if level == logging.INFO else level)
