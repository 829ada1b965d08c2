"""A wall clock that jumps: due times that would wait for hours, leases judged too early.

Due times and leases stand in rows as wall-clock times, for several hosts share them. Forward, a
jump makes all of them due or expired at once; back, what was due in seconds is due in an hour.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from dicom_node.taking_back import LONGEST_PAUSE_SECONDS
from models.base import utc_now
from models.commitment import CommitmentOrder
from models.delivery import Delivery
from models.imaging import Study
from models.job import Job
from models.session import Database
from models.settings import Settings
from models.states import DeliveryState, EventReportState, JobState, State, StudyState
from models.workitem import WorkitemMessage

log = logging.getLogger(__name__)

_SKEW_SECONDS = 60.0  # by which the clocks of two hosts may differ
_JITTER = 1.5  # dicom_node.backoff


@dataclass(frozen=True)
class DueTime:
    """A time in rows of one state, and how far ahead of now it can lie at most.

    What lies further ahead was written before the clock went back, and becomes now plus `renewed`.
    """

    column: InstrumentedAttribute[Any]
    state: State
    longest_seconds: float
    renewed_seconds: float = 0.0

    @property
    def model(self) -> Any:  # noqa: ANN401  a class whose id and state every table here has
        """The table."""
        return self.column.class_


def due_times(settings: Settings) -> list[DueTime]:
    """Return every time that something waits for, with the longest pause the settings make."""
    delivery, lease = settings.delivery, settings.worker.lease_seconds
    job_pause = max(LONGEST_PAUSE_SECONDS, 2.0 * settings.dispatch.max_attempts)
    sending = delivery.lease_seconds + delivery.timeout_seconds * delivery.batch
    retry = delivery.backoff_cap_seconds * _JITTER
    asked = delivery.commitment_delay_seconds + delivery.commitment_timeout_seconds + retry
    # Longer than an answer to a sender takes, or is claimed for.
    reporting = delivery.lease_seconds + delivery.timeout_seconds * 10 + retry
    return [
        DueTime(Job.not_before, JobState.PENDING, job_pause),
        DueTime(Job.published_at, JobState.PENDING, 0.0),
        DueTime(Job.lease_until, JobState.LEASED, lease, lease),
        DueTime(Delivery.next_attempt_at, DeliveryState.DUE, retry),
        DueTime(Delivery.lease_until, DeliveryState.SENDING, sending, sending),
        DueTime(Delivery.commitment_due_at, DeliveryState.SENT, asked),
        DueTime(CommitmentOrder.next_attempt_at, EventReportState.DUE, reporting),
        DueTime(WorkitemMessage.next_attempt_at, EventReportState.DUE, reporting),
        DueTime(Study.last_received_at, StudyState.OPEN, 0.0),
    ]


def mend_due_times(database: Database, settings: Settings) -> int:
    """Bring back to now what lies further ahead than anything can; return how many rows."""
    late = [each for each in due_times(settings) if _any_too_far(database, each)]
    if not late:
        return 0
    with database.write() as session:
        mended = sum(_bring_back(session, each) for each in late)
    log.warning("the clock went back: %d times in rows lay too far ahead, and are now", mended)
    return mended


def _limit(each: DueTime) -> datetime:
    return utc_now() + timedelta(seconds=each.longest_seconds + _SKEW_SECONDS)


def _any_too_far(database: Database, each: DueTime) -> bool:
    model = each.model
    query = select(model.id).where(model.state == each.state, each.column > _limit(each)).limit(1)
    with database.read() as session:
        return session.scalar(query) is not None


def _bring_back(session: Session, each: DueTime) -> int:
    model = each.model
    to = utc_now() + timedelta(seconds=each.renewed_seconds)
    changed = session.execute(
        update(model)
        .where(model.state == each.state, each.column > _limit(each))
        .values({each.column: to})
        .execution_options(synchronize_session=False)
    )
    rowcount: int = getattr(changed, "rowcount", 0)
    return rowcount


class Patience:
    """Says when leases may be judged: not while their owners may be unable to renew them.

    After a gap in which nobody could renew any (the clock jumped forward, the machine slept, the
    database was away) it waits for one lease time, so that the living renew theirs first.
    """

    def __init__(
        self,
        lease_seconds: float,
        wall: Callable[[], datetime] = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lease_seconds = lease_seconds
        self._wall, self._monotonic = wall, monotonic
        self._seen: datetime | None = None
        self._until: float | None = None

    def may_judge(self) -> bool:
        """Return whether an expired lease means a dead owner. Call it at each look."""
        before, self._seen = self._seen, self._wall()
        if self._until is not None:
            if self._monotonic() < self._until:
                return False
            self._until = None
            return True  # once at least between two gaps: slow rounds must not stop it for ever
        gap = (self._seen - before).total_seconds() if before else 0.0
        if gap <= self._lease_seconds / 2:
            return True
        log.warning("%.0f s without a look at the leases; their owners get time to renew", gap)
        self._until = self._monotonic() + self._lease_seconds
        return False
