"""The nearest peer: an orchestrator that starts one fresh process per study, as container jobs do.

storescp receives, `dicom-worker analyse` (the same network, the same writers) runs once per study,
dcmsend sends its SEG and SR to the same PACS. It is treated well: a job starts with the answer to
its image, without settle time or poll, and no container is made.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil
from e2e_bench.network import Arrivals, send
from pydicom.dataset import Dataset

from dicom_node.demo.pacs import free_ports

_WAIT_SECONDS: Final = 300.0


@dataclass(frozen=True)
class Job:
    """One study and what its processes cost."""

    seconds: float
    cpu_seconds: float


class Orchestrator:
    """Receives by storescp, works in processes, sends by dcmsend."""

    def __init__(self, folder: Path, port: int, pacs: tuple[str, int], arrivals: Arrivals) -> None:
        self._folder, self._port, self._pacs, self._arrivals = folder, port, pacs, arrivals

    def study(self, ds: Dataset, threads: int | None = None) -> Job:
        """Send one study through; return what passed from the answer to its results in the PACS."""
        answered = send(self._port, "E2E", ds)
        [received] = (self._folder / "in").glob(f"*{ds.SOPInstanceUID}*")
        out = self._folder / str(ds.SOPInstanceUID)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DICOM_NODE_")}
        environment["DICOM_NODE_DATA_DIR"] = str(self._folder / "unused")
        if threads is not None:
            environment["DICOM_NODE_WORKER__TORCH_THREADS"] = str(threads)
        analyse = [sys.executable, "-m", "worker", "analyse", str(received), "--out", str(out)]
        log = self._folder / "peer.log"
        spent = _run(analyse, environment, log)
        title, port = self._pacs
        objects = [str(path) for path in sorted(out.glob("*.dcm"))]
        spent += _run(
            ["dcmsend", "-aec", title, "127.0.0.1", str(port), *objects], environment, log
        )
        uid = str(ds.StudyInstanceUID)
        came = self._arrivals.wait({uid}, _WAIT_SECONDS)[uid]
        return Job(came - answered, spent)

    def flow(self, studies: list[Dataset], at_once: int) -> tuple[float, float]:
        """Work through studies, some at once; return studies per hour and CPU seconds of each."""
        start = time.monotonic()
        with ThreadPoolExecutor(at_once) as pool:
            jobs = list(pool.map(lambda ds: self.study(ds, threads=1), studies))
        per_hour = 3600.0 * len(studies) / (time.monotonic() - start)
        return per_hour, statistics.mean(job.cpu_seconds for job in jobs)


def _run(command: list[str], environment: dict[str, str], log: Path) -> float:
    """Run a command; return its processor seconds, those of its children among them."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        text = log.read_text(errors="replace")[-2000:]
        msg = f"{command[0]} ended with {process.returncode}: {text}"
        raise SystemExit(msg)
    return usage.ru_utime + usage.ru_stime


@contextmanager
def orchestrator(
    folder: Path, storescp: Path, pacs: tuple[str, int], arrivals: Arrivals
) -> Iterator[Orchestrator]:
    """Run the peer's receiver for the length of a block."""
    [port] = free_ports(1)
    received = folder / "in"
    received.mkdir(parents=True)
    line = [storescp, "--fork", "+B", "-od", received, str(port)]
    with subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for_port(process, port)
            yield Orchestrator(folder, port, pacs, arrivals)
        finally:
            process.terminate()


def _wait_for_port(process: "subprocess.Popen[bytes]", port: int) -> None:
    deadline = time.monotonic() + 30.0
    while process.poll() is None and time.monotonic() < deadline:
        found = psutil.Process(process.pid).net_connections(kind="tcp")
        if any(each.laddr and each.laddr.port == port for each in found):
            return
        time.sleep(0.05)
    msg = "storescp does not listen"
    raise SystemExit(msg)
