"""The whole path, beside a cold process per study: latency, throughput, cost of every step.

    python benchmarks/e2e.py [--out FOLDER]

Starts a node and an Orthanc, and sends studies of one phantom each, one by one and then without a
pause. Latency counts from the answer to the last C-STORE of a study, less the settle time, to the
moment when SEG and SR are both listed by Orthanc; a second sender has no settle time, so nothing
hides in it. The peer receives by storescp, starts one fresh `dicom-worker analyse` per study and
sends by dcmsend to the same Orthanc. The steps of an image are then measured one by one in a warm
process with one thread. Prints Markdown; with --out also FOLDER/e2e.md and e2e.json, which
benchmarks/capacity.py reads. Ends with 1 when an aim is missed. About five minutes.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import psutil
from e2e_bench.cold import orchestrator
from e2e_bench.images import phantoms, studies
from e2e_bench.network import Arrivals
from e2e_bench.stages import Costs, costs
from e2e_bench.tables import Measured, as_json, markdown
from e2e_bench.warm import AT_ONCE, SETTLED, flow, latencies
from pydicom.dataset import Dataset

from dicom_node.demo.node import NodeProcess, running
from dicom_node.demo.pacs import OrthancPacs, find_orthanc, free_ports
from models.settings import load_settings

_SETTLE_SECONDS: Final = 2.0
_WARM_UP: Final = 4


@dataclass(frozen=True)
class Bench:
    """The parts of one run."""

    folder: Path
    node: NodeProcess
    pacs: OrthancPacs
    arrivals: Arrivals
    images: list[Dataset]
    arguments: argparse.Namespace

    def run(self) -> Measured:
        """Measure everything, the node first, the peer beside the idle node."""
        wanted, new = self.arguments, studies(self.images)
        port, arrivals = self.node.dicom_port, self.arrivals
        _say("warm-up")
        latencies(port, arrivals, new, _WARM_UP, AT_ONCE)
        _say("node, one by one")
        settled = latencies(port, arrivals, new, wanted.latencies, SETTLED)
        at_once = latencies(port, arrivals, new, wanted.latencies, AT_ONCE)
        _say("node, without a pause")
        before = _cpu(self.pacs.pid)
        flowing = list(islice(new, wanted.studies))
        flowed = flow(port, arrivals, flowing, _SETTLE_SECONDS, self.node.pid)
        pacs_cpu = (_cpu(self.pacs.pid) - before) / wanted.studies
        _say("cold processes")
        cold, per_hour, cold_cpu = self._peer(new)
        _say("steps of an image")
        return Measured(
            rows=wanted.rows,
            columns=wanted.columns,
            cores=len(os.sched_getaffinity(0)),
            workers=wanted.workers,
            settle_seconds=_SETTLE_SECONDS,
            settled=[seconds - _SETTLE_SECONDS for seconds in settled],
            at_once=at_once,
            cold=cold,
            flow=flowed,
            cold_per_hour=per_hour,
            cold_cpu=cold_cpu,
            costs=self._costs([self._written(ds) for ds in self.images]),
            pacs_cpu=pacs_cpu,
            extra={path.stem: self._costs([path]) for path in wanted.image},
        )

    def _peer(self, new: Iterator[Dataset]) -> tuple[list[float], float, float]:
        address = (self.pacs.ae_title, self.pacs.port)
        with orchestrator(self.folder / "peer", _dcmtk("storescp"), address, self.arrivals) as peer:
            peer.study(next(new))  # reads the libraries from the disk once
            one_by_one = [peer.study(next(new)).seconds for _ in range(self.arguments.cold)]
            at_once = len(os.sched_getaffinity(0))
            together = list(islice(new, max(self.arguments.cold, 2 * at_once)))
            return one_by_one, *peer.flow(together, at_once)

    def _costs(self, files: list[Path]) -> Costs:
        settings = load_settings(data_dir=self.folder / "steps")
        return costs(files, settings, threads=1, rounds=self.arguments.rounds)

    def _written(self, ds: Dataset) -> Path:
        path = self.folder / f"{ds.SOPInstanceUID}.dcm"
        ds.save_as(path, enforce_file_format=True)
        return path


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _cpu(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def _dcmtk(name: str) -> Path:
    found = next((p for f in os.get_exec_path() if (p := Path(f) / name).is_file()), None)
    return found or sys.exit(f"{name} is not installed: it comes with dcmtk")


@contextlib.contextmanager
def _bench(arguments: argparse.Namespace, folder: Path) -> Iterator[Bench]:
    """Yield a node with a PACS, both of this run's own."""
    _dcmtk("dcmsend")
    program = find_orthanc() or sys.exit("Orthanc is not installed")
    images = phantoms(arguments.rows, arguments.columns)
    dicom_port, web_port = free_ports(2)
    pacs = OrthancPacs(program, folder / "pacs")
    arrivals = Arrivals(pacs)
    node = NodeProcess(
        folder / "node",
        dicom_port=dicom_port,
        web_port=web_port,
        pacs=(pacs.address,),
        workers=arguments.workers,
        settings={
            "DICOM_NODE_DISPATCH__SETTLE_SECONDS": str(_SETTLE_SECONDS),
            "DICOM_NODE_DISPATCH__SETTLE_SECONDS_BY_CALLING_AE": json.dumps({AT_ONCE: 0.0}),
            "DICOM_NODE_DISPATCH__POLL_SECONDS": str(arguments.poll),
            "DICOM_NODE_DELIVERY__POLL_SECONDS": str(arguments.poll),
        },
    )
    try:
        with running(node):
            yield Bench(folder, node, pacs, arrivals, images, arguments)
    finally:
        arrivals.close()
        pacs.close()


def _arguments() -> argparse.Namespace:
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2500)
    parser.add_argument("--columns", type=int, default=2000)
    parser.add_argument("--latencies", type=int, default=12, help="studies one by one, each way")
    parser.add_argument("--studies", type=int, default=60, help="studies without a pause")
    parser.add_argument("--cold", type=int, default=6, help="studies of the peer, each way")
    parser.add_argument("--rounds", type=int, default=5, help="of the steps of an image")
    parser.add_argument("--workers", type=int, default=cores, help="default: one per core")
    parser.add_argument(
        "--poll", type=float, default=0.05, help="poll_seconds of dispatch and delivery"
    )
    parser.add_argument(
        "--image", type=Path, action="append", default=[], help="a file whose steps are shown too"
    )
    parser.add_argument("--out", type=Path, help="folder for e2e.md and e2e.json")
    return parser.parse_args()


def main() -> None:
    """Measure; exit 1 when an aim is missed."""
    arguments = _arguments()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="e2e-")))
        measured = stack.enter_context(_bench(arguments, folder)).run()
    text = markdown(measured)
    print(text)
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        (arguments.out / "e2e.md").write_text(text)
        (arguments.out / "e2e.json").write_text(as_json(measured))
    sys.exit(0 if all(aim.is_met for aim in measured.aims) else 1)


if __name__ == "__main__":
    main()
