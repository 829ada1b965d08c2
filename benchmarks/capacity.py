"""How many cores and hosts a number of studies a day needs, from the costs that e2e.py measured.

    python benchmarks/e2e.py --out FOLDER; python benchmarks/capacity.py FOLDER/e2e.json
    python benchmarks/capacity.py --worker-seconds 0.9 --other-seconds 0.2

A day of studies is simulated: arrivals at random after an hourly profile, workers of one core each
that take the oldest study first. It prints the fewest workers with which 95 of 100 studies wait no
longer than --wait, how long they wait then, cores, hosts, and core hours per 1,000 studies. With
--core-price (and --gpu-price with --gpu-images) also what 1,000 studies cost in that currency; no
price is known to this script.
"""

import argparse
import heapq
import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Share of a day's studies in each hour, in percent: a hospital that works by day and never closes.
PROFILE: Final = (1.0, 0.8, 0.7, 0.7, 0.8, 1.2, 3.0, 5.5, 8.0, 9.5, 9.5, 8.5,
                  7.0, 7.5, 7.5, 6.5, 5.0, 4.0, 3.3, 2.8, 2.4, 2.0, 1.6, 1.2)  # fmt: skip
_DAILY: Final = (1_000, 10_000, 100_000, 1_000_000)
_HOUR: Final = 3600.0
_LATE_SHARE: Final = 0.95
_WORKER_ROLES: Final = ("worker", "decoder")


@dataclass(frozen=True)
class Cost:
    """Processor seconds of one study."""

    worker: float  # in a worker and its decoder: one core each
    other: float  # in all other processes

    @property
    def total(self) -> float:
        """All of it."""
        return self.worker + self.other


@dataclass(frozen=True)
class Day:
    """How studies of one day wait for a worker, in seconds."""

    workers: int
    p50: float
    p95: float
    longest: float


def arrivals(studies: int, seed: int) -> list[float]:
    """Return the seconds of a day at which studies come, in order."""
    rng = random.Random(seed)
    hours = rng.choices(range(24), PROFILE, k=studies)
    return sorted((hour + rng.random()) * _HOUR for hour in hours)


def simulate(times: list[float], workers: int, seconds: float) -> Day:
    """Let workers take the studies in order; return how long these waited."""
    free = [0.0] * workers
    waits = []
    for time in times:
        start = max(time, heapq.heappop(free))
        heapq.heappush(free, start + seconds)
        waits.append(start - time)
    waits.sort()
    middle, late = (waits[int(share * (len(waits) - 1))] for share in (0.5, _LATE_SHARE))
    return Day(workers, middle, late, waits[-1])


def fewest(times: list[float], seconds: float, wait: float) -> Day:
    """Return the day with the fewest workers that keep 95 of 100 waits within `wait`."""
    low = max(1, math.ceil(len(times) * seconds / (24 * _HOUR)))  # fewer never catch up
    high = low
    while (day := simulate(times, high, seconds)).p95 > wait:
        low, high = high + 1, 2 * high
    while low < high:
        middle = (low + high) // 2
        tried = simulate(times, middle, seconds)
        if tried.p95 <= wait:
            high, day = middle, tried
        else:
            low = middle + 1
    return day


def sizes(cost: Cost, daily: list[int], wait: float, cores_per_host: int) -> str:
    """Return the sizing table."""
    rows = [
        "| studies a day | busiest hour | workers | wait p50, p95, longest (s) | cores | hosts |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    for studies in daily:
        day = fewest(arrivals(studies, seed=studies), cost.worker, wait)
        busiest = studies * max(PROFILE) / sum(PROFILE)
        cores = day.workers + max(1, math.ceil(busiest * cost.other / _HOUR))
        rows.append(
            f"| {studies:,} | {busiest:,.0f} | {day.workers} "
            f"| {day.p50:.1f}, {day.p95:.1f}, {day.longest:.1f} "
            f"| {cores} | {math.ceil(cores / cores_per_host)} |"
        )
    return "\n".join(rows)


def saturation(roles: dict[str, float]) -> str:
    """Return how many studies an hour one core can carry in each kind of process, least first."""
    rows = ["| Process | CPU seconds per study | studies an hour, one core |", "|---|--:|--:|"]
    for role, seconds in sorted(roles.items(), key=lambda pair: -pair[1]):
        rate = f"{_HOUR / seconds:,.0f}" if seconds > 0 else "more than was measured"
        rows.append(f"| {role} | {seconds:.3f} | {rate} |")
    return "\n".join(rows)


def prices(cost: Cost, arguments: argparse.Namespace) -> str:
    """Return core hours of 1,000 studies, and their price where the prices were given."""
    used = arguments.used_share
    hours = 1000 * cost.total / _HOUR / used
    lines = [f"- CPU: 1,000 x {cost.total:.3f} s / 3,600 / {used:g} used = {hours:.3f} core hours"]
    if arguments.core_price is not None:
        lines.append(
            f"- at {arguments.core_price:g} per core hour: {hours * arguments.core_price:.4f}"
        )
    if arguments.gpu_images is not None:
        gpu = 1000 / arguments.gpu_images / _HOUR / used
        rest = 1000 * (cost.total - arguments.inference_seconds) / _HOUR / used
        lines.append(f"- GPU: {gpu:.5f} GPU hours and {rest:.3f} core hours for all but inference")
        if arguments.gpu_price is not None:
            price = gpu * arguments.gpu_price + rest * (arguments.core_price or 0.0)
            lines.append(f"- at {arguments.gpu_price:g} per GPU hour: {price:.4f}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("measured", type=Path, nargs="?", help="e2e.json of benchmarks/e2e.py")
    parser.add_argument("--worker-seconds", type=float, help="CPU of a study in the worker")
    parser.add_argument("--other-seconds", type=float, help="CPU of a study everywhere else")
    parser.add_argument(
        "--inference-seconds", type=float, default=0.0, help="what a GPU takes over"
    )
    parser.add_argument("--studies", type=int, action="append", help="a day; repeatable")
    parser.add_argument("--wait", type=float, default=10.0, help="seconds: the default settle time")
    parser.add_argument("--cores-per-host", type=int, default=16)
    parser.add_argument("--used-share", type=float, default=0.5, help="of the time that is paid")
    parser.add_argument("--core-price", type=float, help="per core hour")
    parser.add_argument("--gpu-price", type=float, help="per GPU hour")
    parser.add_argument("--gpu-images", type=float, help="images per second of one GPU")
    return parser.parse_args()


def _costs(arguments: argparse.Namespace) -> tuple[Cost, dict[str, float]]:
    """Return the costs that were measured, or those of the options."""
    if arguments.measured is None:
        if arguments.worker_seconds is None or arguments.other_seconds is None:
            msg = "give the e2e.json of benchmarks/e2e.py, or --worker-seconds and --other-seconds"
            raise SystemExit(msg)
        roles = {"worker": arguments.worker_seconds, "other": arguments.other_seconds}
        return Cost(**roles), roles
    data = json.loads(arguments.measured.read_text())
    roles = data["cpu_seconds_per_study"]
    arguments.inference_seconds = data["cpu_seconds_per_image_by_step"]["inference"]
    worker = sum(roles.get(role, 0.0) for role in _WORKER_ROLES)
    return Cost(worker, sum(roles.values()) - worker), roles


def main() -> None:
    """Print what saturates first, the sizes, and the price."""
    arguments = _arguments()
    cost, roles = _costs(arguments)
    daily = arguments.studies or list(_DAILY)
    tables = (
        saturation(roles),
        sizes(cost, daily, arguments.wait, arguments.cores_per_host),
        prices(cost, arguments),
    )
    print("\n\n".join(tables))


if __name__ == "__main__":
    main()
