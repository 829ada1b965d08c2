"""What a process tree holds: memory and descriptors of each process, at regular times."""

import statistics
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Final

import psutil

MIB: Final = 1024 * 1024
ALLOWED_GROWTH_PERCENT: Final = 5.0
ALLOWED_DESCRIPTORS: Final = 5  # connections of pools come and go
_DECODER: Final = "decoder"  # a new one follows each that a file broke
_ROLES: Final = ("listen", "dispatch", "deliver", "web", "up")
_OTHERS: Final = {
    "redis-server": "redis",
    "worker.decode": _DECODER,
    "worker run": "worker",
    "resource_tracker": "resource tracker",
}
WINDOW: Final = 5  # samples at each end, of which the median counts


@dataclass(frozen=True)
class Sample:
    """One process at one time."""

    at: float
    pid: int
    rss_bytes: int
    descriptors: int


@dataclass(frozen=True)
class Held:
    """What one process held after warm-up and at the end."""

    name: str
    first_rss: int
    last_rss: int
    first_descriptors: int
    last_descriptors: int
    pids: int
    is_gone: bool = False

    @property
    def growth_percent(self) -> float:
        """Growth of the resident memory in percent."""
        return 100.0 * (self.last_rss - self.first_rss) / self.first_rss

    @property
    def problem(self) -> str | None:
        """Say what is wrong with it."""
        if self.pids > 1 and not self.name.startswith(_DECODER):
            return f"{self.name} ran as {self.pids} processes one after the other: the log says why"
        if self.is_gone:
            return f"{self.name} ended and did not come back: the log says why"
        if self.growth_percent > ALLOWED_GROWTH_PERCENT:
            return f"{self.name} grew by {self.growth_percent:.1f} %"
        if self.last_descriptors > self.first_descriptors + ALLOWED_DESCRIPTORS:
            before = self.first_descriptors
            return f"{self.name} has {self.last_descriptors} files open, {before} before"
        return None


@dataclass
class Watch:
    """Samples every process below `pid`, itself included."""

    pid: int
    samples: dict[str, list[Sample]] = field(default_factory=lambda: defaultdict(list))

    def look(self) -> None:
        """Take one sample of each process."""
        now = time.monotonic()
        parent = psutil.Process(self.pid)
        family = sorted([parent, *parent.children(recursive=True)], key=lambda p: p.create_time())
        seen: dict[str, int] = defaultdict(int)
        for process in family:
            try:
                name = _role(process)
                rss, descriptors = process.memory_info().rss, process.num_fds()
            except psutil.NoSuchProcess:
                continue
            seen[name] += 1
            key = name if seen[name] == 1 else f"{name} {seen[name]}"
            self.samples[key].append(Sample(now, process.pid, rss, descriptors))

    def held(self, since: float) -> list[Held]:
        """Return each process that was there at the last look, or for a while since `since`."""
        last_look = max((each[-1].at for each in self.samples.values()), default=0.0)
        found = []
        for name, samples in self.samples.items():
            after = [each for each in samples if each.at >= since]
            is_gone = bool(after) and after[-1].at < last_look
            may_go = name.startswith(_DECODER) or len(after) < WINDOW
            if after and not (is_gone and may_go):
                found.append(_held(name, after, is_gone=is_gone))
        return found

    def now(self) -> tuple[int, int]:
        """Return memory in bytes and descriptors of all processes at the last look."""
        last = [each[-1] for each in self.samples.values()]
        newest = max(each.at for each in last)
        there = [each for each in last if each.at == newest]
        return sum(each.rss_bytes for each in there), sum(each.descriptors for each in there)


def _held(name: str, samples: list[Sample], *, is_gone: bool) -> Held:
    first, last = samples[:WINDOW], samples[-WINDOW:]
    return Held(
        name,
        int(statistics.median(each.rss_bytes for each in first)),
        int(statistics.median(each.rss_bytes for each in last)),
        int(statistics.median(each.descriptors for each in first)),
        int(statistics.median(each.descriptors for each in last)),
        len({each.pid for each in samples}),
        is_gone,
    )


def _role(process: psutil.Process) -> str:
    """Name a process by what its command line says it does, or after its parent."""
    words = process.cmdline()
    text = " ".join(words)
    parent = process.parent()
    if parent is not None and parent.cmdline() == words:
        return f"{_role(parent)} child"  # forked
    for name in _ROLES:
        if "dicom_node" in words and name in words:
            return name
    for sign, name in _OTHERS.items():
        if sign in text:
            return name
    return "unknown" if parent is None else f"{_role(parent)} child"
