"""Mixed traffic against a whole node for minutes or hours: whether it keeps up, and leaks.

    python benchmarks/soak.py --minutes 60 --peak --pacs orthanc --out soak

Starts `dicom-node up` and a PACS, sends studies of one to three images, studies that come again,
corrected ones, documents, damaged objects, C-ECHOs and TCP probes; prints one line per minute, and
at the end Markdown tables (with --out also as files FOLDER/soak.md and soak.json). The warm-up is
not counted: its traffic, its memory. Exit 1 when the ledger does not balance, a study was answered
and has no SR in the PACS, or a process grew by more than 5 % or leaked descriptors after warm-up.

`--peak` measures first at which rate images are analysed while there is always a small backlog;
without --rate the soak then runs at half of it.
"""

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from soaking.results import Arrivals, OrthancArrivals, Rows, TimedStoragePacs
from soaking.summary import Outcome, as_json, as_markdown, percentiles
from soaking.traffic import Diary, Modality, Traffic
from soaking.watch import MIB, Watch

from dicom_node.demo.node import NodeProcess, running
from dicom_node.demo.pacs import OrthancPacs, find_orthanc, free_ports

_SAMPLE_SECONDS: Final = 5.0
_PEAK_BACKLOG: Final = 20  # jobs that wait while the peak is measured
_FILL_SECONDS: Final = 30.0  # until the backlog is there and every process has done something
_FLAT_OUT: Final = 100_000.0  # images per minute: as many as may go
_DRAIN_SECONDS: Final = 900.0
_LATE_SECONDS: Final = 30.0  # for the PACS to be asked what it got, after the last delivery
_DEFAULT_RATE: Final = 20.0


@dataclass
class Run:
    """The parts of one soak."""

    node: NodeProcess
    arrivals: Arrivals
    rows: Rows
    watch: Watch
    modality: Modality

    def peak(self, minutes: float) -> float:
        """Return images analysed per minute while there is always a little to do."""
        diary = Diary()
        traffic = Traffic(self.node.dicom_port, self.modality, diary, seed=2)

        def send(seconds: float) -> None:
            until = time.monotonic() + seconds
            traffic.run(_FLAT_OUT, until, lambda: self.rows.backlog()["jobs"] < _PEAK_BACKLOG)

        send(_FILL_SECONDS)
        start, before = time.monotonic(), self.rows.analysed()
        send(60.0 * minutes)
        rate = (self.rows.analysed() - before) * 60.0 / (time.monotonic() - start)
        print(f"peak: {rate:.1f} images analysed per minute", flush=True)
        self.drain()
        return rate

    def drain(self) -> None:
        """Wait until nothing is left to do, or for a quarter of an hour."""
        deadline = time.monotonic() + _DRAIN_SECONDS
        while +self.rows.backlog() and time.monotonic() < deadline:
            time.sleep(1.0)

    def soak(
        self, minutes: float, warm_up: float, rate: float, conditions: dict[str, str]
    ) -> Outcome:
        """Send for `minutes`, the warm-up among them, and count what came after it."""
        diary, start = Diary(), time.monotonic()
        stop = threading.Event()
        reporter = threading.Thread(target=self._report, args=(diary, start, stop))
        reporter.start()
        try:
            traffic = Traffic(self.node.dicom_port, self.modality, diary, seed=3)
            traffic.run(rate, start + 60.0 * minutes, lambda: True)
        finally:
            stop.set()
            reporter.join()
        backlog = self.rows.backlog()
        self.drain()
        self.watch.look()
        counted = start + 60.0 * warm_up
        return self._outcome(diary, counted, minutes - warm_up, backlog, conditions)

    def _report(self, diary: Diary, start: float, stop: threading.Event) -> None:
        """Sample the processes, and print one line per minute."""
        minute = 1
        while not stop.wait(_SAMPLE_SECONDS):
            self.watch.look()
            if time.monotonic() >= start + 60.0 * minute:
                self._print_minute(diary, minute)
                minute += 1

    def _print_minute(self, diary: Diary, minute: int) -> None:
        since = time.monotonic() - 60.0
        last = [each for each in list(diary.answers) if each.at >= since]
        stored = [each.seconds * 1000 for each in last if each.status == 0]
        rss, descriptors = self.watch.now()
        store = ", ".join(f"{name} {value:.0f}" for name, value in percentiles(stored).items())
        print(
            f"minute {minute}: {len(last)} offered, {len(stored)} stored; C-STORE ms {store}; "
            f"{rss / MIB:.0f} MiB, {descriptors} files; open {dict(self.rows.backlog())}",
            flush=True,
        )

    def _outcome(
        self,
        diary: Diary,
        since: float,
        minutes: float,
        backlog: "dict[str, int]",
        conditions: dict[str, str],
    ) -> Outcome:
        reports = self._reports(diary)
        # The answer to the last image may be written down after its report has come.
        waited = [
            max(0.0, reports[study][0] - at)
            for study, at in diary.reportable.items()
            if at >= since and study in reports
        ]
        ledger = self.node.run("ledger", "--json")
        return Outcome(
            conditions=conditions,
            minutes=minutes,
            answers=[each for each in diary.answers if each.at >= since],
            diary=diary,
            until_report=waited,
            unreported=self.rows.images_of(diary.reportable.keys() - reports.keys()),
            held=self.watch.held(since),
            backlog_at_stop=backlog,
            backlog_at_end=self.rows.backlog(),
            ledger=[json.loads(line) for line in ledger.stdout.splitlines()],
            ledger_balanced=ledger.returncode == 0,
        )

    def _reports(self, diary: Diary) -> dict[str, list[float]]:
        """Return when SRs arrived; what the PACS has only just got is waited for."""
        deadline = time.monotonic() + _LATE_SECONDS
        while True:
            reports = self.arrivals.reports()
            if reports.keys() >= diary.reportable.keys() or time.monotonic() > deadline:
                return reports
            time.sleep(0.5)


@contextlib.contextmanager
def _database(kind: str, data_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield URL and description of a database: SQLite, a PostgreSQL for this run, or a URL."""
    if kind == "sqlite":
        yield f"sqlite:///{data_dir / 'node.db'}", "SQLite"
        return
    if kind != "postgresql":
        yield kind, kind.partition(":")[0]
        return
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import servers  # noqa: PLC0415  the tests' own, only where wanted

    binaries = servers.find_postgres()
    if binaries is None:
        sys.exit("no PostgreSQL found: install it, or give --database the URL of one")
    with servers.postgres(binaries) as url:
        yield f"{url}/postgres", "PostgreSQL of the tests (fsync=off)"


@contextlib.contextmanager
def _pacs(kind: str, folder: Path) -> Iterator[tuple[str, Arrivals]]:
    """Yield address and arrivals of a PACS."""
    if kind == "storage":
        own = TimedStoragePacs(folder)
        try:
            yield own.address, own
        finally:
            own.close()
        return
    program = find_orthanc()
    if program is None:
        sys.exit("Orthanc is not installed: use --pacs storage")
    orthanc = OrthancPacs(program, folder)
    arrivals = OrthancArrivals(orthanc)
    try:
        yield orthanc.address, arrivals
    finally:
        arrivals.stop()
        orthanc.close()


@contextlib.contextmanager
def _running(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Run, str]]:
    """Yield a whole node with database and PACS, and what the database is."""
    data_dir = folder / "node"
    dicom_port, web_port = free_ports(2)
    with (
        _database(arguments.database, data_dir) as (url, database),
        _pacs(arguments.pacs, folder / "pacs") as (address, arrivals),
    ):
        node = NodeProcess(
            data_dir,
            dicom_port=dicom_port,
            web_port=web_port,
            pacs=(address,),
            workers=arguments.workers,
            settings={"DICOM_NODE_DATABASE_URL": url},
        )
        modality = Modality(arguments.rows, seed=1)
        with running(node):
            print(f"node ready, log: {node.stderr}", flush=True)
            yield Run(node, arrivals, Rows(url), Watch(node.pid), modality), database


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3.0, help="warm-up included (default 3)")
    parser.add_argument("--warm-up", type=float, help="minutes (default: a sixth, 10 at most)")
    parser.add_argument(
        "--rate", type=float, help="images per minute (default 20, or half the peak)"
    )
    parser.add_argument("--peak", action="store_true", help="measure first what the node can do")
    parser.add_argument("--peak-minutes", type=float, default=2.0)
    parser.add_argument("--database", default="sqlite", help="sqlite, postgresql, or a URL")
    parser.add_argument("--pacs", default="storage", choices=["storage", "orthanc"])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--rows", type=int, default=1024, help="of each image: 1024 is 2 MB")
    parser.add_argument("--folder", type=Path, help="for data (default: a temporary one)")
    parser.add_argument("--out", type=Path, help="folder for soak.md and soak.json")
    return parser.parse_args()


def main() -> None:
    """Run the soak; exit 1 when it fails."""
    arguments = _arguments()
    minutes = arguments.minutes
    warm_up = min(10.0, minutes / 6) if arguments.warm_up is None else arguments.warm_up
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-"))
        folder = arguments.folder or Path(temporary)
        run, database = stack.enter_context(_running(arguments, folder))
        peak = run.peak(arguments.peak_minutes) if arguments.peak else None
        rate = arguments.rate or (peak / 2 if peak else _DEFAULT_RATE)
        conditions = {
            "Machine": f"{psutil.cpu_count()} cores, Python {platform.python_version()}",
            "Database": database,
            "PACS": arguments.pacs,
            "Images": f"{arguments.rows} rows, 16 bits",
            "Workers": str(arguments.workers),
            "Peak": "not measured" if peak is None else f"{peak:.1f} images analysed per minute",
            "Rate": f"{rate:.1f} objects per minute",
            "Length": f"{minutes:g} minutes, the first {warm_up:g} of them not counted",
        }
        outcome = run.soak(minutes, warm_up, rate, conditions)
    text = as_markdown(outcome)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "soak.md").write_text(text)
        (arguments.out / "soak.json").write_text(as_json(outcome) + "\n")
    sys.exit(1 if outcome.problems else 0)


if __name__ == "__main__":
    main()
