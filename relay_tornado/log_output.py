"""Logging: structlog and the standard library's loggers share one renderer, and secrets are redacted."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import MutableMapping
from logging.handlers import SysLogHandler
from typing import IO, Any

import structlog

from relay_tornado.ids import SECRET_PREFIX
from relay_tornado.log_stream import LogHandler
from relay_tornado.sd_notify import in_journal
from relay_tornado.settings import Settings

_SECRETS = (
    (re.compile(SECRET_PREFIX + "[0-9A-Za-z]*"), SECRET_PREFIX + "[redacted]"),
    (re.compile(r"(/v1/webhooks/)[^\s\"'?<>\\]+(?:\?[^\s\"'<>\\]*)?"), r"\1[redacted]"),
    (
        re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?(?:(?:basic|bearer)\s+)?)[^\s\"',}]+", re.IGNORECASE),
        r"\1[redacted]",
    ),
    (re.compile(r"\b((?:basic|bearer)\s+)[A-Za-z0-9+/=._~-]{8,}", re.IGNORECASE), r"\1[redacted]"),
)


def redact(text: str) -> str:
    """The text without tokens' secrets, values of Authorization headers, and what follows /v1/webhooks/."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "backslashreplace"))
    if isinstance(value, MutableMapping):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(item) for item in value]
    if value is None or isinstance(value, int | float):
        return value
    return redact(str(value))


def _redact_event(logger: Any, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if not key.startswith("_"):
            event[key] = _clean(value)
    return event


def _passes(record: logging.LogRecord) -> bool:
    """Leaves out records with which network scanners would fill the log: failed handshakes."""
    return not str(record.msg).startswith("SSL Error on ")


class _ForJournal(structlog.stdlib.ProcessorFormatter):
    """Puts each record's level before it, in the journal's form: `<4>` is a warning's."""

    def format(self, record: logging.LogRecord) -> str:
        level = SysLogHandler.priority_names.get(record.levelname.lower(), SysLogHandler.LOG_WARNING)
        return f"<{level}>{super().format(record)}"


def _handler(stream: IO[str]) -> logging.Handler:
    try:
        return LogHandler(stream)
    except (OSError, ValueError):  # no file is behind it
        return logging.StreamHandler(stream)


def configure(settings: Settings, stream: IO[str] | None = None) -> None:
    """Sends every log line to `stream` (stderr): in readable form to a terminal, otherwise as JSON lines; to systemd's
    journal, each with its level before it."""
    stream = sys.stderr if stream is None else stream
    console = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=not console),
    ]
    renderer: Any = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    handler = _handler(stream)
    handler.setFormatter(
        (_ForJournal if in_journal(stream) else structlog.stdlib.ProcessorFormatter)(
            foreign_pre_chain=shared,
            processors=[
                structlog.processors.format_exc_info,
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _redact_event,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    # Tornado's records below a warning contain input of hostile peers, such as header values; aiosqlite logs
    # statements.
    for name in ("tornado.general", "tornado.access", "aiosqlite", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("tornado.general").addFilter(_passes)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
