"""The contract of the queue: task and queue names; a message carries one job id, no more."""

from typing import Final

from models.states import JobKind

TASKS: Final = {
    JobKind.ANALYSE: "worker.analyse",
    JobKind.REPORT: "worker.report",
    JobKind.SHADOW: "worker.shadow",
    JobKind.COMPARE: "worker.compare",
}

QUEUE_STAT: Final = "analyse.stat"
QUEUE_ANALYSE: Final = "analyse"
QUEUE_REPORT: Final = "report"
QUEUE_SHADOW: Final = "shadow"

# The order in which a free worker looks into the queues.
QUEUES: Final = (QUEUE_STAT, QUEUE_ANALYSE, QUEUE_REPORT, QUEUE_SHADOW)
# Which of them a worker looks into, by its setting `worker.serves`.
SERVED: Final = {"all": QUEUES, "analysis": QUEUES[:3], "shadow": QUEUES[3:]}

# What the node may ask every worker: which models it could load.
CONTROL_MODELS: Final = "installed_models"


def queue_of(kind: JobKind, *, stat: bool) -> str:
    """Return the queue that a job of this kind and urgency goes to."""
    if kind in {JobKind.REPORT, JobKind.SHADOW}:
        return QUEUE_REPORT if kind is JobKind.REPORT else QUEUE_SHADOW
    return QUEUE_STAT if stat else QUEUE_ANALYSE
