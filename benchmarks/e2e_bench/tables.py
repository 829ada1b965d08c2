"""What was measured, as Markdown for docs/performance.md and as JSON for benchmarks/capacity.py."""

import json
import statistics
from dataclasses import dataclass, field
from typing import Final

from e2e_bench.stages import BARE, INFERENCE, Costs
from e2e_bench.warm import Flow

_FASTER: Final = 10.0
_MORE: Final = 3.0
_OVER_BARE: Final = 1.3
_OTHER_SECONDS: Final = 0.5
_PERCENT: Final = 95


@dataclass(frozen=True)
class Aim:
    """One aim, and what was reached."""

    text: str
    reached: float
    is_met: bool

    def __str__(self) -> str:
        return f"- {'met' if self.is_met else '**missed**'}: {self.text}: {self.reached:.2f}"


@dataclass(frozen=True)
class Measured:
    """Everything that one run measured."""

    rows: int
    columns: int
    cores: int
    workers: int
    settle_seconds: float
    settled: list[float]  # the node, from the end of the settle time
    at_once: list[float]  # the node without settle time, from the answer
    cold: list[float]  # the peer, from the answer
    flow: Flow
    cold_per_hour: float
    cold_cpu: float
    costs: Costs
    pacs_cpu: float
    extra: dict[str, Costs] = field(default_factory=dict)  # of other images, by name

    @property
    def other_seconds(self) -> float:
        """Elapsed seconds of all steps of an image but inference."""
        return sum(wall for step, (_, wall) in self.costs.steps.items() if step != INFERENCE)

    @property
    def aims(self) -> list[Aim]:
        """The aims, in the order of the tables."""
        latency = statistics.median(self.cold) / statistics.median(self.settled)
        rate = self.flow.per_hour / self.cold_per_hour
        over = self.costs.median(INFERENCE)[1] / self.costs.median(BARE)[1]
        other = self.other_seconds
        return [
            Aim("times lower median latency than a cold process per study, at least 10", latency,
                latency >= _FASTER),
            Aim("times the studies per hour, at least 3", rate, rate >= _MORE),
            Aim("times the bare forward pass for inference, at most 1.3", over, over <= _OVER_BARE),
            Aim("s for all other steps of an image, below 0.5", other, other < _OTHER_SECONDS),
        ]  # fmt: skip


def markdown(measured: Measured) -> str:
    """Return the tables."""
    parts = [_path(measured), _roles(measured), _steps(measured), _aims(measured)]
    return "\n\n".join(parts) + "\n"


def as_json(measured: Measured) -> str:
    """Return what a capacity model needs."""
    steps = {step: cpu for step, (cpu, _) in measured.costs.steps.items()}
    data = {
        "image": [measured.rows, measured.columns],
        "cores": measured.cores,
        "cpu_seconds_per_study": dict(measured.flow.cpu_by_role),
        "cpu_seconds_per_image_by_step": steps,
        "studies_per_hour": measured.flow.per_hour,
        "latency_seconds": measured.settled,
        "latency_seconds_without_settle_time": measured.at_once,
        "cold": {
            "latency_seconds": measured.cold,
            "studies_per_hour": measured.cold_per_hour,
            "cpu_seconds_per_study": measured.cold_cpu,
        },
    }
    return json.dumps(data, indent=2) + "\n"


def _path(it: Measured) -> str:
    cpu = sum(it.flow.cpu_by_role.values())
    head = (
        f"Images of {it.rows} x {it.columns}, one per study; {it.cores} cores, {it.workers} "
        f"workers; PACS: Orthanc on the same cores. {len(it.settled)}, {len(it.at_once)} and "
        f"{len(it.cold)} studies one by one, then {it.flow.studies} without a pause.\n\n"
    )
    settled = f"node, from the end of the settle time ({it.settle_seconds:g} s)"
    table = [
        ("", "p50", "p95", "studies per hour", "CPU seconds per study"),
        ("---", "--:", "--:", "--:", "--:"),
        (settled, *_spread(it.settled), f"{it.flow.per_hour:,.0f}", f"{cpu:.2f}"),
        ("node, no settle time, from the answer to the image", *_spread(it.at_once), "", ""),
        (
            "cold process per study, from the answer to the image",
            *_spread(it.cold),
            f"{it.cold_per_hour:,.0f}",
            f"{it.cold_cpu:.2f}",
        ),
    ]
    rows = [f"| {' | '.join(cells)} |" for cells in table]
    return head + "\n".join(rows)


def _spread(seconds: list[float]) -> tuple[str, str]:
    p95 = sorted(seconds)[min(len(seconds) - 1, len(seconds) * _PERCENT // 100)]
    return f"{statistics.median(seconds):.2f} s", f"{p95:.2f} s"


def _roles(it: Measured) -> str:
    rows = ["| Process | CPU seconds per study |", "|---|--:|"]
    ordered = sorted(it.flow.cpu_by_role.items(), key=lambda pair: -pair[1])
    rows += [f"| {role} | {seconds:.3f} |" for role, seconds in ordered]
    rows.append(f"| (Orthanc) | {it.pacs_cpu:.3f} |")
    return "\n".join(rows)


def _steps(it: Measured) -> str:
    named = {"phantom": it.costs, **it.extra}
    head = [f"{name}: CPU s | elapsed s" for name in named]
    rows = [
        "| Step of an image | " + " | ".join(head) + " |",
        "|---" + "|--:|--:" * len(named) + "|",
    ]
    for step in (BARE, *it.costs.steps):
        cells = [
            f"{cpu:.3f} | {wall:.3f}" for cpu, wall in (c.median(step) for c in named.values())
        ]
        rows.append(f"| {step} | " + " | ".join(cells) + " |")
    return "\n".join(rows)


def _aims(it: Measured) -> str:
    return "Aims:\n\n" + "\n".join(str(aim) for aim in it.aims)
