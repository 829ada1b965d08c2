"""Logging of every process: one line per event on stderr, ids only, never patient data."""

import json
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Final

from typing_extensions import override

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
# What every LogRecord has; the rest was bound with `extra={"job_id": 7}`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
# These quote values of data sets, which may be patient data.
_QUOTES_VALUES: Final = ("pydicom", "py.warnings")
# So do the words of errors that are raised in these.
_QUOTING_PACKAGES: Final = frozenset(("pydicom", "highdicom", "gdcm", "hl7", "fhir", "pydantic"))
# These talk below the level given. pynetdicom reports every refused connection as an error; what
# matters of that, delivery and listener say themselves.
_LEVELS: Final = {
    "highdicom": logging.WARNING,
    "kombu": logging.WARNING,
    "alembic": logging.WARNING,
    "uvicorn": logging.WARNING,
    "pynetdicom": logging.CRITICAL,
    "opentelemetry": logging.CRITICAL,  # models.tracing says once what this repeats
}


# How our messages name a row: `job %d`, `delivery %d: ...`; its id becomes a field of its own.
_ROWS: Final = frozenset(
    ("analysis", "artifact", "commitment", "delivery", "event", "instance", "job", "study")
)
_PLACEHOLDER: Final = re.compile(r"(?:\b([a-z]+) )?%(?!%)[-+ #0-9.]*[a-zA-Z]")
_bound: ContextVar[Mapping[str, object] | None] = ContextVar("bound", default=None)


@contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Give every line that is logged in the block these fields; ids, never patient data."""
    token = _bound.set({**(_bound.get() or {}), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    time (UTC), level, role, logger, process, event, message, the ids of rows, what was bound, the
    traceback. `event` is the message before its values were put in: the same for every such line.
    """

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "role": self._role,
            "logger": record.name,
            "process": record.process,
            "event": str(record.msg),
            "message": record.getMessage(),
            **(_bound.get() or {}),
            **_ids(record),
            **{key: value for key, value in vars(record).items() if key not in _STANDARD},
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)

    @override
    def formatException(self, ei: _ExcInfo) -> str:
        return _without_values(super().formatException(ei), ei[1])


class TextFormatter(logging.Formatter):
    """The same for people."""

    @override
    def formatException(self, ei: _ExcInfo) -> str:
        return _without_values(super().formatException(ei), ei[1])


def _ids(record: logging.LogRecord) -> dict[str, object]:
    """Return the ids of the rows that a message names."""
    if not isinstance(record.args, tuple) or not isinstance(record.msg, str):
        return {}
    words = [found[1] for found in _PLACEHOLDER.finditer(record.msg)]
    pairs = zip(words, record.args, strict=False)
    return {f"{word}_id": value for word, value in pairs if word in _ROWS and type(value) is int}


def _without_values(text: str, error: BaseException | None) -> str:
    """Drop from a traceback what may quote a data set or a row.

    The lines in which PostgreSQL quotes the row that it refused, and the words of errors that came
    up in a package that quotes values.
    """
    for each in _chain(error):
        said = str(each)
        if said and _quotes(each.__traceback__):
            text = text.replace(said, "(its words are left out: they may quote the data set)")
    lines = text.splitlines()
    return "\n".join(line for line in lines if not line.startswith(("DETAIL:", "CONTEXT:")))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and the errors of a group."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        if isinstance(each, BaseExceptionGroup):
            waiting += each.exceptions


def _quotes(traceback: TracebackType | None) -> bool:
    while traceback is not None:
        module = str(traceback.tb_frame.f_globals.get("__name__", ""))
        if module.partition(".")[0] in _QUOTING_PACKAGES:
            return True
        traceback = traceback.tb_next
    return False


def set_up_logging(role: str = "worker", *, level: str = "INFO", as_json: bool = False) -> None:
    """Send every record of this process to stderr, once."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_may_be_shown)
    if as_json:
        handler.setFormatter(JsonFormatter(role))
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
