"""Logging: one line per event on stderr, ids only, never patient data."""

import json
import logging
import sys
from datetime import UTC, datetime

from typing_extensions import override


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, traceback."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(role: str, *, level: str = "INFO", as_json: bool = False) -> None:
    """Send this process's log to stderr.

    pynetdicom logs the elements of the data sets that it handles at DEBUG, and UIDs and peers at
    INFO: it is held back so that no patient text can reach a log.
    """
    handler = logging.StreamHandler(sys.stderr)
    if as_json:
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s %(levelname)-7s {role:8s} %(name)s: %(message)s")
        )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for name in ("pydicom", "uvicorn.access", "kombu", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It reports every refused connection as an error; what matters of that we log ourselves.
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
