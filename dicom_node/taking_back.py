"""Leases that ran out: whoever had the row is dead, or too late. Rows only."""

import logging
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from models.base import advance, utc_now
from models.delivery import Delivery
from models.job import Job
from models.reasons import SENTENCES, Reason
from models.states import DeliveryState, InstanceState, JobState

log = logging.getLogger(__name__)

_BATCH = 200
_FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 300.0


def pause_seconds(attempts: int) -> float:
    """Return how long a job waits whose worker was lost in its attempt number `attempts`.

    Doubling, and long beside the start of a worker: a file that kills its worker gets a small
    share of it, and the others of the queue the rest.
    """
    return min(LONGEST_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2.0 ** min(attempts - 1, 30))


def _ran_out(lease_until: InstrumentedAttribute[object]) -> ColumnElement[bool]:
    """Return the condition that a lease is over; one without an end was never a lease."""
    return or_(lease_until < utc_now(), lease_until.is_(None))


def expired_jobs(session: Session, limit: int = _BATCH) -> Sequence[int]:
    """Return the ids of leased jobs whose lease ran out."""
    return session.scalars(
        select(Job.id)
        .where(Job.state == JobState.LEASED, _ran_out(Job.lease_until))
        .order_by(Job.id)
        .limit(limit)
    ).all()


def take_back_job(session: Session, job_id: int, max_attempts: int) -> bool:
    """Make an expired job pending again, after a pause; end it after its last attempt.

    Returns False when it was finished or renewed in the meantime.
    """
    job = session.get_one(Job, job_id, with_for_update=True)
    if job.state is not JobState.LEASED:
        return False
    if job.lease_until is not None and job.lease_until >= utc_now():
        return False
    if job.attempts < max_attempts:
        log.warning("job %d: lease expired after attempt %d, again", job.id, job.attempts)
        return advance(
            session,
            job,
            JobState.PENDING,
            published_at=None,
            lease_owner=None,
            not_before=utc_now() + timedelta(seconds=pause_seconds(job.attempts)),
        )
    log.error("job %d: lease expired after attempt %d, given up", job.id, job.attempts)
    return _give_up(session, job)


def _give_up(session: Session, job: Job) -> bool:
    reason, instance = Reason.WORKER_LOST, job.instance
    ended = advance(session, job, JobState.DEAD, error=reason.value, finished_at=utc_now())
    if ended and instance is not None and instance.state is InstanceState.QUEUED:
        advance(
            session,
            instance,
            InstanceState.FAILED,
            reason=reason.value,
            detail=SENTENCES[reason],
        )
    return ended


def expired_deliveries(session: Session, limit: int = _BATCH) -> Sequence[int]:
    """Return the ids of deliveries whose sender let its lease run out."""
    return session.scalars(
        select(Delivery.id)
        .where(Delivery.state == DeliveryState.SENDING, _ran_out(Delivery.lease_until))
        .order_by(Delivery.id)
        .limit(limit)
    ).all()


def take_back_delivery(session: Session, delivery_id: int) -> bool:
    """Make an expired delivery due again; an object that did arrive may arrive again.

    Returns False when it was recorded in the meantime.
    """
    delivery = session.get_one(Delivery, delivery_id, with_for_update=True)
    if delivery.state is not DeliveryState.SENDING:
        return False
    if delivery.lease_until is not None and delivery.lease_until >= utc_now():
        return False
    return advance(session, delivery, DeliveryState.DUE, lease_owner=None, lease_until=None)
