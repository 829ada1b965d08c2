"""`/metrics`: what an alarm needs, in the text format of Prometheus. Counts and ages only.

No registry of the process is used: the collector reads rows and disk when it is asked. What costs
(whole tables, the spool's folders, the SR documents) is read once a minute, whoever asks.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.documents import Documents
from dicom_node.ledger import Line, compute
from dicom_node.spool import Spool
from migrations.schema import current_revision, newest_revision
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.imaging import Instance, Study
from models.job import Job
from models.session import Database
from models.settings import Settings
from models.states import DeliveryState, InstanceState, JobKind, JobState, StudyState

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_COSTLY_SECONDS = 60.0
_SPOOL_LINE = "spool files"

# Name without prefix: what it says. docs/operations.md has the alarm of each.
HELP: Final = {
    "database_up": "1 when the database answers",
    "schema_ok": "1 when the database has the schema of this release",
    "ledger_balanced": "1 when both sides of this line of the ledger agree",
    "ledger_difference": "Left side minus right side of this line of the ledger",
    "ledger_age_seconds": "Seconds since the ledger was computed",
    "orphan_files": "Spool files without a row that no C-STORE is about to record",
    "missing_files": "Rows whose spool file is gone",
    "instances": "Received objects by state",
    "jobs": "Jobs by kind and state",
    "deliveries": "Deliveries by destination and state",
    "studies": "Studies by state",
    "oldest_pending_job_seconds": "Age of the oldest job that is due and not leased",
    "oldest_published_job_seconds": "Time for which the oldest message has waited in the queue",
    "oldest_due_delivery_seconds": "Age of the oldest delivery that did not end, by destination",
    "expired_leases": "Jobs whose worker let its lease expire, not yet taken back",
    "spool_up": "1 when the folder of the spool can be read",
    "spool_free_bytes": "Free bytes on the disk of the spool",
    "spool_floor_bytes": "Free bytes below which nothing is received",
}


@dataclass(frozen=True)
class Costly:
    """What is read once a minute."""

    lines: list[Line]
    counts: dict[str, list[tuple[tuple[str, ...], int]]]
    at: float  # monotonic


@dataclass(eq=False)
class NodeCollector(Collector):
    """Reads one node. Safe for several threads; the costly part is read by one at a time."""

    settings: Settings
    database: Database
    documents: Documents
    monotonic: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _costly: Costly | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that can be known now: without database or disk those of the other."""
        yield from self._spool()
        try:
            live = list(self._live())
        except SQLAlchemyError as error:
            log.warning("metrics without the database: %s", type(error).__name__)
            yield _gauge("database_up", [((), 0)])
            yield _gauge("schema_ok", [((), 0)])
            return
        yield _gauge("database_up", [((), 1)])
        yield from live
        try:
            costly = list(self._costly_metrics())
        except (SQLAlchemyError, OSError) as error:
            log.warning("metrics without the ledger: %s", type(error).__name__)
            return
        yield from costly

    def _spool(self) -> Iterator[Metric]:
        try:
            spool = Spool(self.settings.spool_dir, self.settings.dicom.min_free_bytes)
            free = spool.free_bytes()
        except OSError:
            yield _gauge("spool_up", [((), 0)])
            return
        yield _gauge("spool_up", [((), 1)])
        yield _gauge("spool_free_bytes", [((), free)])
        yield _gauge("spool_floor_bytes", [((), spool.min_free_bytes)])

    def _live(self) -> Iterator[Metric]:
        is_newest = current_revision(self.database) == newest_revision()
        yield _gauge("schema_ok", [((), is_newest)])
        with self.database.read() as session:
            pending = Job.state == JobState.PENDING
            due = _age(session, select(func.min(Job.not_before)).where(pending))
            published = _age(session, select(func.min(Job.published_at)).where(pending))
            expired = session.scalar(
                select(func.count())
                .select_from(Job)
                .where(Job.state == JobState.LEASED, Job.lease_until < utc_now())
            )
            deliveries = list(_oldest_deliveries(session))
        yield _gauge("oldest_pending_job_seconds", [((), due)])
        yield _gauge("oldest_published_job_seconds", [((), published)])
        yield _gauge("expired_leases", [((), expired or 0)])
        yield _gauge("oldest_due_delivery_seconds", deliveries, ("destination",))

    def _costly_metrics(self) -> Iterator[Metric]:
        costly = self._read()
        lines = costly.lines
        balanced = [((line.name,), line.balanced) for line in lines]
        yield _gauge("ledger_balanced", balanced, ("line",))
        differences = [((line.name,), line.left - line.right) for line in lines]
        yield _gauge("ledger_difference", differences, ("line",))
        yield _gauge("ledger_age_seconds", [((), self.monotonic() - costly.at)])
        parts = next((line.parts for line in lines if line.name == _SPOOL_LINE), {})
        yield _gauge("orphan_files", [((), parts.get("without a row", 0))])
        yield _gauge("missing_files", [((), parts.get("missing", 0))])
        for name, (_, labels) in _COUNTED.items():
            yield _gauge(name, costly.counts[name], labels)

    def _read(self) -> Costly:
        with self._lock:
            if self._costly is None or self.monotonic() - self._costly.at >= _COSTLY_SECONDS:
                at = self.monotonic()
                lines = compute(self.database, self.settings, self.documents)
                with self.database.read() as session:
                    counts = {name: _count(session, name) for name in _COUNTED}
                self._costly = Costly(lines, counts, at)
            return self._costly


# Table: the columns that are counted, and the labels that they become.
_COUNTED: Final[dict[str, tuple[tuple[InstrumentedAttribute[Any], ...], tuple[str, ...]]]] = {
    "instances": ((Instance.state,), ("state",)),
    "jobs": ((Job.kind, Job.state), ("kind", "state")),
    "deliveries": ((Destination.name, Delivery.state), ("destination", "state")),
    "studies": ((Study.state,), ("state",)),
}


def _count(session: Session, name: str) -> list[tuple[tuple[str, ...], int]]:
    """Return how many rows there are of each state; of a state without rows: 0."""
    columns, _ = _COUNTED[name]
    query = select(*columns, func.count()).group_by(*columns)
    if name == "deliveries":
        query = query.join_from(Delivery, Destination)
    found = {tuple(map(str, key)): number for *key, number in session.execute(query)}
    return sorted((dict.fromkeys(_every_key(session, name), 0) | found).items())


def _every_key(session: Session, name: str) -> list[tuple[str, ...]]:
    if name == "jobs":
        return [(kind.value, state.value) for kind in JobKind for state in JobState]
    if name == "deliveries":
        receivers = session.scalars(select(Destination.name)).all()
        return [(receiver, state.value) for receiver in receivers for state in DeliveryState]
    return [(state.value,) for state in (InstanceState if name == "instances" else StudyState)]


def _oldest_deliveries(session: Session) -> Iterator[tuple[tuple[str, ...], float]]:
    open_states = (DeliveryState.DUE, DeliveryState.SENDING)
    for key, name in session.execute(select(Destination.id, Destination.name)).all():
        oldest = select(func.min(Delivery.created_at)).where(
            Delivery.destination_id == key, Delivery.state.in_(open_states)
        )
        yield (name,), _age(session, oldest)


def _age(session: Session, oldest: Any) -> float:  # noqa: ANN401  a query of one time
    """Return for how long the time that the query gives is past; 0 without one."""
    at: datetime | None = session.scalar(oldest)
    return max(0.0, (utc_now() - at).total_seconds()) if at else 0.0


def _gauge(
    name: str, values: Iterable[tuple[tuple[str, ...], float]], labels: tuple[str, ...] = ()
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"dicom_node_{name}", HELP[name], labels=labels)
    for key, value in values:
        family.add_metric(key, float(value))
    return family


class Metrics:
    """The page: a registry of its own over one collector."""

    def __init__(self, settings: Settings, database: Database, documents: Documents) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(NodeCollector(settings, database, documents))

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)
