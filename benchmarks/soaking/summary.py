"""The figures of a soak as text: Markdown tables, and JSON for later."""

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from soaking.traffic import Answer, Diary
from soaking.watch import MIB, Held

_SUCCESS: Final = 0x0000


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p95, p99 and the maximum in seconds; nothing of nothing."""
    if not seconds:
        return {}
    ordered = sorted(seconds)

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return {
        "p50": statistics.median(ordered),
        "p95": at(0.95),
        "p99": at(0.99),
        "max": ordered[-1],
    }


@dataclass(frozen=True)
class Outcome:
    """Everything that was measured; times in seconds, memory in bytes, rates per minute."""

    conditions: dict[str, str]
    minutes: float
    answers: Sequence[Answer]
    diary: Diary
    until_report: Sequence[float]
    unreported: Mapping[str, list[str]]  # what became of the images of each study without SR
    held: Sequence[Held]
    backlog_at_stop: Counter[str]
    backlog_at_end: Counter[str]
    ledger: Sequence[dict[str, Any]]
    ledger_balanced: bool

    @property
    def problems(self) -> list[str]:
        """Return what makes the soak fail."""
        found = [problem for each in self.held if (problem := each.problem)]
        if not self.ledger_balanced:
            found.append("the ledger does not balance")
        if self.unreported:
            found += [
                f"study {uid} was answered and has no SR in the PACS; its images: {images}"
                for uid, images in self.unreported.items()
            ]
        if open_work := +self.backlog_at_end:
            found.append(f"not done after the traffic: {dict(open_work)}")
        return found

    @property
    def stored(self) -> list[Answer]:
        """Return what was answered 0x0000."""
        return [each for each in self.answers if each.status == _SUCCESS]


def as_json(outcome: Outcome) -> str:
    """Return the figures as one JSON object."""
    figures = {
        "conditions": outcome.conditions,
        "minutes": outcome.minutes,
        "offered_per_minute": len(outcome.answers) / outcome.minutes,
        "stored_per_minute": len(outcome.stored) / outcome.minutes,
        "answers": _answers(outcome),
        "store_seconds": percentiles([each.seconds for each in outcome.stored]),
        "report_seconds": percentiles(outcome.until_report),
        "unreported_studies": outcome.unreported,
        "processes": [
            {**vars(each), "growth_percent": round(each.growth_percent, 2)} for each in outcome.held
        ],
        "backlog_at_stop": outcome.backlog_at_stop,
        "backlog_at_end": outcome.backlog_at_end,
        "ledger": outcome.ledger,
        "problems": outcome.problems,
    }
    return json.dumps(figures, indent=2)


def _answers(outcome: Outcome) -> dict[str, int]:
    return dict(
        Counter(
            f"{each.kind} {'no answer' if each.status is None else f'0x{each.status:04X}'}"
            for each in outcome.answers
        )
    )


def as_markdown(outcome: Outcome) -> str:
    """Return the tables for docs/performance.md."""
    lines = [f"{name}: {value}" for name, value in outcome.conditions.items()]
    lines += ["", *_traffic(outcome), "", *_latencies(outcome), "", *_processes(outcome)]
    lines += ["", *_ledger(outcome), ""]
    lines += [f"FAILED: {problem}" for problem in outcome.problems] or ["passed"]
    return "\n".join(lines) + "\n"


def _traffic(outcome: Outcome) -> list[str]:
    minutes, diary = outcome.minutes, outcome.diary
    rows = {
        "objects offered": len(outcome.answers),
        "objects answered 0x0000": len(outcome.stored),
        "C-ECHO": diary.echoes,
        "TCP probes": diary.probes,
        "associations refused": diary.refused_associations,
    }
    table = [f"| {name} | {number} | {number / minutes:.1f} |" for name, number in rows.items()]
    answers = ", ".join(f"{name}: {n}" for name, n in sorted(_answers(outcome).items()))
    return ["| Traffic | in all | per minute |", "|---|--:|--:|", *table, "", answers]


def _latencies(outcome: Outcome) -> list[str]:
    rows = {
        "C-STORE (ms)": [each.seconds * 1000 for each in outcome.stored],
        "last image answered to SR in the PACS (s)": outcome.until_report,
    }
    table = [
        f"| {name} | " + " | ".join(f"{value:.1f}" for value in percentiles(values).values()) + " |"
        for name, values in rows.items()
        if values
    ]
    return ["| Latency | p50 | p95 | p99 | max |", "|---|--:|--:|--:|--:|", *table]


def _processes(outcome: Outcome) -> list[str]:
    table = [
        f"| {each.name} | {each.first_rss / MIB:.1f} | {each.last_rss / MIB:.1f} | "
        f"{each.growth_percent:+.1f} | {each.first_descriptors} | {each.last_descriptors} |"
        for each in outcome.held
    ]
    head = (
        "| Process | RSS after warm-up (MiB) | at the end | growth (%) | files open | at the end |"
    )
    return [head, "|---|--:|--:|--:|--:|--:|", *table]


def _ledger(outcome: Outcome) -> list[str]:
    table = [
        f"| {line['name']} | {line['left']} | {line['right']} | "
        f"{'yes' if line['balanced'] else 'NO'} |"
        for line in outcome.ledger
    ]
    stop, end = dict(outcome.backlog_at_stop), dict(outcome.backlog_at_end)
    return [
        "| Ledger | | must equal | balanced |",
        "|---|--:|--:|---|",
        *table,
        "",
        f"Not done when the traffic stopped: {stop}; at the end: {end}.",
    ]
