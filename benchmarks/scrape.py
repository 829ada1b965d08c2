"""What one scrape of /metrics costs when the node has many objects: a scratch PostgreSQL, no files.

    python benchmarks/scrape.py --instances 1000000

Prints how long each part takes that is read in the background, and what scrapes take.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy import text

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from million import fill
from rows import open_database
from servers import find_postgres, postgres

from dicom_node.documents import Documents
from dicom_node.drift.judging import drifts
from dicom_node.ledger import compute
from dicom_node.web.metrics import minute, tallies
from dicom_node.web.metrics.counting import SETTLE_SECONDS, RowCounter
from dicom_node.web.metrics.page import NodeCollector
from models.session import Database
from models.settings import load_settings


def main() -> None:
    """Make the rows, read every part once, and scrape."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instances", type=int, default=1_000_000)
    parser.add_argument("--scrapes", type=int, default=40)
    arguments = parser.parse_args()
    binaries = find_postgres()
    if binaries is None:
        sys.exit("no PostgreSQL is installed")
    with (
        tempfile.TemporaryDirectory(prefix="scrape-") as folder,
        postgres(binaries) as server,
        open_database(f"{server}/postgres") as database,
    ):
        _timed("rows", lambda: fill(database, arguments.instances))
        _measure(database, Path(folder), arguments.scrapes)


def _measure(database: Database, folder: Path, scrapes: int) -> None:
    settings = load_settings(None, data_dir=folder, database_url=str(database.url))
    settings.spool_dir.mkdir(parents=True)
    documents = Documents(settings.artifact_store)
    for name in ("RECEIVED", "EVENTS", "SENDS", "ANALYSES"):
        counter = RowCounter(getattr(tallies, name))
        what = f"{name.lower()}: whole table, once per start"
        _timed(what, partial(counter.catch_up, database))
        with database.read() as session:
            _timed(f"{name.lower()}: the newest rows", partial(counter.read, session))
    _timed("counts, once a minute", lambda: minute.read_counts(database))
    with database.read() as session:
        _timed("drift, every ten minutes", lambda: drifts(session, settings.monitoring))
    _timed("ledger without files", lambda: compute(database, settings, documents))
    clock = Clock()
    collector = NodeCollector(settings, database, documents, clock)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    _timed("first scrape", lambda: generate_latest(registry))
    for _ in range(3):  # until the newest rows count as settled, and nothing is read beside it
        clock.skip(SETTLE_SECONDS + 1)
        generate_latest(registry)
        collector.settle(600)
    _scrape("", database, registry, scrapes)
    clock.skip(24 * 3600)  # everything is due
    _scrape(" while ledger, counts and drift are read", database, registry, scrapes)
    collector.settle(600)


class Clock:
    """Monotonic time that can be put forward."""

    def __init__(self) -> None:
        self._offset = 0.0

    def skip(self, seconds: float) -> None:
        """Put it forward."""
        self._offset += seconds

    def __call__(self) -> float:
        """Return the time."""
        return time.monotonic() + self._offset


def _scrape(when: str, database: Database, registry: CollectorRegistry, number: int) -> None:
    """Scrape so often, and print the time, and how much of it somebody worked."""
    here, there = time.thread_time(), _processor_of_backends(database)
    seconds = [_timed(None, lambda: generate_latest(registry)) for _ in range(number)]
    here = (time.thread_time() - here) / number * 1000
    there = (_processor_of_backends(database) - there) / number * 1000
    middle, longest = statistics.median(seconds) * 1000, max(seconds) * 1000
    print(f"scrapes{when}: median {middle:.0f} ms, longest of {number} {longest:.0f} ms; ", end="")
    print(f"processor: {here:.0f} ms of the scrape, {there:.0f} ms of PostgreSQL")


def _processor_of_backends(database: Database) -> float:
    """Return the processor seconds of all connections."""
    with database.read() as session:
        pids = session.scalars(text("SELECT pid FROM pg_stat_activity WHERE datname = 'postgres'"))
        times = [psutil.Process(pid).cpu_times() for pid in pids]
    return sum(each.user + each.system for each in times)


def _timed(name: str | None, act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    seconds = time.perf_counter() - started
    if name is not None:
        print(f"{name}: {seconds:.3f} s", flush=True)
    return seconds


if __name__ == "__main__":
    main()
