"""What is read once a minute: whole tables, the broker, processes. And the ledger, and drift."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from prometheus_client.core import Metric
from sqlalchemy import func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.drift.judging import Drift
from dicom_node.errors import BrokerError
from dicom_node.ledger import Line
from dicom_node.queue import JobQueue
from dicom_node.web.metrics.paced import Reading
from dicom_node.web.metrics.processes import Group
from dicom_node.web.metrics.table import Key, gauge
from models.broker import Broker
from models.delivery import Delivery, Destination
from models.imaging import Instance, Study
from models.job import Job
from models.session import Database
from models.states import (
    DeliveryState,
    EventReportState,
    InstanceState,
    JobKind,
    JobState,
    StudyState,
)
from models.workitem import WorkitemMessage

_SPOOL_LINE: Final = "spool files"
# Table: the columns that are counted, and the labels that they become.
_COUNTED: Final[dict[str, tuple[tuple[InstrumentedAttribute[Any], ...], Key]]] = {
    "instances": ((Instance.state,), ("state",)),
    "jobs": ((Job.kind, Job.state), ("kind", "state")),
    "deliveries": ((Destination.name, Delivery.state), ("destination", "state")),
    "studies": ((Study.state,), ("state",)),
    "workitem_messages": (
        (WorkitemMessage.receiver, WorkitemMessage.state),
        ("receiver", "state"),
    ),
}


@dataclass(frozen=True)
class Counts:
    """Rows by state, and of what the database consists."""

    by_name: dict[str, list[tuple[Key, int]]]
    reasons: list[tuple[Key, int]]
    database_bytes: int


def read_counts(database: Database) -> Counts:
    """Count whole tables."""
    with database.read() as session:
        by_name = {name: _count(session, name) for name in _COUNTED}
        reasons = (
            select(Instance.reason, func.count())
            .where(Instance.reason.is_not(None))
            .group_by(Instance.reason)
        )
        found = [((str(reason),), number) for reason, number in session.execute(reasons)]
        return Counts(by_name, sorted(found), _size(session, database))


def _count(session: Session, name: str) -> list[tuple[Key, int]]:
    """Return how many rows there are of each state; of a state without rows: 0."""
    columns, _ = _COUNTED[name]
    query = select(*columns, func.count()).group_by(*columns)
    if name == "deliveries":
        query = query.join_from(Delivery, Destination)
    found = {tuple(map(str, key)): number for *key, number in session.execute(query)}
    return sorted((dict.fromkeys(_every_key(session, name), 0) | found).items())


def _every_key(session: Session, name: str) -> list[Key]:
    if name == "jobs":
        return [(kind.value, state.value) for kind in JobKind for state in JobState]
    if name == "deliveries":
        receivers = session.scalars(select(Destination.name)).all()
        return [(receiver, state.value) for receiver in receivers for state in DeliveryState]
    if name == "workitem_messages":
        receivers = session.scalars(select(WorkitemMessage.receiver).distinct()).all()
        return [(receiver, state.value) for receiver in receivers for state in EventReportState]
    return [(state.value,) for state in (InstanceState if name == "instances" else StudyState)]


def _size(session: Session, database: Database) -> int:
    """Return the size of the database: of its file, or what PostgreSQL says."""
    if not database.is_sqlite:
        return session.scalar(text("SELECT pg_database_size(current_database())")) or 0
    pages = session.scalar(
        text("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size")
    )
    return pages or 0


def of_counts(counts: Counts) -> Iterator[Metric]:
    """Yield what was counted."""
    for name, (_, labels) in _COUNTED.items():
        yield gauge(name, counts.by_name[name], labels)
    yield gauge("unanalysed", counts.reasons, ("reason",))
    yield gauge("database_bytes", [((), counts.database_bytes)])


def read_broker(broker: Broker) -> dict[str, int] | None:
    """Return how many messages wait in each queue; None when the broker does not answer.

    RabbitMQ has all but the shadows in one queue: those figures come from the rows, by kind.
    """
    queue = JobQueue(broker)
    try:
        return {name: queue.depth(name) for name in queue.names}
    except BrokerError:
        return None
    finally:
        queue.close()


def of_broker(depths: dict[str, int] | None) -> Iterator[Metric]:
    """Yield what the broker says."""
    yield gauge("broker_up", [((), depths is not None)])
    waiting = [((name,), number) for name, number in (depths or {}).items()]
    yield gauge("broker_messages", waiting, ("queue",))


def of_processes(groups: dict[tuple[str, str], Group]) -> Iterator[Metric]:
    """Yield what the processes hold."""
    for name, attribute in (
        ("processes", "processes"),
        ("process_memory_bytes", "memory_bytes"),
        ("process_open_files", "open_files"),
        ("process_open_files_share", "open_files_share"),
    ):
        values = [(key, getattr(group, attribute)) for key, group in sorted(groups.items())]
        yield gauge(name, values, ("role", "program"))


def of_ledger(reading: Reading[list[Line]], age: float) -> Iterator[Metric]:
    """Yield the ledger, which was begun so many seconds ago."""
    lines = reading.value
    yield gauge("ledger_balanced", [((it.name,), it.balanced) for it in lines], ("line",))
    yield gauge("ledger_difference", [((it.name,), it.left - it.right) for it in lines], ("line",))
    yield gauge("ledger_age_seconds", [((), age)])
    yield gauge("ledger_seconds", [((), reading.seconds)])
    parts = next((it.parts for it in lines if it.name == _SPOOL_LINE), {})
    yield gauge("orphan_files", [((), parts.get("without a row", 0))])
    yield gauge("missing_files", [((), parts.get("missing", 0))])


def of_drift(found: list[Drift]) -> Iterator[Metric]:
    """Yield how far each source is from its reference; no distance where too little is known."""
    known = [it for it in found if it.is_known]
    labels = ("source", "of")
    yield gauge("drift_psi", [((it.source, it.of), it.psi.value) for it in known], labels)
    yield gauge("drift_psi_limit", [((it.source, it.of), it.psi.limit) for it in known], labels)
    opacity = [it for it in known if it.of == "opacity"]
    yield gauge("drift_ks", [((it.source,), it.ks.value) for it in opacity], ("source",))
    yield gauge("drift_ks_limit", [((it.source,), it.ks.limit) for it in opacity], ("source",))
    sides = [
        ((it.source, it.of, side), getattr(it, side))
        for it in found
        for side in ("reference", "current")
    ]
    yield gauge("drift_images", sides, ("source", "of", "side"))
    reasons = [it for it in known if it.of == "reasons"]
    new = [((it.source,), len(it.new_reasons)) for it in reasons]
    yield gauge("drift_new_reasons", new, ("source",))
    yield gauge("drift_alarm", [((it.source, it.of), it.is_alarm) for it in known], labels)
