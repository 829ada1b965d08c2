"""How long each migration takes on a large PostgreSQL, and how long a writer waits for it.

    python benchmarks/upgrade.py --instances 1000000

Fills a database of its own, takes the schema back step by step, then forward again. Beside it a
writer does what a C-STORE, a worker and a delivery do to the tables, again and again: its longest
wait says for how long the node stood still. The processor time is that of PostgreSQL alone: on a
busy machine it says more than the clock.
"""

import argparse
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import psutil
import servers
from million import fill
from rows import open_database
from sqlalchemy import create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from migrations import schema
from models.session import Database

_TOUCHED = ("study", "series", "instance", "job", "analysis", "artifact", "delivery")
_JOBS = """
INSERT INTO job (kind, state, priority, instance_id, model_selector, attempts, not_before,
    created_at, finished_at)
SELECT 'analyse', 'done', 0, id, 'unet', 1, received_at, received_at, received_at FROM instance
"""
_EVENT = """
INSERT INTO audit_event (at, action, outcome, details)
VALUES (now(), 'instance_stored', 'stored', '{}')
"""


class Writer:
    """Writes to every large table, and knows its longest wait."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        self.longest = 0.0
        self.failed = 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Write while the block runs."""
        self.longest, self.failed = 0.0, 0
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            began = time.monotonic()
            try:
                with self._engine.begin() as connection:
                    for table in _TOUCHED:
                        connection.execute(text(f"UPDATE {table} SET id = id WHERE id = 1"))  # noqa: S608  ours
                    connection.execute(text(_EVENT))
            except SQLAlchemyError:
                self.failed += 1
            self.longest = max(self.longest, time.monotonic() - began)
            stop.wait(0.02)


def _processor_seconds() -> float:
    """Return the processor time of PostgreSQL and all its processes, those that ended too."""
    times = [
        process.cpu_times()
        for server in psutil.Process().children()
        if server.name() == "postgres"
        for process in (server, *server.children())
    ]
    ended = sum(each.children_user + each.children_system for each in times)
    return ended + sum(each.user + each.system for each in times)


def _steps(database: Database) -> Iterator[str]:
    """Take the schema back to its beginning and forward again; yield a line for each step."""
    writer = Writer(database.url.render_as_string(hide_password=False))
    script = schema.ScriptDirectory.from_config(schema._config())  # noqa: SLF001  of the project
    newest_first = [each.revision for each in script.walk_revisions()]
    back = [("back", schema.downgrade, each) for each in newest_first[1:]]
    forward = [("up", schema.upgrade, each) for each in reversed(newest_first[:-1])]
    for name, change, revision in back + forward:
        began, used = time.monotonic(), _processor_seconds()
        with writer.writing():
            change(database, revision)
            seconds = time.monotonic() - began
        used = _processor_seconds() - used
        yield (
            f"{name:4} to {revision} {seconds:7.1f} s, processor {used:6.1f} s"
            f"   a writer waited {writer.longest:.1f} s, was refused {writer.failed} times"
        )


def main() -> None:
    """Print one line per step."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--instances", type=int, default=1_000_000)
    arguments.add_argument("--folder", type=Path)
    chosen = arguments.parse_args()
    binaries = servers.find_postgres()
    if binaries is None:
        raise SystemExit("no PostgreSQL is installed")  # noqa: EM101, TRY003  for a person
    with (
        servers.postgres(binaries, folder=chosen.folder) as server,
        servers.new_database(server) as url,
        open_database(url) as database,
    ):
        fill(database, chosen.instances)
        with database.engine.begin() as connection:
            connection.execute(text(_JOBS))
            counts = "SELECT (SELECT count(*) FROM instance), (SELECT count(*) FROM audit_event)"
            images, events = connection.execute(text(counts)).one()
        print(f"{images} images, {events} audit events")
        for line in _steps(database):
            print(line, flush=True)


if __name__ == "__main__":
    main()
