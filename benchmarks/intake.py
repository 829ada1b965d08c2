"""Measure how fast images are taken in, and say who has made them durable when it answers.

Side by side in one run on this machine: this node (file fsync and committed row before 0x0000, with
SQLite and with PostgreSQL), Orthanc with its defaults, dcmtk's `storescp --fork +B`, and the bare
disk (write + fsync of the same bytes). Every receiver gets the same senders (benchmarks/wire.py),
which share the processor with it. Prints a Markdown table per image size, and the node's figures as
multiples of its peers'.

    python benchmarks/intake.py [--seconds 4] [--rounds 3] [--listeners 2] [--only node-sqlite]

Orthanc and dcmtk must be installed; PostgreSQL comes from the system or the dev extra.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import track
from sqlalchemy import func, select
from wire import Measured, send

from migrations import schema
from models.imaging import Instance
from models.session import Database

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers import find_postgres, find_program, free_port, postgres, wait_until

SIZES = {"10 MB": 10_000_000, "0.5 MB": 500_000}
SENDERS = (1, 4, 16)
_WARM_BYTES = 20_000_000  # from each sender, before it counts
Receiver = Callable[[Path], "contextlib.AbstractContextManager[tuple[int, Database | None]]"]


def main() -> None:
    """Measure everything and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=4.0, help="about so long per figure")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many is printed")
    parser.add_argument("--listeners", type=int, help="listener processes (default: the node's)")
    parser.add_argument("--only", action="append", help="receiver; repeatable")
    parser.add_argument("--sizes", action="append", choices=SIZES, help="repeatable")
    parser.add_argument("--senders", action="append", type=int, help="repeatable")
    parser.add_argument("--folder", type=Path, help="where to write; its disk is measured")
    arguments = parser.parse_args()
    receivers: dict[str, Receiver] = {
        "orthanc": orthanc,
        "storescp": storescp,
        "node-sqlite": lambda folder: node(folder, arguments.listeners, None),
        "node-postgresql": lambda folder: node_on_postgres(folder, arguments.listeners),
    }
    wanted = arguments.only or ["raw", *receivers]
    figures: dict[tuple[str, str, int], list[Measured]] = {}
    cells = [
        (size, senders)
        for size in arguments.sizes or SIZES
        for senders in arguments.senders or SENDERS
    ]
    turns = [(size, senders, name) for _ in range(arguments.rounds) for size, senders in cells
             for name in wanted]  # fmt: skip
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="intake-") as root:
        Path(root).chmod(0o711)  # PostgreSQL runs as a user of its own
        for size, senders, name in track(turns, console=Console(stderr=True)):
            folder = Path(tempfile.mkdtemp(dir=root))
            if name == "raw":
                measured = raw(folder, SIZES[size], senders, arguments.seconds)
            else:
                measured = _measure(receivers[name], folder, SIZES[size], senders, arguments)
            figures.setdefault((size, name, senders), []).append(measured)
            _empty(folder)
    for size in arguments.sizes or SIZES:
        _print_table(size, wanted, arguments.senders or SENDERS, figures)


def _empty(folder: Path) -> None:
    """Give the room back, so that nobody pays for what another one left.

    Files are emptied, not deleted: for a minute ext4 looks at every deleted inode before it makes a
    new one, and the next receiver would pay for that.
    """
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)
    os.sync()


def _measure(
    receiver: Receiver, folder: Path, size: int, senders: int, arguments: argparse.Namespace
) -> Measured:
    """Warm the receiver up, see how fast it is, and then send for about the wanted time."""
    with receiver(folder) as (port, database):
        warm = send(port, "BENCH", size, max(4, _WARM_BYTES // size) * senders, senders)
        images = max(4, int(warm.images_per_second * arguments.seconds / senders)) * senders
        os.sync()
        measured = send(port, "BENCH", size, images, senders)
        if database is not None:
            with database.read() as session:
                rows = session.scalar(select(func.count()).select_from(Instance))
            answered = warm.images - warm.refused + measured.images - measured.refused
            if rows != answered:
                msg = f"{answered} images were answered with success, and {rows} rows are there"
                raise SystemExit(msg)
    if measured.refused:
        print(f"{measured.refused} of {measured.images} images were refused", file=sys.stderr)
    return measured


@contextlib.contextmanager
def _running(
    command: list[str | Path], port: int, folder: Path, environment: dict[str, str] | None = None
) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env=os.environ | (environment or {})
        )
        try:
            wait_until(lambda: _listens(port) or process.poll() is not None, 60, str(command[0]))
            yield
        finally:
            process.terminate()
            process.wait(60)


def _listens(port: int) -> bool:
    """Look at the kernel's table: a probe by connecting would be served."""
    wanted = f":{port:04X} 00000000:0000 0A"
    return any(wanted in line for line in Path("/proc/net/tcp").read_text().splitlines()) or any(
        f":{port:04X} " in line and " 0A " in line
        for line in Path("/proc/net/tcp6").read_text().splitlines()
    )


@contextlib.contextmanager
def orthanc(folder: Path) -> Iterator[tuple[int, None]]:
    """Run Orthanc with its defaults, on ports and in folders of its own."""
    port = free_port()
    configuration = {
        "DicomPort": port,
        "HttpPort": free_port(),
        "DicomAet": "BENCH",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "DicomCheckCalledAet": False,
        "Plugins": [],
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(configuration))
    program = find_program("Orthanc") or _missing("Orthanc")
    with _running([program, file], port, folder, {"TCP_NODELAY": "1"}):
        yield port, None


@contextlib.contextmanager
def storescp(folder: Path) -> Iterator[tuple[int, None]]:
    """Run dcmtk's storescp, which writes what it received and does no more."""
    port = free_port()
    program = find_program("storescp") or _missing("dcmtk's storescp")
    command = [program, "--fork", "+B", "-od", folder, str(port)]
    with _running(command, port, folder, {"TCP_NODELAY": "1"}):
        yield port, None


@contextlib.contextmanager
def node(folder: Path, listeners: int | None, url: str | None) -> Iterator[tuple[int, Database]]:
    """Run our listener alone: nothing else touches the database."""
    port = free_port()
    url = url or f"sqlite:///{folder / 'data' / 'node.db'}"
    environment = {
        "DICOM_NODE_DATA_DIR": str(folder / "data"),
        "DICOM_NODE_DATABASE_URL": url,
        "DICOM_NODE_DICOM__PORT": str(port),
        "DICOM_NODE_DICOM__HOST": "127.0.0.1",
    }
    if listeners is not None:
        environment["DICOM_NODE_DICOM__LISTENERS"] = str(listeners)
    database = Database(url)
    try:
        schema.upgrade(database)
        with _running([sys.executable, "-m", "dicom_node", "listen"], port, folder, environment):
            yield port, database
    finally:
        database.dispose()


@contextlib.contextmanager
def node_on_postgres(folder: Path, listeners: int | None) -> Iterator[tuple[int, Database]]:
    """Run our listener with a PostgreSQL of its own, which does fsync."""
    binaries = find_postgres() or _missing("PostgreSQL")
    folder.chmod(0o711)
    with (
        postgres(binaries, durable=True, folder=folder) as url,
        node(folder, listeners, f"{url}/postgres") as found,
    ):
        yield found


def _missing(name: str) -> Path:
    msg = f"{name} is not installed: install it, or leave it out by --only"
    raise SystemExit(msg)


def raw(folder: Path, size: int, threads: int, seconds: float) -> Measured:
    """Write and fsync the same number of bytes in a loop, one file each."""
    data = os.urandom(size)
    latencies: list[float] = []
    begun = time.perf_counter()

    def write(thread: int) -> None:
        number = 0
        while time.perf_counter() - begun < seconds:
            number += 1
            start = time.perf_counter()
            descriptor = os.open(folder / f"{thread}-{number}", os.O_WRONLY | os.O_CREAT)
            os.write(descriptor, data)
            os.fsync(descriptor)
            os.close(descriptor)
            latencies.append(time.perf_counter() - start)

    workers = [threading.Thread(target=write, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed = time.perf_counter() - begun
    return Measured(len(latencies), len(latencies) * size, elapsed, sorted(latencies), 0)


_DURABLE = {
    "raw": "yes: fsync; no network, no database",
    "orthanc": "half: file fdatasync (SyncStorageArea); its index is not synced at each commit",
    "storescp": "no",
    "node-sqlite": "yes: file fsync + committed row",
    "node-postgresql": "yes: file fsync + committed row",
}


def _print_table(
    size: str,
    names: list[str],
    senders: tuple[int, ...] | list[int],
    figures: dict[tuple[str, str, int], list[Measured]],
) -> None:
    """Print medians; beside the node its multiples of Orthanc and storescp."""
    print(f"\n### {size} images\n")
    print("| Receiver | " + " | ".join(f"{n} senders" for n in senders) + " | durable |")
    print("|---" * (len(senders) + 2) + "|")
    for name in names:
        cells = []
        for number in senders:
            runs = figures[size, name, number]
            rate = statistics.median(run.megabytes_per_second for run in runs)
            images = statistics.median(run.images_per_second for run in runs)
            slow = statistics.median(run.latencies[int(0.95 * len(run.latencies))] for run in runs)
            text = f"{rate:,.0f} MB/s, {images:,.0f} /s, p95 {1000 * slow:.1f} ms"
            if name.startswith("node"):
                for peer in ("orthanc", "storescp"):
                    if theirs := figures.get((size, peer, number)):
                        other = statistics.median(run.images_per_second for run in theirs)
                        text += f"; {images / other:.2f} x {peer}"
            cells.append(text)
        print(f"| {name} | " + " | ".join(cells) + f" | {_DURABLE[name]} |")


if __name__ == "__main__":
    main()
