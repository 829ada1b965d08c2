"""The node: how long a study takes, how many it takes an hour, and what they cost by process."""

import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import psutil
from e2e_bench.network import Arrivals, send
from pydicom.dataset import Dataset

SETTLED: Final = "E2E"  # this sender's studies settle for a while ...
AT_ONCE: Final = "E2ENOW"  # ... and this one's do not: nothing hides in the time to settle
_WAIT_SECONDS: Final = 300.0
_SENDERS: Final = 2
_ROLES: Final = {
    "worker.decode": "decoder",
    "redis-server": "broker",
    "worker": "worker",
    "listen": "listener",
    "dispatch": "dispatch",
    "deliver": "delivery",
    "web": "web",
}


@dataclass(frozen=True)
class Flow:
    """Studies that came without a pause."""

    studies: int
    seconds: float  # from the first image offered to the last result, without the settle time
    cpu_by_role: dict[str, float]  # seconds per study

    @property
    def per_hour(self) -> float:
        """Studies per hour."""
        return 3600.0 * self.studies / self.seconds


def latencies(
    port: int, arrivals: Arrivals, studies: Iterator[Dataset], number: int, calling: str
) -> list[float]:
    """Return seconds from the answer to a study's image to SEG and SR in the PACS, one by one."""
    found = []
    for ds in (next(studies) for _ in range(number)):
        answered = send(port, calling, ds)
        uid = str(ds.StudyInstanceUID)
        found.append(arrivals.wait({uid}, _WAIT_SECONDS)[uid] - answered)
    return found


def flow(
    port: int, arrivals: Arrivals, studies: list[Dataset], settle_seconds: float, pid: int
) -> Flow:
    """Send studies as fast as they are taken, and wait for the results of all."""
    before, start = cpu_by_role(pid), time.monotonic()
    with ThreadPoolExecutor(_SENDERS) as pool:
        list(pool.map(lambda ds: send(port, SETTLED, ds), studies))
    came = arrivals.wait({str(ds.StudyInstanceUID) for ds in studies}, 10 * _WAIT_SECONDS)
    seconds = max(came.values()) - start - settle_seconds
    after = cpu_by_role(pid)
    spent = {role: (after[role] - before.get(role, 0.0)) / len(studies) for role in after}
    return Flow(len(studies), seconds, spent)


def cpu_by_role(pid: int) -> dict[str, float]:
    """Return the processor seconds of the node's processes so far, by what they do."""
    spent: dict[str, float] = defaultdict(float)
    parent = psutil.Process(pid)
    for process in [parent, *parent.children(recursive=True)]:
        try:
            times, text = process.cpu_times(), " ".join(process.cmdline())
        except psutil.NoSuchProcess:
            continue
        words = text.replace("-m ", "").split()
        role = next((name for sign, name in _ROLES.items() if sign in words or (
            sign == "redis-server" and sign in text)), "other")  # fmt: skip
        spent[role] += times.user + times.system
    return dict(spent)
