"""Claiming a job: not while it pauses, whatever message the broker gives out again."""

from datetime import timedelta

import pytest
from rows import add_instance, add_job, publish_again
from sqlalchemy import update

from dicom_node.taking_back import take_back_job
from models.base import utc_now
from models.job import Job
from models.session import Database
from models.states import InstanceState, JobState
from worker.leases import claim


@pytest.fixture
def job_id(database: Database) -> int:
    """A job whose worker died, taken back: it pauses."""
    made = add_job(database, add_instance(database, state=InstanceState.QUEUED))
    assert claim(database, made, 60.0) is not None
    with database.write() as session:
        past = utc_now() - timedelta(seconds=1)
        session.execute(update(Job).values(lease_until=past, published_at=past))
    with database.write() as session:
        assert take_back_job(session, made, 3)
    return made


def _job(database: Database, job_id: int) -> Job:
    with database.read() as session:
        return session.get_one(Job, job_id)


def test_the_message_of_the_dead_worker_does_not_cut_the_pause_short(
    database: Database, job_id: int
) -> None:
    assert claim(database, job_id, 60.0) is None
    row = _job(database, job_id)
    assert (row.state, row.attempts) == (JobState.PENDING, 1)


def test_when_the_pause_is_over_it_may_be_had(database: Database, job_id: int) -> None:
    with database.write() as session:
        session.execute(update(Job).values(not_before=utc_now() - timedelta(seconds=1)))
    assert claim(database, job_id, 60.0) is not None
    assert _job(database, job_id).attempts == 2


def test_the_dispatcher_s_clock_counts_where_ours_is_behind(
    database: Database, job_id: int
) -> None:
    """It has sent the job, so the pause is over."""
    publish_again(database)
    assert _job(database, job_id).not_before > utc_now()
    assert claim(database, job_id, 60.0) is not None
