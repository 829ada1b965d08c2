"""Logging of every process: one line per event on stderr, ids only, never patient data."""

import json
import logging
import sys
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from typing_extensions import override

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
# What every LogRecord has; the rest was bound with `extra={"job_id": 7}`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# These quote values of data sets, which may be patient data.
_QUOTES_VALUES: Final = ("pydicom", "py.warnings")
# These talk below the level given. pynetdicom reports every refused connection as an error; what
# matters of that, delivery and listener say themselves.
_LEVELS: Final = {
    "highdicom": logging.WARNING,
    "kombu": logging.WARNING,
    "alembic": logging.WARNING,
    "uvicorn": logging.WARNING,
    "pynetdicom": logging.CRITICAL,
}


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time (UTC), level, logger, message, what was bound, traceback."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)

    @override
    def formatException(self, ei: _ExcInfo) -> str:
        return _without_rows(super().formatException(ei))


class TextFormatter(logging.Formatter):
    """The same for people."""

    @override
    def formatException(self, ei: _ExcInfo) -> str:
        return _without_rows(super().formatException(ei))


def _without_rows(traceback: str) -> str:
    """Drop the lines in which PostgreSQL quotes the row that it refused."""
    lines = traceback.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("DETAIL:", "CONTEXT:")))


def set_up_logging(role: str = "worker", *, level: str = "INFO", as_json: bool = False) -> None:
    """Send every record of this process to stderr, once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_may_be_shown)
    if as_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(
            TextFormatter(f"%(asctime)s %(levelname)-7s {role:8s} %(name)s: %(message)s")
        )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)


def _may_be_shown(record: logging.LogRecord) -> bool:
    """Filter on the handler: pydicom sets its logger's level again when it is imported."""
    package = record.name.partition(".")[0]
    if package in _QUOTES_VALUES or record.name in _QUOTES_VALUES:
        return False
    return record.levelno >= _LEVELS.get(package, logging.NOTSET)
