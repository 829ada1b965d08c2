"""The contract of the queue: task and queue names; a message carries one job id, no more."""

from dataclasses import dataclass
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

# RabbitMQ gives a worker of several queues from each in turn, so there urgency is a priority within
# one queue. Shadows are in another one, for workers that serve nothing else.
QUEUE_JOBS: Final = "jobs"
_PRIORITIES: Final = {QUEUE_STAT: 2, QUEUE_ANALYSE: 1, QUEUE_REPORT: 0}


@dataclass(frozen=True)
class Lane:
    """A queue of the broker, and the highest priority of its messages where it knows any."""

    name: str
    max_priority: int | None = None

    @property
    def arguments(self) -> dict[str, int]:
        """What the broker must be told when the queue is declared, always the same."""
        return {} if self.max_priority is None else {"x-max-priority": self.max_priority}


def lanes(serves: str = "all", *, is_amqp: bool) -> tuple[Lane, ...]:
    """Return the queues that a worker looks into, by its setting `worker.serves`, in its order."""
    if not is_amqp:
        return tuple(Lane(name) for name in SERVED[serves])
    jobs, shadow = Lane(QUEUE_JOBS, max(_PRIORITIES.values())), Lane(QUEUE_SHADOW)
    return {"all": (jobs, shadow), "analysis": (jobs,), "shadow": (shadow,)}[serves]


def place_of(queue: str, *, is_amqp: bool) -> tuple[str, int | None]:
    """Return where the broker has the messages of a queue, and their priority there."""
    if is_amqp and queue in _PRIORITIES:
        return QUEUE_JOBS, _PRIORITIES[queue]
    return queue, None


# What the node may ask every worker: which models it could load.
CONTROL_MODELS: Final = "installed_models"


def queue_of(kind: JobKind, *, stat: bool) -> str:
    """Return the queue that a job of this kind and urgency goes to."""
    if kind in {JobKind.REPORT, JobKind.SHADOW}:
        return QUEUE_REPORT if kind is JobKind.REPORT else QUEUE_SHADOW
    return QUEUE_STAT if stat else QUEUE_ANALYSE
