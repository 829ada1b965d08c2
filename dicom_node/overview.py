"""What an administrator looks at first: what waits, what comes in, who was reached."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, TextClause, case, func, select, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from models.audit import RARE_ACTION, AuditAction, AuditEvent
from models.base import utc_now
from models.delivery import Delivery, Destination
from models.imaging import IN_QUARANTINE, Instance
from models.job import Job
from models.states import DeliveryState, InstanceState, JobKind, JobState

_HOURS: Final = 24
_HOUR: Final = timedelta(hours=1)
_OPEN: Final = (DeliveryState.DUE, DeliveryState.SENDING)


@dataclass(frozen=True)
class Queue:
    """Jobs of one kind that wait, and since when the oldest of them is due."""

    kind: JobKind
    waiting: int
    leased: int
    oldest: datetime | None


@dataclass(frozen=True)
class Hour:
    """What came in one hour, and how much was analysed in it."""

    begins: datetime
    received: int
    analysed: int


@dataclass(frozen=True)
class Overview:
    """How the node does. `oldest_delivery` is the oldest that did not end, wherever it goes to."""

    queues: tuple[Queue, ...]
    expired_leases: int
    open_deliveries: int
    oldest_delivery: datetime | None
    in_quarantine: int
    hours: tuple[Hour, ...]

    @property
    def waiting_jobs(self) -> int:
        """How many jobs wait."""
        return sum(queue.waiting for queue in self.queues)

    @property
    def oldest_job(self) -> datetime | None:
        """Since when the oldest of them is due."""
        return min((queue.oldest for queue in self.queues if queue.oldest), default=None)


def overview(session: Session) -> Overview:
    """Return it, by indexes: what waits is little, and a day is read, not the whole table."""
    now = utc_now()
    is_open = Delivery.state.in_(_OPEN)
    number, oldest = session.execute(
        select(func.count(), func.min(Delivery.created_at)).where(is_open)
    ).one()
    expired = select(func.count()).select_from(Job)
    expired = expired.where(Job.state == JobState.LEASED, Job.lease_until < now)
    # With a range of ids SQLite takes the small index, too.
    in_quarantine = select(func.count()).where(Instance.id > 0, text(IN_QUARANTINE))
    return Overview(
        queues=_queues(session),
        expired_leases=session.scalar(expired) or 0,
        open_deliveries=number,
        oldest_delivery=oldest,
        in_quarantine=session.scalar(in_quarantine) or 0,
        hours=_hours(session, now),
    )


def last_contacts(session: Session) -> dict[str, datetime]:
    """Return when each destination took an object last; reads the whole table of deliveries."""
    query = (
        select(Destination.name, func.max(Delivery.sent_at))
        .join(Delivery, Delivery.destination_id == Destination.id)
        .where(Delivery.sent_at.is_not(None))
        .group_by(Destination.name)
    )
    return {name: at for name, at in session.execute(query) if at is not None}


def _queues(session: Session) -> tuple[Queue, ...]:
    active = (JobState.PENDING, JobState.LEASED)
    query = (
        select(Job.kind, Job.state, func.count(), func.min(Job.not_before))
        .where(Job.state.in_(active))
        .group_by(Job.kind, Job.state)
    )
    found = {(kind, state): (number, at) for kind, state, number, at in session.execute(query)}
    nothing: tuple[int, datetime | None] = (0, None)
    return tuple(
        Queue(
            kind=kind,
            waiting=found.get((kind, JobState.PENDING), nothing)[0],
            leased=found.get((kind, JobState.LEASED), nothing)[0],
            oldest=found.get((kind, JobState.PENDING), nothing)[1],
        )
        for kind in JobKind
    )


def _hours(session: Session, now: datetime) -> tuple[Hour, ...]:
    """Return the last 24 hours by the clock, the running one last."""
    end = now.replace(minute=0, second=0, microsecond=0) + _HOUR
    begins = [end - _HOUR * (_HOURS - number) for number in range(_HOURS)]
    received = _by_hour(session, Instance.received_at, begins)
    analysed = _by_hour(
        session,
        AuditEvent.at,
        begins,
        AuditEvent.action == AuditAction.INSTANCE_ANALYSED,
        AuditEvent.outcome == InstanceState.ANALYSED.value,
        text(RARE_ACTION),
    )
    return tuple(map(Hour, begins, received, analysed))


def _by_hour(
    session: Session,
    column: InstrumentedAttribute[datetime],
    begins: list[datetime],
    *where: ColumnElement[bool] | TextClause,
) -> list[int]:
    def within(begin: datetime) -> Any:  # noqa: ANN401  an SQL expression
        return func.sum(case(((column >= begin) & (column < begin + _HOUR), 1), else_=0))

    query = select(*(within(begin) for begin in begins)).where(column >= begins[0], *where)
    return [number or 0 for number in session.execute(query).one()]
