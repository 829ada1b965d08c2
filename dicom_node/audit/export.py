"""The audit as lines of text: CSV, JSON lines, audit messages of PS3.15 A.5. For command and API.

Memory does not grow with the number of events.
"""

import csv
import io
import json
import socket
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final

from sqlalchemy.orm import Session

from dicom_node.audit.facts import facts_of
from dicom_node.audit.messages import Node, messages
from dicom_node.listing import inert
from models.settings import Settings

FORMATS: Final = ("csv", "ndjson", "dicom")
_BLOCK: Final = 500
Rows = Iterable[dict[str, Any]]


def export_lines(session: Session, settings: Settings, rows: Rows, form: str) -> Iterator[str]:
    """Yield the lines of a format, each with its end. Raises KeyError for one that is none."""
    writers: dict[str, Callable[[Rows], Iterator[str]]] = {
        "csv": _csv,
        "ndjson": _ndjson,
        "dicom": partial(_dicom, session, settings),
    }
    yield from writers[form](rows)


def _ndjson(rows: Rows) -> Iterator[str]:
    return (json.dumps(row) + "\n" for row in rows)


def _csv(rows: Rows) -> Iterator[str]:
    """Yield CSV with a header line; what is nested is JSON."""
    for number, row in enumerate(rows):
        flat = row | {name: json.dumps(row[name]) for name in ("details", "patient")}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(flat))
        if number == 0:
            writer.writeheader()
        writer.writerow({key: inert(value) for key, value in flat.items()})
        yield text.getvalue()


def _dicom(session: Session, settings: Settings, rows: Rows) -> Iterator[str]:
    site = settings.audit.repository.site
    node = Node(socket.gethostname(), settings.dicom.ae_title, site)
    source = iter(rows)
    while block := list(islice(source, _BLOCK)):
        for message in messages(block, facts_of(session, block), node):
            yield message.xml().decode() + "\n"
