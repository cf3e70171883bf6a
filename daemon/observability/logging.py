"""Structured logs on stderr, with one redactor through which everything passes."""

import logging
import re
import sys
from collections.abc import MutableMapping
from typing import Any

import structlog

_SECRETS = re.compile(
    r"(ak_|pt_)[0-9A-Za-z]{8,}"
    r"|(sk-ant-)[0-9A-Za-z_-]+"
    r"|(ABSK)[0-9A-Za-z+/=]{8,}"
    r"|(bedrock-api-key-)[0-9A-Za-z+/=_-]+"
    r"|(eyJ)[0-9A-Za-z_-]{8,}\.[0-9A-Za-z_-]+\.[0-9A-Za-z_-]*"
    r"|((?:[Bb]earer|[Bb]asic) )[^\s\"',]+"
    r"|(://[^\s:/@]*:)[^\s@/]+(?=@)"
)


def redact(text: str) -> str:
    """The text with everything that looks like a credential cut to its prefix."""
    return _SECRETS.sub(lambda match: f"{next(filter(None, match.groups()))}***", text)


def configure(*, level: str = "info", json: bool = True) -> None:
    """Send structlog and the standard library's loggers to stderr: JSON for machines, aligned text for a terminal."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.types.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _redact_event,
    ]
    renderer: structlog.types.Processor = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(number, logging.WARNING))


def _redact_event(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(value)
        elif not isinstance(value, int | float | bool | type(None)):
            event[key] = redact(str(value))
    return event
