"""The contract of the queue: task and queue names; a message carries one job id, no more."""

from typing import Final

from models.states import JobKind

TASKS: Final = {JobKind.ANALYSE: "worker.analyse", JobKind.REPORT: "worker.report"}

QUEUE_STAT: Final = "analyse.stat"
QUEUE_ANALYSE: Final = "analyse"
QUEUE_REPORT: Final = "report"

# The order in which a free worker looks into the queues.
QUEUES: Final = (QUEUE_STAT, QUEUE_ANALYSE, QUEUE_REPORT)


def queue_of(kind: JobKind, *, stat: bool) -> str:
    """Return the queue that a job of this kind and urgency goes to."""
    if kind is JobKind.REPORT:
        return QUEUE_REPORT
    return QUEUE_STAT if stat else QUEUE_ANALYSE
