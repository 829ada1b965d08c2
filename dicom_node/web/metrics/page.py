"""The page: what one node says, put together. Rows are the truth; nothing is counted in passing.

A scrape reads what indexes give, the rows of the last minutes, and the disks. What costs is read in
the background, once a minute or seldom (`paced`); its age is on the page where it matters. After
the start some families are missing until they were read for the first time.
"""

import logging
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from dicom_node.documents import Documents
from dicom_node.drift.judging import Drift, drifts
from dicom_node.ledger import compute
from dicom_node.web.metrics import live, minute, tallies
from dicom_node.web.metrics.counting import RowCounter
from dicom_node.web.metrics.paced import Paced
from dicom_node.web.metrics.processes import groups
from dicom_node.web.metrics.table import gauge
from migrations.schema import current_revision, newest_revision
from models.session import Database
from models.settings import Settings

log = logging.getLogger(__name__)

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
COSTLY_SECONDS: Final = 60.0
_DRIFT_SECONDS: Final = 600.0


class NodeCollector(Collector):
    """Reads one node. Safe for several threads."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        documents: Documents,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._database, self._monotonic = settings, database, monotonic
        self._newest = newest_revision()
        self._received = RowCounter(tallies.RECEIVED, monotonic)
        self._events = RowCounter(tallies.EVENTS, monotonic)
        self._sends = RowCounter(tallies.SENDS, monotonic)
        self._analyses = RowCounter(tallies.ANALYSES, monotonic)

        def counts() -> minute.Counts:
            return minute.read_counts(database)

        self._counts = Paced("counts", counts, COSTLY_SECONDS, monotonic=monotonic)
        self._first = Paced("counters", self._read_counters, float("inf"), monotonic=monotonic)
        self._ledger = Paced(
            "ledger",
            lambda: compute(database, settings, documents),
            COSTLY_SECONDS,
            monotonic=monotonic,
        )
        self._drift = Paced("drift", self._drifts, _DRIFT_SECONDS, monotonic=monotonic)
        self._broker = Paced(
            "broker",
            lambda: minute.read_broker(settings.effective_broker),
            COSTLY_SECONDS,
            wait_seconds=0.0,  # one that is away is waited for
            monotonic=monotonic,
        )
        self._processes = Paced(
            "processes", lambda: groups(settings.data_dir), COSTLY_SECONDS, monotonic=monotonic
        )

    def settle(self, seconds: float = 60.0) -> None:
        """Wait until everything that was begun in the background has ended, each so long."""
        for database in (self._counts, self._first, self._ledger, self._drift):
            database.join(seconds)
        for other in (self._broker, self._processes):
            other.join(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric that can be known now: without database or disk those of the other."""
        yield gauge("build_info", [((version("dicom-node"),), 1)], ("version",))
        yield from live.of_disks(self._settings)
        if reading := self._processes.value():
            yield from minute.of_processes(reading.value)
        if depths := self._broker.value():
            yield from minute.of_broker(depths.value)
        try:
            is_newest = current_revision(self._database) == self._newest
            of_rows = list(self._of_rows()) if is_newest else []
        except SQLAlchemyError as error:
            log.warning("metrics without the database: %s", type(error).__name__)
            yield gauge("database_up", [((), 0)])
            yield gauge("schema_ok", [((), 0)])
            return
        yield gauge("database_up", [((), 1)])
        yield gauge("schema_ok", [((), is_newest)])
        yield from of_rows
        if is_newest:
            yield from self._costly()

    def _costly(self) -> Iterator[Metric]:
        if counts := self._counts.value():
            yield from minute.of_counts(counts.value)
        if ledger := self._ledger.value():
            yield from minute.of_ledger(ledger, self._monotonic() - ledger.at)
        if drift := self._drift.value():
            yield from minute.of_drift(drift.value)

    def _of_rows(self) -> Iterator[Metric]:
        """Yield what rows say; counters once their tables were read, which a scrape begins."""
        is_counted = self._first.value() is not None
        with self._database.read() as session:
            yield from live.of_rows(session)
            if is_counted:
                yield from self._counters(session)

    def _counters(self, session: Session) -> Iterator[Metric]:
        destinations, models = live.names_of(session)
        settings = self._settings.monitoring
        yield from live.of_received(self._received.read(session), settings)
        yield from live.of_events(self._events.read(session))
        yield from live.of_sends(self._sends.read(session), destinations)
        yield from live.of_analyses(self._analyses.read(session), models)

    def _read_counters(self) -> bool:
        for each in (self._received, self._events, self._sends, self._analyses):
            each.catch_up(self._database)
        return True

    def _drifts(self) -> list[Drift]:
        with self._database.read() as session:
            return drifts(session, self._settings.monitoring)


class Metrics:
    """The page: a registry of its own over one collector."""

    def __init__(self, settings: Settings, database: Database, documents: Documents) -> None:
        self.collector = NodeCollector(settings, database, documents)
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self.collector)

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)
