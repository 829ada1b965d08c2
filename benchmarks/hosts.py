"""What a second worker host brings: studies per hour with one and with two, and the factor.

    python benchmarks/hosts.py [--studies 16] [--share 0.5] [--rows 2048]

The node is spread over hosts with network, disk, name and processes of their own (namespaces of
this machine, so it wants root and Linux): a front host that receives, dispatches and delivers, and
worker hosts; they share PostgreSQL, Redis and an S3 server. Each worker host may use `--share` of
one core, by the CPU controller of the kernel (cgroup): all hosts are on one machine, and with a
core or more each the second would take its time from the front host and the servers. The front
host and the servers have what is left, so the factor is that of the workers, as long as the front
is not what limits; its share is printed too.

Studies of one image are received first, while nothing is dispatched. Then the clock runs from the
first job that is published to the last result that is stored. Each figure is of `--studies`.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from pydicom.dataset import Dataset

from dicom_node.demo.pacs import find_orthanc
from worker.training.phantom import make_phantom

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "faults"))
from builders import chest_dataset
from fault_senders import SUCCESS, Notebook, new_image
from hosts_site import Site, SpreadNode, site
from hosts_wiring import Host, Network

_PERIOD_MICROSECONDS: Final = 20_000
_PATIENCE_SECONDS: Final = 600.0
_WORKERS: Final = ("work-b", "work-c")
_COUNT = "SELECT count(*) FROM study WHERE state = 'delivered'"
_DELIVERED = "SELECT count(*) >= :studies FROM study WHERE state = 'delivered'"
_HAS_DONE = """
    SELECT count(DISTINCT lease_owner) >= :hosts FROM job WHERE state = 'done'
"""
_SPAN = """
    SELECT min(published_at), max(finished_at), count(*) FROM job WHERE id > :last
"""


@dataclass(frozen=True)
class Measured:
    """One run: how long, how busy each part was (CPU seconds), and the jobs."""

    hosts: int
    seconds: float
    studies: int
    jobs: int
    front_seconds: float

    @property
    def per_hour(self) -> float:
        """Studies per hour."""
        return self.studies / self.seconds * 3600.0


def main() -> None:
    """Measure with one and with two worker hosts and print a table and the factor."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--studies", type=int, default=16, help="of one image each, per figure")
    parser.add_argument("--share", type=float, default=0.5, help="of a core, of each worker host")
    parser.add_argument("--rows", type=int, default=2048, help="of the drawn radiographs")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # and the servers with it
    orthanc = find_orthanc()
    if orthanc is None:
        sys.exit("Orthanc is not installed: apt-get install orthanc")
    pixels = make_phantom(7, arguments.rows, 20.0).pixels >> 4
    image = chest_dataset(pixels=pixels)
    print(f"load of this machine before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    found: list[Measured] = []
    with tempfile.TemporaryDirectory(prefix="hosts-") as root:
        folder = Path(root)
        folder.chmod(0o711)  # PostgreSQL runs as a user of its own
        with Network(folder) as network, site(network, folder, orthanc) as made:
            made.node.restart_front()
            for number in range(1, len(_WORKERS) + 1):
                with _limited(made, _WORKERS[:number], arguments.share):
                    found.append(_measure(made, number, image, arguments.studies))
    _print(found, pixels.shape, arguments.share)


def _measure(made: Site, hosts: int, image: Dataset, studies: int) -> Measured:
    node, notebook = made.node, Notebook(address=made.node.front.address)
    _warm_up(node, notebook, image, hosts)
    node.role("dispatch").terminate()
    before = int(node.query(_COUNT)[0][0])
    last = int(node.query("SELECT max(id) FROM job")[0][0])
    statuses = notebook.send(node.port, *(new_image(image) for _ in range(studies)), seconds=60)
    if statuses != [SUCCESS] * studies:
        sys.exit(f"the node answered {sorted(set(map(str, statuses)))}")
    spent = _cpu_seconds(node.front)
    node.start("dispatch")
    node.wait_for(_DELIVERED, _PATIENCE_SECONDS, studies=before + studies)
    first, end, jobs = node.query(_SPAN, last=last)[0]
    seconds = (end - first).total_seconds()
    return Measured(hosts, seconds, studies, int(jobs), _cpu_seconds(node.front) - spent)


def _warm_up(node: SpreadNode, notebook: Notebook, image: Dataset, hosts: int) -> None:
    """Have every worker host finish something."""
    done = int(node.query(_COUNT)[0][0])
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not node.query(_HAS_DONE, hosts=hosts)[0][0] or done == 0:
        if time.monotonic() > deadline:
            sys.exit("a worker host finishes nothing")
        notebook.send(node.port, *(new_image(image) for _ in range(2 * hosts)), seconds=60)
        done += 2 * hosts
        node.wait_for(_DELIVERED, _PATIENCE_SECONDS, studies=done)


def _cpu_seconds(host: Host) -> float:
    times = [each.cpu_times() for each in host.processes()]
    return sum(each.user + each.system for each in times)


@contextmanager
def _limited(made: Site, names: Sequence[str], share: float) -> Iterator[None]:
    """Run workers on these hosts, each with that share of a core."""
    made.node.switch_on(*names)
    groups = [_group(made.node.hosts[name], share) for name in names]
    try:
        yield
    finally:
        for host, group in zip(names, groups, strict=True):
            for process in made.node.hosts[host].processes():
                (group.parent / "cgroup.procs").write_text(str(process.pid))
            group.rmdir()


def _group(host: Host, share: float) -> Path:
    """Put all processes of a host into a control group of its own."""
    quota = int(share * _PERIOD_MICROSECONDS)
    old, new = Path("/sys/fs/cgroup/cpu"), Path("/sys/fs/cgroup")
    group = (old if old.is_dir() else new) / f"hosts-{os.getpid()}-{host.name}"
    try:
        group.mkdir()
        if old.is_dir():
            (group / "cpu.cfs_period_us").write_text(str(_PERIOD_MICROSECONDS))
            (group / "cpu.cfs_quota_us").write_text(str(quota))
        else:
            (group / "cpu.max").write_text(f"{quota} {_PERIOD_MICROSECONDS}")
        for process in host.processes():
            (group / "cgroup.procs").write_text(str(process.pid))
    except OSError as error:
        sys.exit(f"no control group for the CPU can be made at {group}: {error.strerror}")
    return group


def _print(found: Sequence[Measured], shape: tuple[int, ...], share: float) -> None:
    print(f"images of {shape[0]} rows by {shape[1]} columns, {share:g} of a core per worker host")
    print("| worker hosts | studies | jobs | seconds | studies per hour | CPU s of the front |")
    print("| --- | --- | --- | --- | --- | --- |")
    for each in found:
        figures = f"{each.studies} | {each.jobs} | {each.seconds:.1f} | {each.per_hour:.0f}"
        print(f"| {each.hosts} | {figures} | {each.front_seconds:.1f} |")
    print(f"factor: {found[-1].per_hour / found[0].per_hour:.2f}")
    idle = psutil.cpu_times_percent(interval=0.5).idle
    print(f"load of this machine after: {os.getloadavg()[0]:.1f}, {idle:.0f} % idle now")


if __name__ == "__main__":
    main()
